/* A child that joins two parents, and a grandchild of it: parents that end in any state, in any order, and get new runs,
 * while the children are enqueued, retried and requeued. Each is released exactly once for each time that it waits, and
 * none waits for nothing.
 *
 * A step in `atomic` is one transaction (backends/sqlite/edges.py; backends/memory does the same under its lock).
 *
 * Planted bugs, each of which must be found:
 *   COUNTER     the join counts the ends of parents instead of looking at them; one that ends twice counts twice
 *   SPLIT       enqueue looks at the parents in one transaction and stores the edges in another one
 *   NOREOPEN    a parent that gets a new run does not count as unfinished again
 *   NOCASCADE   a child that is cancelled with its parent does not cancel its own children
 *   ANYEND      a parent releases its children whatever it ended as
 *   NORELEASE   whoever fails or is cancelled tells nobody (lost release)
 */

#define TASKS 4
#define CHILD 2         /* of 0 and 1 */
#define GRANDCHILD 3    /* of 1 and 2 */
#ifndef RUNS
#define RUNS 3          /* new runs and retries, of all tasks together */
#endif

mtype = { absent, waiting, pending, success, failed, cancelled }

mtype status[TASKS] = absent;
/* holds[edge]: 1 while the parent has not finished, 2 when it ended as the edge does not accept, 0 when it is met. */
byte holds[4];
bool any[4];            /* the edge accepts every end, and not only success */
bool linked[TASKS];     /* its edges are stored */
byte left_runs = RUNS;
#ifdef COUNTER
byte missing[TASKS];
#endif

#define finished(t) (status[t] == success || status[t] == failed || status[t] == cancelled)
/* Edges 0 and 1 lead to CHILD from 0 and 1; edges 2 and 3 to GRANDCHILD from 1 and 2. */
#define parent(e) (e == 0 -> 0 : (e == 3 -> 2 : 1))
#define child(e) (e < 2 -> CHILD : GRANDCHILD)
#define first(t) (t == CHILD -> 0 : 2)

/* edges.py, _hold */
#define hold(e) (!finished(parent(e)) -> 1 : ((any[e] || status[parent(e)] == success) -> 0 : 2))
#define refused(t) (holds[first(t)] == 2 || holds[first(t) + 1] == 2)
#define open(t) (holds[first(t)] == 1 || holds[first(t) + 1] == 1)
/* What the parents are, whatever the edges say. */
#define truly_open(t) (!finished(parent(first(t))) || !finished(parent(first(t) + 1)))
#define truly_refused(t) (hold(first(t)) == 2 || hold(first(t) + 1) == 2)

/* A task that waited, or is to wait no longer, may start: here is what is promised of that moment. */
inline release(t) {
    assert(!truly_open(t) && !truly_refused(t));
    status[t] = pending
}

/* Whoever waits has somebody to wait for: holds after each transaction. */
#define lost(t) (status[t] == waiting && linked[t] && (!truly_open(t) || truly_refused(t)))
inline settled() { assert(!lost(CHILD) && !lost(GRANDCHILD)) }

/* edges.py, end: settle the edges of who ended, then release or cancel who waited. */
inline settle(t) {
    e = 0;
    do
    :: e < 4 ->
        if
        :: parent(e) == t && linked[child(e)] ->
#ifdef ANYEND
            holds[e] = 0;
#else
            holds[e] = ((any[e] || status[t] == success) -> 0 : 2);
#endif
#ifdef COUNTER
            if :: missing[child(e)] > 0 -> missing[child(e)]-- :: else fi
#endif
        :: else
        fi;
        e++
    :: else -> break
    od
}

#ifdef COUNTER
#define may_go(t) (missing[t] == 0)
#else
#define may_go(t) (!open(t))
#endif

inline follow(t) {
    if
    :: status[t] == waiting && linked[t] && refused(t) -> status[t] = cancelled; again = true
    :: status[t] == waiting && linked[t] && !refused(t) && may_go(t) -> release(t)
    :: else
    fi
}

inline end(t, to) {
    assert(!finished(t));
    status[t] = to;
#ifdef NORELEASE
    if
    :: to != success
    :: to == success ->
#endif
    settle(t);
    again = false;
    if :: t < CHILD -> follow(CHILD) :: else fi;
#ifndef NOCASCADE
    if :: again -> settle(CHILD) :: else fi;
#endif
    if :: t != GRANDCHILD -> follow(GRANDCHILD) :: else fi
#ifdef NORELEASE
    fi
#endif
    ;
    again = false; e = 0;
    settled()
}

/* edges.py, place: what its parents make of a new task. */
inline place(t) {
    to = (hold(first(t)) == 2 || hold(first(t) + 1) == 2 -> cancelled :
         (hold(first(t)) == 1 || hold(first(t) + 1) == 1 -> waiting : pending));
    holds[first(t)] = hold(first(t)); holds[first(t) + 1] = hold(first(t) + 1);
#ifdef COUNTER
    missing[t] = (holds[first(t)] == 1 -> 1 : 0) + (holds[first(t) + 1] == 1 -> 1 : 0)
#endif
}
/* edges.py, store */
inline store(t) {
    linked[t] = true;
    if
    :: to == pending -> release(t)
    :: else -> status[t] = to
    fi;
    to = 0;
    settled()
}

/* Enqueues the child and then the grandchild, whatever became of their parents by then; an id is enqueued once. */
proctype Producer() {
    mtype to;
#ifdef SPLIT
    atomic { place(CHILD) };
    atomic { store(CHILD) };
#else
    atomic { place(CHILD); store(CHILD) };
#endif
    atomic { place(GRANDCHILD); store(GRANDCHILD) }
}

/* Whatever happens to one task: a worker ends it or gives it back, people cancel and requeue it. */
proctype Life(byte t) {
    byte e;
    bool again;
end_life:
    do
    :: atomic { status[t] == pending -> end(t, success) }
    :: atomic { status[t] == pending -> end(t, failed) }
    :: atomic { (status[t] == pending || status[t] == waiting && linked[t]) -> end(t, cancelled) }
    /* reports.py, _apply: retried or released while a parent has not finished, it waits. */
    :: atomic { status[t] == pending && t >= CHILD && left_runs > 0 && open(t) ->
        left_runs--; status[t] = waiting;
#ifdef COUNTER
        missing[t] = (holds[first(t)] == 1 -> 1 : 0) + (holds[first(t) + 1] == 1 -> 1 : 0);
#endif
        settled() }
    /* upkeep.py, requeue: not if a parent ended as the edge does not accept. */
    :: atomic { (status[t] == failed || status[t] == cancelled) && left_runs > 0 && (t < CHILD || !refused(t)) ->
        left_runs--;
#ifndef NOREOPEN
        e = 0;
        do
        :: e < 4 ->
            if :: parent(e) == t && linked[child(e)] -> holds[e] = 1 :: else fi;
            e++
        :: else -> break
        od;
        e = 0;
#endif
        if
        :: t >= CHILD && open(t) -> status[t] = waiting
#ifdef COUNTER
            ; missing[t] = (holds[first(t)] == 1 -> 1 : 0) + (holds[first(t) + 1] == 1 -> 1 : 0)
#endif
        :: t >= CHILD && !open(t) -> release(t)
        :: t < CHILD -> status[t] = pending
        fi;
        settled() }
    od
}

init {
    byte n;
    atomic {
        status[0] = pending; status[1] = pending;
        for (n : 0 .. 3) { if :: any[n] = true :: any[n] = false fi }
        for (n : 0 .. TASKS - 1) { run Life(n) }
        run Producer()
    }
}

#ifdef LIVE
/* Fairness is checked along runs that go on, so one goes on where all others wait. */
active proctype Idle() { do :: true -> skip od }
/* Nobody waits for ever: every task that is stored ends. */
ltl all_end { <>[] (finished(0) && finished(1) && finished(CHILD) && finished(GRANDCHILD)) }
#endif
