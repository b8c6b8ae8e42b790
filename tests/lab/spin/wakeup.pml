/* A worker that sleeps and work that comes: nothing that is due is left for ever.
 *
 * backends/base.py, Signal and Bells; worker/fetcher.py: listen, look, wait for a ring or a time. The ring is an event in
 * the same process, and a datagram between processes, which may be lost (backends/sqlite/doorbell.py). A sender reads
 * who listens after his commit. So LOSSY stands for other processes, and without it is one process.
 *
 *   (nothing)               rings that may be lost, and the bound: holds
 *   RELIABLE                also without the bound: holds. The latch alone loses nothing
 *
 * Planted bugs, each of which must be found:
 *   NOBOUND                 the worker relies on rings that may be lost
 *   RELIABLE LOOKFIRST      it looks, then listens, then waits
 *   RELIABLE RESETLATE      it takes the latch back after the look, and with it what rang during the look
 *   RELIABLE RINGFIRST      the sender rings before he commits
 */

#if defined(RELIABLE) && !defined(NOBOUND)
#define NOBOUND
#endif

#ifndef TASKS
#define TASKS 3
#endif
#ifndef WORKERS
#define WORKERS 2
#endif

byte due;               /* committed, and nobody has taken it */
byte sent;
bool listens[WORKERS];
bool rung[WORKERS];     /* the latch of each */

inline ring_all() {
    n = 0;
    do
    :: n < WORKERS ->
        if
        :: listens[n] -> rung[n] = true
#ifndef RELIABLE
        :: listens[n]       /* lost on the way */
#endif
        :: !listens[n]
        fi;
        n++
    :: else -> n = 0; break
    od
}

proctype Sender() {
    byte n;
    do
    :: sent < TASKS ->
        sent++;
#ifdef RINGFIRST
        atomic { ring_all() };
        due++
#else
        due++;                      /* the commit */
        atomic { ring_all() }       /* and only then */
#endif
    :: else -> break
    od
}

proctype Worker(byte me) {
    bool nothing;
#ifndef LOOKFIRST
    listens[me] = true;
#endif
end_sleep:
    do
    :: true ->
        /* The look: one transaction. */
        atomic {
            if
            :: due > 0 -> due--; nothing = false
            :: else -> nothing = true
            fi
        };
        if
        :: nothing ->
#ifdef LOOKFIRST
            listens[me] = true;
#endif
#ifdef RESETLATE
            rung[me] = false;
#endif
            /* The wait. The latch is reset before the next look. */
            if
            :: atomic { rung[me] -> rung[me] = false }
#ifndef NOBOUND
            :: true                 /* poll_interval has passed */
#endif
            fi;
#ifdef LOOKFIRST
            listens[me] = false
#endif
        :: else
        fi
    od
}

init {
    byte n;
    atomic {
        run Sender();
        for (n : 0 .. WORKERS - 1) { run Worker(n) }
    }
}

/* Fairness is checked along runs that go on, so one goes on where all others wait. */
active proctype Idle() { do :: true -> skip od }

/* What is sent is taken. */
ltl all_taken { <>[] (sent == TASKS && due == 0) }
