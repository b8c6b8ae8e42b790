"""Bugs in what a store does to tasks: who gets them, which outcomes count, who waits for whom."""

from tests.lab.planted.bug import Bug

MODEL = "tests/lab/model/test_backend_model.py::test_every_history_agrees_with_the_model"
CONFORMANCE = "tests/conformance"

OUTCOMES = (
    Bug(
        "complete-without-the-fence",
        "backends/sqlite/reports.py",
        "if row is None or row.fence != held.fence:",
        "if row is None:",
        (f"{CONFORMANCE}/test_races.py::test_a_late_success_and_a_new_reservation_agree[sqlite]",
         f"{CONFORMANCE}/test_complete.py::test_stale_outcomes_do_not_hold_up_the_others[sqlite]"),
    ),
    Bug(
        "success-without-the-fence",
        "backends/sqlite/reports.py",
        "WHERE id = ?3 AND fence = ?4 AND status = 'running' AND worker IS NOT NULL",
        "WHERE id = ?3 AND ?4 > 0 AND status = 'running' AND worker IS NOT NULL",
        (f"{CONFORMANCE}/test_races.py::test_a_late_success_and_a_new_reservation_agree[sqlite]",),
    ),
    Bug(
        "memory-complete-without-the-fence",
        "backends/memory/backend.py",
        "if task is None or task.fence != outcome.held.fence:",
        "if task is None:",
        (f"{MODEL}[memory-0]",),
    ),
    Bug(
        "heartbeat-extends-a-stale-lease",
        "backends/sqlite/reports.py",
        "and row.fence == one.fence and row.is_held",
        "and row.is_held",
        (f"{CONFORMANCE}/test_heartbeat.py::test_a_lease_that_another_worker_took_is_lost[sqlite]",),
    ),
    Bug(
        "memory-heartbeat-extends-a-stale-lease",
        "backends/memory/backend.py",
        "return task if task and task.fence == held.fence and records.is_held(task) else None",
        "return task if task and records.is_held(task) else None",
        (f"{MODEL}[memory-0]",),
    ),
    Bug(
        "one-fence-for-all",
        "backends/sqlite/reserve.py",
        "SET value = value + 1 WHERE key = 'fence'",
        "SET value = value + (value = 0) WHERE key = 'fence'",
        (f"{CONFORMANCE}/test_reserve.py::test_no_reservation_has_the_fence_of_an_earlier_one[sqlite]",),
    ),
    Bug(
        "an-end-is-overwritten-by-an-outcome",
        "backends/sqlite/reports.py",
        "        if row.is_held:\n            _apply(",
        "        if row.fence:\n            _apply(",
        (f"{CONFORMANCE}/test_complete.py::test_of_two_outcomes_in_a_batch_the_first_wins[sqlite-failed]",),
    ),
    Bug(
        "an-end-is-overwritten-by-a-cancel",
        "backends/sqlite/upkeep.py",
        "if row.status in (Status.WAITING, Status.PENDING)}",
        "if row.status != Status.RUNNING}",
        (f"{CONFORMANCE}/test_cancel.py::test_a_finished_task_stays_as_it_is[sqlite-success]",),
    ),
    Bug(
        "cancel-of-a-running-task-is-forgotten",
        "backends/sqlite/upkeep.py",
        "db.execute(_REQUEST, (json.dumps(running),))",
        "db.execute(_REQUEST, (json.dumps([]),))",
        (f"{CONFORMANCE}/test_cancel.py::test_a_running_task_is_flagged_and_goes_on[sqlite]",),
    ),
    Bug(
        "requeue-carries-the-cancel-over",
        "backends/sqlite/upkeep.py",
        "crashes = 0, cancel_requested = 0, worker = NULL",
        "crashes = 0, worker = NULL",
        (f"{CONFORMANCE}/test_requeue.py::test_the_request_to_cancel_is_not_carried_over[sqlite]",),
    ),
    Bug(
        "requeue-takes-the-fence-back",
        "backends/memory/records.py",
        "        attempt=0,\n        crashes=0,\n        worker=None,",
        "        attempt=0,\n        fence=0,\n        crashes=0,\n        worker=None,",
        (f"{CONFORMANCE}/test_requeue.py::test_a_new_run[memory-failed]",
         f"{CONFORMANCE}/test_requeue.py::test_a_requeued_holder_is_not_replaced[memory]",),
    ),
    Bug(
        "a-release-counts-as-an-attempt",
        "backends/sqlite/reports.py",
        "db.execute(_GIVE_BACK, (due_at, isinstance(outcome, Released), outcome.error, row.seq))",
        "db.execute(_GIVE_BACK, (due_at, False, outcome.error, row.seq))",
        (f"{CONFORMANCE}/test_complete.py::test_released_gives_the_attempt_back_but_not_the_fence[sqlite]",),
    ),
    Bug(
        "a-retry-does-not-wait",
        "backends/sqlite/reports.py",
        "due_at = now if outcome.at is None else micros(outcome.at)",
        "due_at = now",
        (f"{CONFORMANCE}/test_complete.py::test_retried[sqlite]",),
    ),
    Bug(
        "a-note-after-the-end",
        "backends/sqlite/notes.py",
        "WHERE id IN (SELECT value FROM json_each(?)) AND status = 'running' AND worker IS NOT NULL",
        "WHERE id IN (SELECT value FROM json_each(?))",
        (f"{CONFORMANCE}/test_notes.py::test_notes_after_the_run_are_dropped",),
    ),
)  # fmt: skip

RESERVATIONS = (
    Bug(
        "a-crash-is-not-counted",
        "backends/sqlite/reserve.py",
        "crashes = crashes + (status = 'running')",
        "crashes = crashes + 0",
        (f"{MODEL}[sqlite-in-memory-0]",),
    ),
    Bug(
        "a-lost-lease-is-not-taken-over",
        "backends/sqlite/reserve.py",
        'AND due_at <= ?2 ORDER BY due_at, seq LIMIT ?3)"',
        "AND due_at <= ?2 AND status = 'pending' ORDER BY due_at, seq LIMIT ?3)\"",
        (f"{MODEL}[sqlite-0]",),
    ),
    Bug(
        "a-paused-queue-is-served",
        "backends/sqlite/reserve.py",
        "[queue for queue in queues if queue not in paused]",
        "[queue for queue in queues if queue]",
        (f"{CONFORMANCE}/test_pause.py::test_a_paused_queue_is_passed_over[sqlite]",),
    ),
    Bug(
        "the-worst-priority-never-runs",
        "backends/sqlite/reserve.py",
        "range(MIN_PRIORITY, MAX_PRIORITY + 1)",
        "range(MIN_PRIORITY, MAX_PRIORITY)",
        (f"{CONFORMANCE}/test_reserve.py::test_every_priority_from_best_to_worst[sqlite]",),
    ),
    Bug(
        "priority-is-ignored-over-queues",
        "backends/sqlite/reserve.py",
        "    turns.sort()\n",
        "",
        (f"{CONFORMANCE}/test_reserve.py::test_one_order_over_several_queues[sqlite-reversed]",),
    ),
    Bug(
        "more-than-the-limit-is-reserved",
        "backends/sqlite/reserve.py",
        "taken = turns[: wanted.limit]",
        "taken = turns",
        (f"{CONFORMANCE}/test_reserve.py::test_ids_obey_the_limit_and_the_queues[sqlite]",),
    ),
    Bug(
        "one-more-than-the-concurrency",
        "backends/sqlite/limits.py",
        "return self._running[line.key] >= line.number",
        "return self._running[line.key] > line.number",
        (f"{CONFORMANCE}/test_concurrency.py::test_one_call_hands_out_no_more_than_may_run[sqlite]",),
    ),
    Bug(
        "the-end-of-a-run-lets-nobody-in",
        "backends/sqlite/reports.py",
        "    limits.end(db, limited, rings)\n",
        "",
        (f"{CONFORMANCE}/test_concurrency.py::test_whatever_ends_the_run_lets_the_next_in",),
    ),
    Bug(
        "the-rate-is-ignored",
        "backends/sqlite/limits.py",
        "line = None if rate is None else self._closed_rate(rate)",
        "line = None",
        (f"{CONFORMANCE}/test_rate.py::test_one_call_starts_no_more_than_the_count[sqlite]",),
    ),
)

KEYS_AND_EDGES = (
    Bug(
        "the-same-id-again-is-a-new-task",
        "backends/sqlite/enqueue.py",
        '" ON CONFLICT (id) DO NOTHING"',
        "\" ON CONFLICT (id) DO UPDATE SET status = 'pending', due_at = excluded.due_at\"",
        (f"{CONFORMANCE}/test_enqueue.py::test_a_finished_task_is_not_started_again_by_its_id",),
    ),
    Bug(
        "a-unique-key-is-not-asked-for",
        "backends/sqlite/enqueue.py",
        "holder = None if task.unique is None else checked(unique.holder)(db, task.unique.key, now)",
        "holder = None",
        (f"{CONFORMANCE}/test_unique.py::test_two_in_one_batch[sqlite]",),
    ),
    Bug(
        "a-unique-key-is-not-given-back",
        "backends/sqlite/schema.py",
        "WHEN 'end' THEN status IN ('waiting', 'pending', 'running')",
        "WHEN 'end' THEN status IN ('waiting', 'pending', 'running', 'failed')",
        (f"{CONFORMANCE}/test_unique.py::test_until_end_each_end_frees_it[sqlite-failed]",),
    ),
    Bug(
        "a-unique-key-outlives-its-instant",
        "backends/sqlite/unique.py",
        "if found.until == _INSTANT and found.bound is not None and found.bound <= now:",
        "if found.until == _INSTANT and found.bound is not None and found.bound < now:",
        (f"{CONFORMANCE}/test_unique.py::test_until_an_instant_to_the_microsecond[sqlite]",),
    ),
    Bug(
        "one-more-than-max-pending",
        "backends/sqlite/capacity.py",
        "    return bool(held_up + pending > most)",
        "    return bool(held_up + pending > most + 1)",
        (f"{CONFORMANCE}/test_max_pending.py::test_up_to_the_limit[sqlite]",),
    ),
    Bug(
        "the-first-parent-releases",
        "backends/sqlite/edges.py",
        "[child for child in children if child.holds is None]",
        "[child for child in children if child.holds != REFUSED]",
        (f"{CONFORMANCE}/test_edges.py::test_the_last_parent_releases[sqlite]",),
    ),
    Bug(
        "a-child-is-released-twice",
        "backends/sqlite/edges.py",
        "WHERE t.status = 'waiting' AND t.seq IN (",
        "WHERE t.seq IN (",
        (f"{MODEL}[sqlite-1]",),
    ),
    Bug(
        "memory-the-first-parent-releases",
        "backends/memory/edges.py",
        "return bool(self._unfinished.get(child))",
        "return len(self._unfinished.get(child, ())) > 1",
        (f"{CONFORMANCE}/test_edges.py::test_the_last_parent_releases[memory]",),
    ),
    Bug(
        "a-failed-parent-is-as-good-as-any",
        "backends/memory/edges.py",
        "elif parent.status not in self._accepts[child][parent.id]:",
        "elif parent.status is Status.CANCELLED:",
        (f"{CONFORMANCE}/test_edges.py::test_a_failure_cancels_the_subtree[memory-failed]",),
    ),
    Bug(
        "prune-takes-what-is-alive",
        "backends/sqlite/upkeep.py",
        "AND status IN ('success', 'failed', 'cancelled') AND NOT",
        "AND NOT",
        (f"{CONFORMANCE}/test_prune.py::test_by_id_what_is_not_over_is_kept[sqlite]",),
    ),
    Bug(
        "prune-does-not-look-at-the-time",
        "backends/sqlite/upkeep.py",
        "FROM sitq_tasks WHERE expires_at <= ?1 LIMIT ?2",
        "FROM sitq_tasks WHERE expires_at <= ?1 + 1 LIMIT ?2",
        (f"{CONFORMANCE}/test_prune.py::test_kept_for_its_time_after_it_finished[sqlite-success]",),
    ),
    Bug(
        "a-result-is-kept-for-good",
        "backends/sqlite/reports.py",
        "expires_at = ?1 + result_ttl, result = ?2",
        "expires_at = NULL, result = ?2",
        (f"{CONFORMANCE}/test_prune.py::test_kept_for_its_time_after_it_finished[sqlite-success]",),
    ),
)

STORE = (*OUTCOMES, *RESERVATIONS, *KEYS_AND_EDGES)
