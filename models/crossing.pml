/* A transaction whose accounts live in different partitions: reserve, answer, decide, commit or void. docs/protocols.md explains it.
 *
 * Three partitions, each with one ordered input. Transaction 0 is paid in partition 0 to payees in 1 and 2; transaction 1 is
 * paid in 1 to a payee in 0, so the two run against each other. Funds and refusals are chosen freely. Processing a record is one
 * Kafka transaction: state, journal, place in the input and commands to other partitions together. It may fail and be done
 * again; a command may be delivered twice, much later; each transaction is published again with the same key at any moment.
 *
 * Faulty variants, each of which spin must find:
 *   EARLY_COMMIT    the first `reserved` decides, not the last
 *   OUTSIDE_AFTER   commands are sent after the Kafka transaction, and a crash between loses them
 *   OUTSIDE_FIRST   commands are sent before the Kafka transaction; after a crash between, others act on what never happened, and twice
 *   NO_CHECK        a participant takes a Commit without looking whether the crossing is still open
 *   FORGETS         a participant forgets a crossing when it is closed
 *   LATE_FORGOTTEN  a `reserved` that comes after a refusal is ignored
 * And two that must be found, or the model would be of a world in which nothing happens: NEVER_BOTH, NEVER_NONE.
 */
#define PARTITIONS   3
#define TRANSACTIONS 2
#ifndef FAILURES
#define FAILURES     2           /* Kafka transactions that come to nothing */
#endif
#ifndef DUPLICATES
#define DUPLICATES   1
#endif
#ifndef REPEATS
#define REPEATS      1           /* of each transaction */
#endif

#define COORDINATOR(t)    (t)
#define PARTICIPANTS(t)   ((t) == 0 -> 6 : 1)        /* bit q: partition q */
#define AMOUNT(t)         ((t) == 0 -> 2 : 1)        /* 1 for each payee */
#define BIT(q)            (1 << (q))

mtype = { transaction, reserve, reserved, refused, commit, void };        /* commands */
mtype = { unknown, crossing, settled, rejected };                         /* of a transaction, at its coordinator */
mtype = { none, set_aside, declined, posted, released };                  /* of a transaction, at a participant */

chan input[PARTITIONS] = [9] of { mtype, byte, byte };                    /* command, transaction, sender */

/* One account of a customer and one for transit in each partition; minor units. */
short balance[PARTITIONS];
short transit[PARTITIONS];
byte pending_out[PARTITIONS];
byte pending_in[PARTITIONS];

mtype outcome[TRANSACTIONS] = unknown;
byte said_reserved[TRANSACTIONS];                    /* bits of participants */
typedef Parts { mtype at[PARTITIONS] = none };
Parts part[TRANSACTIONS];

/* What an onlooker counts. */
byte finals[TRANSACTIONS];
byte debits[TRANSACTIONS];
typedef Credits { byte at[PARTITIONS] };
Credits credits[TRANSACTIONS];
short money;

byte failures = FAILURES;
byte duplicates = DUPLICATES;
byte repeats[TRANSACTIONS] = REPEATS;
bool echoing;                                        /* a second copy that is still on its way */
mtype echo_command;
byte echo_to, echo_transaction, echo_from;

mtype out[PARTITIONS];                               /* commands of the record in hand; 0 between records */
byte q_;

inline tell(mask, command) {
    q_ = 0;
    do
    :: q_ == PARTITIONS -> break
    :: else ->
        if
        :: (mask) & BIT(q_) -> out[q_] = command
        :: else
        fi;
        q_++
    od;
    q_ = 0
}

inline finish(t, how) {
    outcome[t] = how; finals[t]++;
    assert(finals[t] == 1)
}

/* The coordinator takes the transaction. */
inline on_transaction(p, t) {
    if
    :: outcome[t] != unknown                         /* a repeat: the first outcome stands */
    :: outcome[t] == unknown && balance[p] - pending_out[p] < AMOUNT(t) -> finish(t, rejected)
    :: outcome[t] == unknown && balance[p] - pending_out[p] >= AMOUNT(t) ->
        pending_out[p] = pending_out[p] + AMOUNT(t); outcome[t] = crossing; tell(PARTICIPANTS(t), reserve)
    fi
}

/* A participant is asked whether its payee can take the credit: `willing`. */
inline on_reserve(p, t, willing) {
    if
    :: part[t].at[p] == none && willing ->
        part[t].at[p] = set_aside; pending_in[p]++; out[COORDINATOR(t)] = reserved
    :: part[t].at[p] == none && !willing -> part[t].at[p] = declined; out[COORDINATOR(t)] = refused
    :: part[t].at[p] == declined -> out[COORDINATOR(t)] = refused          /* asked twice, answered alike */
    :: else -> out[COORDINATOR(t)] = reserved
    fi
}

inline on_reserved(p, t, from) {
    if
    :: outcome[t] == crossing ->
        said_reserved[t] = said_reserved[t] | BIT(from);
        if
#ifdef EARLY_COMMIT
        :: true ->
#else
        :: said_reserved[t] == PARTICIPANTS(t) ->
#endif
            pending_out[p] = pending_out[p] - AMOUNT(t); balance[p] = balance[p] - AMOUNT(t);
            transit[p] = transit[p] + AMOUNT(t); debits[t]++;
            finish(t, settled); tell(PARTICIPANTS(t), commit)
        :: else
        fi
#ifndef LATE_FORGOTTEN
    :: outcome[t] == rejected -> out[from] = void
#endif
    :: else
    fi
}

inline on_refused(p, t) {
    if
    :: outcome[t] == crossing ->
        pending_out[p] = pending_out[p] - AMOUNT(t); finish(t, rejected); tell(said_reserved[t], void)
    :: else
    fi
}

inline on_commit(p, t) {
#ifdef NO_CHECK
    if
    :: true ->
#else
#ifndef FORGETS
    assert(part[t].at[p] == set_aside || part[t].at[p] == posted);
#endif
    if
    :: part[t].at[p] == set_aside ->
#endif
        part[t].at[p] = posted; pending_in[p]--; balance[p]++; transit[p]--; credits[t].at[p]++;
        assert(debits[t] == 1);
        assert(credits[t].at[p] == 1);
#ifdef FORGETS
        part[t].at[p] = none
#endif
    :: else
    fi
}

inline on_void(p, t) {
#ifndef FORGETS
    assert(part[t].at[p] == set_aside || part[t].at[p] == released);
#endif
    if
    :: part[t].at[p] == set_aside ->
        part[t].at[p] = released; pending_in[p]--;
#ifdef FORGETS
        part[t].at[p] = none
#endif
    :: else
    fi
}

inline handle(p, command, t, from, willing) {
    if
    :: command == transaction -> on_transaction(p, t)
    :: command == reserve -> on_reserve(p, t, willing)
    :: command == reserved -> on_reserved(p, t, from)
    :: command == refused -> on_refused(p, t)
    :: command == commit -> on_commit(p, t)
    :: command == void -> on_void(p, t)
    fi;
    assert(balance[p] - pending_out[p] >= 0);
    assert(balance[0] + balance[1] + balance[2] + transit[0] + transit[1] + transit[2] == money)
}

/* Appends the commands in hand to the inputs of others. One of them may be delivered again later. */
inline send(p, t) {
    q_ = 0;
    do
    :: q_ == PARTITIONS -> break
    :: q_ < PARTITIONS && out[q_] == 0 -> q_++
    :: q_ < PARTITIONS && out[q_] != 0 -> input[q_]!out[q_], t, p; out[q_] = 0; q_++
    :: q_ < PARTITIONS && out[q_] != 0 && duplicates > 0 && !echoing ->
        duplicates--; echoing = true; echo_command = out[q_]; echo_to = q_; echo_transaction = t; echo_from = p;
        input[q_]!out[q_], t, p; out[q_] = 0; q_++
    od;
    q_ = 0
}

inline forget_commands() {
    out[0] = 0; out[1] = 0; out[2] = 0
}

/* The commands that a record calls for, without their effect. */
inline would_tell(p, command, t, from, willing) {
    if
    :: command == transaction && outcome[t] == unknown && balance[p] - pending_out[p] >= AMOUNT(t) ->
        tell(PARTICIPANTS(t), reserve)
    :: command == reserve ->
        out[COORDINATOR(t)] = (part[t].at[p] == declined || (part[t].at[p] == none && !willing) -> refused : reserved)
    :: command == reserved && outcome[t] == crossing && (said_reserved[t] | BIT(from)) == PARTICIPANTS(t) ->
        tell(PARTICIPANTS(t), commit)
    :: command == reserved && outcome[t] == rejected -> out[from] = void
    :: command == refused && outcome[t] == crossing -> tell(said_reserved[t], void)
    :: else
    fi
}

proctype partition(byte p) {
    mtype command;
    byte t, from;
    bool willing[TRANSACTIONS];
    atomic {                                         /* whether its payees can take a credit */
        if
        :: willing[0] = true
        :: p == 1 || p == 2 -> willing[0] = false
        fi;
        if
        :: willing[1] = true
        :: p == 0 -> willing[1] = false
        fi
    };
end:
    do
    :: atomic { input[p]?command, t, from ->         /* the Kafka transaction commits */
        handle(p, command, t, from, willing[t]); send(p, t); command = 0; t = 0; from = 0 }
#ifdef OUTSIDE_AFTER
    :: atomic { failures > 0 && nempty(input[p]) -> failures--; input[p]?command, t, from;
        handle(p, command, t, from, willing[t]); forget_commands(); command = 0; t = 0; from = 0 }
#else
#ifdef OUTSIDE_FIRST
    /* The commands are out, nothing else is: with the same state it will decide the same again. */
    :: atomic { failures > 0 && nempty(input[p]) -> failures--; input[p]?<command, t, from>;
        would_tell(p, command, t, from, willing[t]); send(p, t); command = 0; t = 0; from = 0 }
#else
    :: atomic { failures > 0 && nempty(input[p]) -> failures-- }     /* aborted or killed: nothing of it happened */
#endif
#endif
    od
}

/* Callers publish each transaction, and again with the same key, whenever they like; a copy arrives late. */
active proctype callers() {
    bool published[TRANSACTIONS];
end:
    do
    :: atomic { !published[0] -> published[0] = true; input[COORDINATOR(0)]!transaction, 0, 0 }
    :: atomic { !published[1] -> published[1] = true; input[COORDINATOR(1)]!transaction, 1, 0 }
    :: atomic { published[0] && repeats[0] > 0 -> repeats[0]--; input[COORDINATOR(0)]!transaction, 0, 0 }
    :: atomic { published[1] && repeats[1] > 0 -> repeats[1]--; input[COORDINATOR(1)]!transaction, 1, 0 }
    :: atomic { echoing -> echoing = false; input[echo_to]!echo_command, echo_transaction, echo_from;
        echo_command = 0; echo_to = 0; echo_transaction = 0; echo_from = 0 }
    od
}

init {
    atomic {
        if                                           /* enough, or enough only when the other transaction came first */
        :: balance[0] = 2
        :: balance[0] = 1
        fi;
        if
        :: balance[1] = 1
        :: balance[1] = 0
        fi;
        money = balance[0] + balance[1];
        run partition(0); run partition(1); run partition(2)
    }
}

/* Nothing is on its way any more. */
active proctype finally() {
    timeout ->
    d_step {
#ifdef NEVER_BOTH
        assert(outcome[0] == rejected || outcome[1] == rejected);                            /* false: both can settle */
#endif
#ifdef NEVER_NONE
        assert(outcome[0] == settled || outcome[1] == settled);                              /* false: both can be refused */
#endif
        assert(empty(input[0]) && empty(input[1]) && empty(input[2]));
        assert(finals[0] == 1 && finals[1] == 1);                                            /* one final outcome each */
        assert(pending_out[0] + pending_out[1] + pending_out[2] == 0);                       /* nothing stays set aside */
        assert(pending_in[0] + pending_in[1] + pending_in[2] == 0);
        assert(transit[0] + transit[1] + transit[2] == 0);                                   /* nothing stays in flight */
        assert(debits[0] == (outcome[0] == settled -> 1 : 0));                               /* all or nothing */
        assert(credits[0].at[1] == debits[0] && credits[0].at[2] == debits[0]);
        assert(debits[1] == (outcome[1] == settled -> 1 : 0) && credits[1].at[0] == debits[1])
    }
}
