"""Bugs in how a SQLite file is written: transactions, locks, processes."""

from tests.lab.planted.bug import Bug

LANE = "tests/unit/test_lane.py"
CONTRACT = "tests/unit/test_lane_contract.py"
GUARDS = "tests/unit/test_guards.py"

TRANSACTIONS = (
    Bug(
        "a-transaction-begins-without-its-lock",
        "backends/sqlite/lane.py",
        'db.execute("BEGIN IMMEDIATE")',
        'db.execute("BEGIN")',
        (f"{CONTRACT}::test_a_busy_file_is_waited_for_once_and_not_once_a_caller",
         f"{LANE}::test_a_foreign_transaction_makes_a_timeout_and_nothing_is_written"),
    ),
    Bug(
        "an-answer-before-the-commit",
        "backends/sqlite/lane.py",
        "        try:\n            commit(db)",
        "        answer(settled)\n        try:\n            commit(db)",
        (f"{LANE}::test_a_full_disk_is_known_to_have_taken_nothing",),
    ),
    Bug(
        "a-commit-that-failed-is-a-success",
        "backends/sqlite/lane.py",
        "return [(job.future, None, commit_unknown(error.reason)) for job in group]",
        "return error.settled",
        (f"{LANE}::test_a_commit_that_fails_again_is_unknown_to_everybody_in_it",),
    ),
    Bug(
        "a-repeated-commit-does-it-twice",
        "backends/sqlite/lane.py",
        "return answer if self.landed is not None and self.landed(db, answer) else self.run(db)",
        "return self.run(db)",
        (f"{LANE}::test_a_reserve_whose_commit_fails_hands_out_each_task_once",
         f"{CONTRACT}::test_an_answer_that_a_second_run_would_not_give_is_kept_if_the_first_one_took_place"),
    ),
    Bug(
        "a-storage-error-is-swallowed",
        "backends/sqlite/lane.py",
        "                return [(job.future, None, translated(error)) for job in group]",
        "                return [(job.future, None, None) for job in group]",
        (f"{LANE}::test_one_bad_operation_fails_alone",),
    ),
    Bug(
        "what-failed-is-not-rolled-back",
        "backends/sqlite/lane.py",
        'self._db.execute("ROLLBACK")',
        'self._db.execute("COMMIT")',
        (f"{LANE}::test_a_bad_operation_leaves_no_half_of_itself",),
    ),
    Bug(
        "what-is-acknowledged-is-not-synced",
        "backends/sqlite/lane.py",
        "wanted = wanted and self._durable",
        "wanted = False",
        (f"{CONTRACT}::test_what_is_acknowledged_is_synced_and_a_reservation_is_not",),
    ),
    Bug(
        "a-fork-goes-unnoticed",
        "backends/sqlite/lane.py",
        "        if os.getpid() != self._pid:\n            raise BackendConnectionError(",
        "        if self._pid < 0:\n            raise BackendConnectionError(",
        (f"{GUARDS}::test_a_forked_child_is_refused_before_it_waits_for_a_thread_that_is_not_there",),
    ),
    Bug(
        "a-child-keeps-the-lock-of-its-parent",
        "backends/sqlite/files.py",
        "    os.register_at_fork(after_in_child=_close_in_child)",
        "    pass",
        ("tests/unit/test_write_lock.py::test_a_forked_child_does_not_keep_the_lock_of_a_parent_that_died",),
    ),
    Bug(
        "everybody-may-read-the-file",
        "backends/sqlite/files.py",
        "os.O_CREAT | os.O_EXCL, 0o600",
        "os.O_CREAT | os.O_EXCL, 0o644",
        ("tests/unit/test_files.py::test_the_files_are_readable_by_their_owner_alone",),
    ),
    Bug(
        "a-migration-without-its-lock",
        "backends/sqlite/schema.py",
        'db.execute("BEGIN IMMEDIATE")',
        'db.execute("BEGIN")',
        (f"{GUARDS}::test_nobody_else_can_write_while_a_migration_looks_at_the_version",),
    ),
    Bug(
        "a-migration-does-not-look-again",
        "backends/sqlite/schema.py",
        "version = _version(db)  # again, now that nobody else can change it",
        "version = 0",
        ("tests/unit/test_schema.py::test_a_newer_schema_is_refused_and_left_as_it_is",),
    ),
    Bug(
        "a-connection-stays-open",
        "backends/sqlite/lane.py",
        "        self._db.close()  # aiosqlite closes the first one, which may have been replaced",
        "        pass",
        (f"{LANE}::test_the_handle_is_closed_and_opened_anew",),
    ),
)  # fmt: skip
