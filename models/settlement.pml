/* Settlement of one partition, as streams/core.py and streams/recovery.py do it, and one sink. docs/protocols.md explains it.
 *
 * Three events wait in the input. Workers in two slots settle them in Kafka transactions that hold journal, state and input
 * offset. One crash (at any step; the process comes back or never does), one zombie (thrown out of the group, or replaced in its
 * own slot, it goes on later), one commit whose answer is lost (its request may still arrive much later), and one insert of
 * the sink with unknown outcome. Every process may stand still for any time between any two steps.
 *
 * Faulty variants, each of which spin must find:
 *   UNFENCED       no Kafka transactions, repeats carry their id; with LAST_ROW recovery is wrong, with the highest offset right
 *   LAST_ROW       recovery takes the last state row, not the one of the highest offset
 *   REUSE          after an unknown commit the producer goes on as if nothing had happened
 *   BLIND          the sink inserts again after an unknown outcome, without read-back
 *   LATE_INSERT    the store takes inserts of a sink that was replaced
 *   OFFSETS_FIRST  the group's offset is committed before the outputs, and counts at a take-over
 *   STOP_FOR_GOOD  a take-over that was itself overtaken stops the partition in that worker for good
 */
#define EVENTS    3
#ifndef CRASHES
#define CRASHES   1
#endif
#ifndef ZOMBIES
#define ZOMBIES   1
#endif
#ifndef LOST
#define LOST      1
#endif
#ifndef SINK_FAULTS
#define SINK_FAULTS 1
#endif
#define WORKERS   3           /* worker 2 is the replacement of worker 0 in slot 0 */
#define NOBODY    WORKERS
#define ROWS_MAX  9
#define SLOT(p)   ((p) == 1)

#define OPEN      1
#define COMMITTED 2

#define JOURNAL   1           /* which topics still wait for their commit marker */
#define STATE     2
#define OFFSETS   4

#define REFUSED   2           /* answers; COMMITTED is 2 too, but lives elsewhere */
#define DONE      1

/* Each event adds its own digit in base 4, so a lost, a doubled and a wrong effect all show in the sum: 0, 1, 5, 21. */
#define WEIGHT(e) (1 << (2 * (e)))
#define SUM(n)    (((1 << (2 * (n))) - 1) / 3)

typedef Outcome { byte status; byte by; byte event };
typedef Row { byte status; byte by; byte next; byte sum };

/* The broker. */
Outcome journal[ROWS_MAX];
byte journal_end;
Row rows[ROWS_MAX];
byte rows_end;
byte group_offset;
byte offsets_pending[WORKERS];
bool valid[WORKERS];          /* its producer has the newest epoch of its transactional id */
byte user[2];                 /* who initialised a slot last */
bool open[WORKERS];           /* has an open Kafka transaction */
byte markers[WORKERS];        /* committed, and these topics have no marker yet */
bool end_request[WORKERS];    /* a commit request on its way, of the newest epoch */
byte answer[WORKERS];
byte rows_mark[WORKERS];      /* up to where a take-over reads */
byte journal_mark[WORKERS];
bool asks[WORKERS];           /* still listens for the answer */
byte owner = NOBODY;          /* of the partition, in the consumer group */

/* Misfortunes. */
byte crashes = CRASHES;
byte zombies = ZOMBIES;
byte lost_answers = LOST;
byte sink_faults = SINK_FAULTS;
bool killed[WORKERS];
bool suspect[WORKERS];        /* the broker may take it for dead */
bool never_back;
bool replaced;                /* slot 0 was given to worker 2 */

/* The store of the sink. */
byte store[EVENTS];           /* rows of each event */
byte store_place;             /* journal offset after the last row */
byte store_next;              /* event after the last row */
byte insert_event;
byte insert_place;
bool inserting;               /* an insert is on its way */
byte sink_place;              /* up to where it has read the journal */

#ifdef UNFENCED
#define EPOCH_OK(p)    true
#define GROUP_OK(p)    true
#define APPEND_STATUS  COMMITTED
#define APPEND_BY(p)   0
#else
#define EPOCH_OK(p)    (valid[p])
#define GROUP_OK(p)    (owner == (p))               /* the generation of whoever was thrown out is old */
#define APPEND_STATUS  OPEN
#define APPEND_BY(p)   p
#endif

/* What a reader under read_committed sees: everything before the first open row. */
inline check_journal() {
    i_ = 0; n_ = 0;
    do
    :: i_ == journal_end || journal[i_].status == OPEN -> break
    :: else ->
        if
        :: journal[i_].status == COMMITTED ->
#ifdef UNFENCED
            journal_gap = journal_gap || journal[i_].event > n_;
            n_ = (journal[i_].event == n_ -> n_ + 1 : n_);
#else
            journal_gap = journal_gap || journal[i_].event > n_;
            journal_doubled = journal_doubled || journal[i_].event < n_;
            n_++;
#endif
        :: else
        fi;
        i_++
    od;
    i_ = 0;
    assert(!journal_gap);
    assert(!journal_doubled)
}
byte i_, k_, n_;
bool journal_gap, journal_doubled;

inline commit_outcomes(p) {
    i_ = 0;
    do
    :: i_ == journal_end -> break
    :: else ->
        if
        :: journal[i_].status == OPEN && journal[i_].by == p -> journal[i_].status = COMMITTED; journal[i_].by = 0
        :: else
        fi;
        i_++
    od;
    check_journal()
}

inline commit_rows(p) {
    i_ = 0;
    do
    :: i_ == rows_end -> break
    :: else ->
        if
        :: rows[i_].status == OPEN && rows[i_].by == p -> rows[i_].status = COMMITTED; rows[i_].by = 0
        :: else
        fi;
        i_++
    od;
    i_ = 0
}

inline commit_offsets(p) {
    group_offset = offsets_pending[p]; offsets_pending[p] = 0
}

#define SHIFT(place) place = place - (place > k_ -> 1 : 0)

/* Takes aborted records out of the topics, and adjusts every place that counts them: no reader ever sees them. */
inline abort(p) {
    i_ = 0; k_ = 0;
    do
    :: i_ == journal_end -> break
    :: else ->
        if
        :: journal[i_].status == OPEN && journal[i_].by == p ->
            SHIFT(journal_mark[0]); SHIFT(journal_mark[1]); SHIFT(journal_mark[2]); SHIFT(sink_place); SHIFT(store_place)
        :: else ->
            journal[k_].status = journal[i_].status; journal[k_].by = journal[i_].by; journal[k_].event = journal[i_].event; k_++
        fi;
        i_++
    od;
    do
    :: journal_end == k_ -> break
    :: else -> journal_end--; journal[journal_end].status = 0; journal[journal_end].by = 0; journal[journal_end].event = 0
    od;
    i_ = 0; k_ = 0;
    do
    :: i_ == rows_end -> break
    :: else ->
        if
        :: rows[i_].status == OPEN && rows[i_].by == p -> SHIFT(rows_mark[0]); SHIFT(rows_mark[1]); SHIFT(rows_mark[2])
        :: else ->
            rows[k_].status = rows[i_].status; rows[k_].by = rows[i_].by; rows[k_].next = rows[i_].next;
            rows[k_].sum = rows[i_].sum; k_++
        fi;
        i_++
    od;
    do
    :: rows_end == k_ -> break
    :: else ->
        rows_end--; rows[rows_end].status = 0; rows[rows_end].by = 0; rows[rows_end].next = 0; rows[rows_end].sum = 0
    od;
    i_ = 0; k_ = 0; offsets_pending[p] = 0; open[p] = false
}

/* Aborts what is open, and refuses what is still on its way, now and not when it comes. */
inline take_over(p) {
    abort(p); valid[p] = false;
    if
    :: end_request[p] -> end_request[p] = false; answer[p] = (asks[p] -> REFUSED : 0); asks[p] = false
    :: else
    fi
}

#ifdef MARKERS
/* Each topic gets its commit marker some time after the decision, in any order. */
#define COMMIT(p) markers[p] = JOURNAL + STATE + OFFSETS
#define MARKERS_OF(p) \
    :: d_step { markers[p] & JOURNAL -> markers[p] = markers[p] - JOURNAL; commit_outcomes(p) } \
    :: d_step { markers[p] & STATE -> markers[p] = markers[p] - STATE; commit_rows(p) } \
    :: d_step { markers[p] & OFFSETS -> markers[p] = markers[p] - OFFSETS; commit_offsets(p) }
#else
#define COMMIT(p) commit_outcomes(p); commit_rows(p); commit_offsets(p)
#define MARKERS_OF(p)
#endif

/* What the broker may do for worker p, at any time. */
#define BROKER(p) \
    :: d_step { end_request[p] -> \
        if \
        :: open[p] && valid[p] -> \
            open[p] = false; COMMIT(p); answer[p] = (asks[p] -> DONE : 0) \
        :: else -> answer[p] = (asks[p] -> REFUSED : 0) \
        fi; \
        end_request[p] = false; asks[p] = false } \
    MARKERS_OF(p) \
    :: d_step { suspect[p] && open[p] -> /* the transaction timed out */ \
        take_over(p) } \
    :: d_step { suspect[p] && owner == p -> owner = NOBODY } /* the session timed out */

active proctype broker() {
end:
    do
    BROKER(0)
    BROKER(1)
    BROKER(2)
    od
}

active proctype misfortune() {
    byte p;
end:
    do
    :: atomic { crashes > 0 && owner != NOBODY -> /* the owner, or the other one */
        if
        :: p = owner
#ifdef ANY_VICTIM
        :: p = (owner == 1 -> (user[0] == 2 -> 2 : 0) : 1)
#endif
        fi;
        crashes--; killed[p] = true;
        if
        :: never_back = true
        :: skip
        fi; p = 0 }
    :: atomic { zombies > 0 && owner != NOBODY && !suspect[owner] ->
        zombies--; suspect[owner] = true;
        if
        :: owner == 0 -> replaced = true; run worker(2)
        :: skip
        fi }
    od
}

/* No record below the mark is open: the reader has come that far. */
#define DONE_BELOW(topic, i, mark) (topic[i].status != OPEN || mark <= i)
#define STABLE(topic, mark) (DONE_BELOW(topic, 0, mark) && DONE_BELOW(topic, 1, mark) && DONE_BELOW(topic, 2, mark) && \
    DONE_BELOW(topic, 3, mark) && DONE_BELOW(topic, 4, mark) && DONE_BELOW(topic, 5, mark) && DONE_BELOW(topic, 6, mark) && \
    DONE_BELOW(topic, 7, mark) && DONE_BELOW(topic, 8, mark))

/* Of the committed state rows below the mark, the one that counts. */
inline latest_row(mark, next_, sum_) {
    next_ = 0; sum_ = 0; i_ = 0;
    do
    :: i_ == mark -> break
    :: else ->
        if
#ifdef LAST_ROW
        :: rows[i_].status == COMMITTED -> next_ = rows[i_].next; sum_ = rows[i_].sum
#else
        :: rows[i_].status == COMMITTED && rows[i_].next >= next_ -> next_ = rows[i_].next; sum_ = rows[i_].sum
#endif
        :: else
        fi;
        i_++
    od;
    i_ = 0
}

inline count_journal(mark, n) {
    n = 0; i_ = 0;
    do
    :: i_ == mark -> break
    :: else -> n = n + (journal[i_].status == COMMITTED -> 1 : 0); i_++
    od;
    i_ = 0
}

/* A core that must not go on: nothing of it is kept. Who was replaced in its slot ends, others build a new one. */
inline drop() {
    next = 0; sum = 0; upto = 0; at = 0;
    if
    :: user[SLOT(me)] != me -> goto leave
    :: else -> goto connect
    fi
}

proctype worker(byte me) {
    byte next, sum, upto, at, group;
    bool stopped;
life:
    {
        goto connect;
connect:
        skip;
        /* init_transactions: waits for markers, aborts what is open in the slot, fences whoever used it. */
        atomic {
            markers[me] == 0 && (me == 1 || (markers[0] == 0 && markers[2] == 0)) ->
            d_step {
#ifndef UNFENCED
                if
                :: me == 1 -> take_over(1)
                :: else -> take_over(0); take_over(2)
                fi;
#endif
                user[SLOT(me)] = me; valid[me] = true;
                suspect[me] = (owner == me -> suspect[me] : false);
                asks[me] = false; answer[me] = 0; next = 0; sum = 0; upto = 0
            }
        };
end_join:
        if
        :: d_step { user[SLOT(me)] == me && (owner == NOBODY || SLOT(owner) == SLOT(me)) ->
            owner = me; suspect[me] = false }
        :: user[SLOT(me)] != me -> goto leave
        fi;
        if
        :: stopped ->
end_stopped: owner != me; goto end_join
        :: else
        fi;
        /* The group's offset first: this waits until no Kafka transaction of another is half done. */
        d_step { (me == 0 || !offsets_pending[0]) && (me == 1 || !offsets_pending[1]) && (me == 2 || !offsets_pending[2]) ->
            group = group_offset };
        rows_mark[me] = rows_end;
        d_step { STABLE(rows, rows_mark[me]) -> latest_row(rows_mark[me], next, sum); rows_mark[me] = 0 };
#ifdef OFFSETS_FIRST
        next = group;
#else
#ifndef UNFENCED
        assert(group <= next);                            /* else this partition stops: something else wrote here */
#endif
        assert(sum == SUM(next));                         /* the recovered state is right */
#endif
        group = 0;
#if !defined(UNFENCED) && !defined(OFFSETS_FIRST)
        journal_mark[me] = journal_end;
        d_step { STABLE(journal, journal_mark[me]) -> count_journal(journal_mark[me], at); journal_mark[me] = 0 };
        if
        :: atomic { at != next ->
            assert(!GROUP_OK(me));         /* only when overtaken meanwhile */
#ifdef STOP_FOR_GOOD
            stopped = true;
#endif
            drop() }
        :: else -> at = 0
        fi;
#endif
end_gather:
        if
#ifdef ANY_BATCH
        :: next < EVENTS -> upto = next + 1
        :: next + 1 < EVENTS -> upto = next + 2
#else
        :: next < EVENTS -> upto = (next + 2 < EVENTS -> next + 2 : EVENTS)
#endif
        :: atomic { !GROUP_OK(me) -> drop() }
        fi;
#ifdef MARKERS
        markers[me] == 0;                                  /* the same producer begins only then */
#endif
#ifdef OFFSETS_FIRST
        if
        :: d_step { GROUP_OK(me) -> group_offset = upto }
        :: atomic { !GROUP_OK(me) -> drop() }
        fi;
#endif
        if
        :: d_step { EPOCH_OK(me) ->                        /* one request: all outcomes of the batch */
            at = next;
            do
            :: at == upto -> break
            :: else ->
                journal[journal_end].status = APPEND_STATUS; journal[journal_end].by = APPEND_BY(me);
                journal[journal_end].event = at; journal_end++; sum = sum + WEIGHT(at); at++
            od;
            open[me] = (APPEND_STATUS == OPEN); at = 0; check_journal() }
        :: atomic { !EPOCH_OK(me) -> drop() }
        fi;
        if
        :: d_step { EPOCH_OK(me) ->
            rows[rows_end].status = APPEND_STATUS; rows[rows_end].by = APPEND_BY(me); rows[rows_end].next = upto; rows[rows_end].sum = sum;
            rows_end++; open[me] = (APPEND_STATUS == OPEN) }
        :: atomic { !EPOCH_OK(me) -> drop() }
        fi;
#ifdef UNFENCED
        group_offset = upto; next = upto; goto end_gather;
#endif
        if
        :: d_step { EPOCH_OK(me) && GROUP_OK(me) -> offsets_pending[me] = upto }
        :: atomic { !EPOCH_OK(me) || !GROUP_OK(me) -> drop() }
        fi;
        d_step { end_request[me] = true; asks[me] = true };
        if
        :: d_step { answer[me] == DONE -> answer[me] = 0; next = upto; upto = 0 }; goto end_gather
        :: atomic { answer[me] == REFUSED -> answer[me] = 0; drop() }
        :: atomic { lost_answers > 0 -> lost_answers--; asks[me] = false; answer[me] = 0;
#ifdef REUSE
            abort(me); sum = SUM(next); upto = 0; goto end_gather
#else
            drop()
#endif
            }
        fi
    } unless { killed[me] };
    d_step {
        killed[me] = false; suspect[me] = true; asks[me] = false; answer[me] = 0;
        next = 0; sum = 0; upto = 0; at = 0; group = 0; stopped = false;
        rows_mark[me] = 0; journal_mark[me] = 0
    };
    if
    :: never_back || (me == 0 && replaced) -> goto dead
    :: else -> goto life
    fi;
leave:
    suspect[me] = true;
dead:
    skip
}

/* The store takes an insert: whole or not at all. */
inline store_insert(event_, place_) {
    store[event_]++; store_place = place_; store_next = event_ + 1;
    assert(store[0] <= 1 && store[1] <= 1 && store[2] <= 1)
}

active proctype store_server() {
end:
    do
    :: d_step { inserting -> store_insert(insert_event, insert_place); inserting = false; insert_event = 0; insert_place = 0 }
    od
}

#define NEXT_RECORD (sink_place < journal_end && journal[sink_place].status == COMMITTED)

proctype sink() {
    byte event;
takeover:
    atomic {
        sink_place = store_place; event = store_next;
#ifndef LATE_INSERT
        inserting = false; insert_event = 0; insert_place = 0    /* CHECK run = ...: it can not land any more */
#endif
    };
end_read:
    if
    :: d_step { NEXT_RECORD && journal[sink_place].event < event -> sink_place++ }       /* a repeat, known by its id */
    :: d_step { NEXT_RECORD && journal[sink_place].event >= event ->
        assert(journal[sink_place].event == event);
        sink_place++; store_insert(event, sink_place); event++;
        assert(store_place == sink_place && store[event - 1] == 1) }                     /* read back */
    :: d_step { NEXT_RECORD && journal[sink_place].event >= event && sink_faults > 0 -> /* sent, and no answer */
        sink_faults--; insert_event = event; insert_place = sink_place + 1; inserting = true };
#ifndef BLIND
        goto takeover
#endif
    fi;
    goto end_read
}

init {
    atomic { run worker(0); run worker(1);
#ifndef NO_SINK
        run sink()
#endif
    }
}

/* Nothing can go on any more: everything must be done. */
active proctype finally() {
    byte next, sum;
    timeout ->
    d_step {
        check_journal();
        latest_row(rows_end, next, sum);
        assert(next == EVENTS);                            /* everything settled */
        assert(sum == SUM(EVENTS));                        /* each effect once in the state */
        assert(i_ == 0 && n_ == EVENTS);                   /* and in the journal */
#ifndef NO_SINK
        assert(store[0] == 1 && store[1] == 1 && store[2] == 1)
#endif
    }
}
