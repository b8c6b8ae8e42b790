/* Several workers turn the ticks of one schedule into tasks; none leads, and any may die at any step.
 *
 * worker/ticker.py, run_once: read the documents, make a task for each tick that is due, note the newest as settled.
 * A step in `atomic` is one transaction. What makes a tick happen once is the id of its task, name and instant, as long
 * as that task is kept: schedules.py, MIN_RESULT_TTL. So no task is pruned here while a worker is within a round.
 *
 * Planted bugs, each of which must be found:
 *   RANDOMID       a tick gets a new id each time
 *   NOTEFIRST      the tick is settled before its task is made
 *   PRUNEEARLY     the task of a tick may be gone while another worker still makes it
 *   LOSTPAUSE      what was paused counts as missed when it goes on
 *   CACHED         a worker that knows the next tick does not look whether the schedule has changed
 */

#ifndef TICKERS
#define TICKERS 2
#endif
#ifndef INSTANTS
#define INSTANTS 3
#endif
#ifndef DEATHS
#define DEATHS 2
#endif

byte now;                       /* instants 1 .. INSTANTS are those of the schedule */
/* The documents: schedule-last/<name>, schedule-paused/<name>. */
byte last;
bool paused;
byte paused_at;                 /* when that was written; settled is the later one of both */
bool stored[INSTANTS + 1];      /* the task of the tick is there */
/* What only the model knows. */
byte fired[INSTANTS + 1];       /* how often a task was made for it */
bool excused[INSTANTS + 1];     /* it came while the schedule was paused */
bool dropped[INSTANTS + 1];     /* nobody had made it when the schedule was paused: it may be made, or not */
byte left_deaths = DEATHS;
byte rounds;                    /* workers within a round */

#define settled (last > paused_at -> last : paused_at)

proctype Time() {
    do
    :: atomic { now < INSTANTS -> now++; excused[now] = paused }
    :: now == INSTANTS -> break
    od
}

proctype Ticker() {
    byte from, to, tick;
#ifdef CACHED
    byte next;
#endif
end_idle:
    do
    :: atomic {                 /* load_schedules: all documents as they stood at one moment */
#ifdef CACHED
        (next == 0 && settled < now && !paused) || (next > 0 && next <= now) ->
        from = (next > 0 -> next - 1 : settled); next = now + 1;
#else
        settled < now && !paused -> from = settled;
#endif
        to = now; rounds++; tick = from + 1 };
#ifdef NOTEFIRST
        atomic { last = to };
#endif
        do
        :: atomic { left_deaths > 0 -> left_deaths--; rounds--; from = 0; to = 0; tick = 0 }; goto end_idle
        :: atomic { tick <= to ->       /* enqueue: a task whose id is there is left as it is */
#ifndef RANDOMID
            if
            :: stored[tick] -> skip
            :: else ->
#endif
                stored[tick] = true; fired[tick]++;
                assert(fired[tick] == 1);
                /* One that came while it was paused does not run when it goes on. */
                assert(!excused[tick])
#ifndef RANDOMID
            fi
#endif
            ; tick++ }
        :: tick > to -> break
        od;
        atomic {                        /* save_last: whoever is late may write an older one */
#ifndef NOTEFIRST
            last = to;
#endif
            rounds--; from = 0; to = 0; tick = 0 }
    od
}

/* schedules.py, set_schedule_paused: once each. */
proctype People() {
    byte n;
    atomic {
        paused = true; paused_at = now;
        for (n : 1 .. INSTANTS) { if :: n <= now -> dropped[n] = true :: else fi }
        n = 0
    };
    atomic {
        paused = false;
#ifndef LOSTPAUSE
        paused_at = now
#endif
    }
}

/* prune: a task that was made and has ended. */
proctype Pruner() {
end_idle:
    do
#ifdef PRUNEEARLY
    :: atomic { stored[1] -> stored[1] = false; break }
#else
    :: atomic { stored[1] && rounds == 0 && settled >= 1 -> stored[1] = false; break }
#endif
    od
}

init {
    byte n;
    atomic {
        for (n : 1 .. TICKERS) { run Ticker() }
        run Time(); run People(); run Pruner()
    }
}

#define done(t) (fired[t] == 1 || excused[t] || dropped[t])
#ifdef LIVE
/* Fairness is checked along runs that go on, so one goes on where all others wait. */
active proctype Idle() { do :: true -> skip od }
ltl all_fire { <>[] (now == INSTANTS && !paused && done(1) && done(2) && done(3)) }
#endif
