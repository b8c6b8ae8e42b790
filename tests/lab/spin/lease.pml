/* One task, SLOTS runs at a time, and everything that may come in between: leases that end while their worker lives,
 * workers that die at any step, repeated messages, cancelling, requeueing, an id that is pruned and used again.
 *
 * A step in `atomic` is one transaction of the storage. A worker is a slot here: one that reserves the task a second
 * time while its first run goes on is two slots. Budgets keep the state space finite, and nothing else does.
 *
 * Planted bugs, each of which must be found:
 *   NOFENCE        a write counts while the task runs, whoever runs it
 *   NAMEFENCE      the fence is the name of the worker; all slots are of one worker
 *   ATTEMPTFENCE   the fence is the number of the attempt, which a release gives back
 *   ROWFENCE       the fence is counted in the row, and begins anew when the id is used again
 *   OVERWRITE      an outcome with the right fence counts although the task has ended
 *   CRASHFREE      a lost lease is not counted as a crash
 *   CANCELLOST     the request to cancel a running task is not written down
 *   CANCELPENDING  a task that was asked to cancel becomes pending when it is retried or released
 *   STARTCANCELLED a worker starts what was asked to cancel before it was reserved
 *   HEARTBEATFREE  a heartbeat renews whatever runs
 *   UNBOUNDED      a run has no time limit (found by the liveness property only)
 */

#ifndef SLOTS
#define SLOTS 2
#endif
#ifndef ATTEMPTS
#define ATTEMPTS 2      /* of the retry policy */
#endif
#ifndef CRASHES
#define CRASHES 2       /* max_crashes */
#endif
#ifndef EXPIRIES
#define EXPIRIES 2      /* leases that end while somebody holds them */
#endif
#ifndef DEATHS
#define DEATHS 1
#endif
#ifndef RELEASES
#define RELEASES 1
#endif
#ifndef RUNS
#define RUNS 1          /* new ones that a task gets: requeued, or pruned and enqueued with the same id */
#endif
#ifndef BEATS
#define BEATS 1         /* heartbeats that a run gets before its time limit */
#endif

mtype = { pending, running, success, failed, cancelled }
mtype = { Succeeded, Failed, Retried, Cancelled, Released, Crashed }

/* -- The row: the columns of sitq_tasks that decide (backends/sqlite/rows.py, Row) -- */
mtype status = pending;
byte fence;             /* 0 until it is reserved */
byte attempt;
byte crashes;
bool worker;            /* whether somebody is named */
bool cancel_requested;
bool leased;            /* due_at is not reached */
byte last_fence;        /* sitq_meta: of the store, not of the row */

/* -- What only the model knows -- */
byte reservation;       /* the number of the newest one */
byte holder = SLOTS;    /* who made it, if he still runs it; else SLOTS */
byte life;              /* the number of this run of the task */
byte starts;            /* of user code, in this run */
byte released;          /* in this run */
byte ends;              /* accepted ends of this run */
bool asked;             /* somebody asked for the end of a running task */
byte left_expiries = EXPIRIES, left_deaths = DEATHS, left_releases = RELEASES;

#define finished (status == success || status == failed || status == cancelled)

/* model.py: the three states that a task never leaves, except by requeue, which does not use this. */
inline put(to) {
    assert(!finished);
    assert(!(to == pending && asked));
    if
    :: to == success || to == failed || to == cancelled -> ends++; assert(ends == 1)
    :: else
    fi;
    status = to
}

/* base.py, reserve: pending, or running and its lease is over. attempt + 1, a new fence; crashes + 1 if it ran. */
inline reserve() {
    assert(ends == 0);
    reservation++; mine_truly = reservation; holder = me;
#ifndef CRASHFREE
    if :: status == running -> crashes++ :: else fi;
#endif
    attempt++; last_fence++;
#if defined(ATTEMPTFENCE)
    fence = attempt;
#elif defined(ROWFENCE)
    fence++;
#else
    fence = last_fence;
#endif
    status = running; worker = true; leased = true;
    mine = fence; seen_attempt = attempt; seen_crashes = crashes; seen_cancel = cancel_requested;
    asked_before = asked; my_life = life
}

#if defined(NOFENCE) || defined(NAMEFENCE)
#define current true
#else
#define current (fence == mine)
#endif
#define is_held (status == running && worker)

/* model.py, leads_to. */
#ifdef CANCELPENDING
#define again pending
#else
#define again (cancel_requested -> cancelled : pending)
#endif

/* base.py, complete: an outcome counts if its fence is current and somebody holds the task; one that was accepted is
 * accepted again and changes nothing; all others are stale. */
inline complete(outcome) {
    if
    :: !current -> skip
#ifdef OVERWRITE
    :: current ->
#else
    :: current && !is_held -> skip
    :: current && is_held ->
#endif
        assert(mine_truly == reservation);
        if :: holder == me -> holder = SLOTS :: else fi;
        if
        :: outcome == Succeeded -> put(success)
        :: outcome == Failed -> put(failed)
        :: outcome == Cancelled -> put(cancelled)
        :: outcome == Retried -> put(again); worker = finished
        :: outcome == Released ->
            attempt--;
            released++;
            put(again); worker = finished
        :: outcome == Crashed -> worker = false; leased = false   /* due now; the next reserve counts it */
        fi
    fi
}

/* What a worker knows dies with it. Its lease is all that is left. */
inline forget() {
    mine = 0; mine_truly = 0; outcome = 0; seen_attempt = 0; seen_crashes = 0; seen_cancel = false;
    asked_before = false; my_life = 0; beats = 0;
    if :: holder == me -> holder = SLOTS :: else fi
}

proctype Slot(byte me) {
    byte mine, mine_truly, my_life, seen_attempt, seen_crashes, beats;
    bool seen_cancel, asked_before;
    mtype outcome;

end_idle:
    do
    :: atomic { status == pending || (status == running && !leased) -> reserve() };
        goto judged
    od;

judged:     /* worker/judge.py, refuse: before any user code */
    if
    :: atomic { left_deaths > 0 -> left_deaths--; forget() }; goto end_idle
#ifndef STARTCANCELLED
    :: atomic { seen_cancel -> outcome = Cancelled; complete(outcome) }; goto told
#endif
    :: atomic { !seen_cancel && seen_crashes >= CRASHES -> outcome = Failed; complete(outcome) }; goto told
#ifdef STARTCANCELLED
    :: atomic { seen_crashes < CRASHES ->
#else
    :: atomic { !seen_cancel && seen_crashes < CRASHES ->
#endif
        assert(!asked_before);
        /* Each start after the first one is a retry, a counted crash or a release. */
        if
        :: my_life == life -> starts++; assert(starts <= ATTEMPTS + CRASHES - 1 + released)
        :: else     /* reserved before the task got a new run */
        fi }
    fi;

runs:       /* user code: it may return, raise, kill its process, hang, or outlive its lease */
    do
    :: atomic { left_deaths > 0 -> left_deaths--; forget() }; goto end_idle
    :: atomic {     /* worker/heartbeat.py; it hears of losses and requests only here */
#ifdef UNBOUNDED
        true ->
#else
        beats < BEATS -> beats++;
#endif
        if
#ifdef HEARTBEATFREE
        :: status == running -> assert(mine_truly == reservation); leased = true
        :: else
#else
        :: current && is_held -> assert(mine_truly == reservation); leased = true; seen_cancel = cancel_requested
        :: else         /* lost: stopped, and what it makes of that is sent all the same */
#endif
        fi }
    :: atomic { outcome = Succeeded; complete(outcome) }; break
    :: atomic { seen_cancel -> outcome = Cancelled; complete(outcome) }; break
    :: atomic {         /* it raised, or its time limit passed: retry.py, decide */
        outcome = (seen_attempt < ATTEMPTS -> Retried : Failed); complete(outcome) }; break
    :: atomic { outcome = Crashed; complete(outcome) }; break      /* its child process died */
    :: atomic {         /* it snoozed, or the worker stops */
        left_releases > 0 -> left_releases--; outcome = Released; complete(outcome) }; break
    od;

told:       /* worker/completer.py: the answer may be lost, so the same may be sent again, at any time */
    if
    :: atomic { forget() }
    :: atomic { complete(outcome); forget() }
    /* Another one under this fence: of code that went on after it was stopped, or had completed itself before. */
    :: atomic { complete(Succeeded); forget() }
    fi;
    goto end_idle
}

/* A lease ends: of somebody who is gone always, and of somebody who lives so and so often. This stands for every pause
 * and every difference of clocks. */
proctype Time() {
end: do
    :: atomic { status == running && leased && holder == SLOTS -> leased = false }
    :: atomic { status == running && leased && holder != SLOTS && left_expiries > 0 -> left_expiries--; leased = false }
    od
}

/* base.py, cancel: once, at any moment. */
proctype Canceller() {
    atomic {
        if
        :: status == pending -> put(cancelled)
        :: status == running -> asked = true;
#ifndef CANCELLOST
            cancel_requested = true
#endif
        :: else
        fi
    }
}

inline new_run() {
    life++; ends = 0; starts = 0; released = 0; asked = false;
    attempt = 0; crashes = 0; worker = false; cancel_requested = false; leased = false; holder = SLOTS
}

/* base.py, requeue (keeps the fence) and prune followed by an enqueue of the same id (a new row). */
proctype People() {
end: do
    :: atomic { (status == failed || status == cancelled) && life < RUNS -> new_run(); status = pending }
    :: atomic { finished && life < RUNS -> new_run(); fence = 0; status = pending }
    od
}

init {
    byte n;
    atomic {
        for (n : 0 .. SLOTS - 1) { run Slot(n) }
        run Time(); run Canceller(); run People()
    }
}

#ifdef LIVE
/* Fairness is checked along runs that go on, so one goes on where all others wait. */
active proctype Idle() { do :: true -> skip od }
/* Every task is terminal in the end, and stays so. */
ltl ends_for_good { <>[] finished }
#endif
