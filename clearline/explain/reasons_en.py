"""Why a command was rejected and what would make it pass, in English: one entry for each reason of the ledger."""

from __future__ import annotations

from clearline.explain.said import Said
from ledger.reasons import Reason

REASONS: dict[Reason, Said] = {
    Reason.IDEMPOTENCY_CONFLICT: Said(
        ("The idempotency key was used before for something else ({field}: {rule}).",
         "The first command under it stands at offset {first_offset} of partition {partition}."),
        ("Send the new payment under a new key, or repeat the first one unchanged to see its outcome.",),
    ),
    Reason.PARTNER_UNKNOWN: Said(
        ("Partner {partner} was never admitted in this world (field {field}).",),
        ("Check how the partner's path is spelled, or have the bank admit {partner}.",),
    ),
    Reason.PRODUCT_UNKNOWN: Said(
        ("No version of product {product} is on the shelf for that value date (field {field}).",
         "Its first version is in force from {effective_from} on."),
        ("Name a product that GET /v1/products lists.", "Or ask with a value date of {effective_from} or later."),
    ),
    Reason.OPERATION_UNKNOWN: Said(
        ("The product has no operation {operation} (field {field}).",),
        ("Name an operation that the product lists: GET /v1/products/PRODUCT.",),
    ),
    Reason.PARTNER_SUSPENDED: Said(
        ("Partner {partner} is {state}, so it and all below it may start no new business (field {field}).",),
        ("The bank must let {partner} go on. Until then voids and refunds are possible.",),
    ),
    Reason.PARTNER_STATE: Said(
        ("Partner {partner} is in state {state}, which does not permit this (field {field}).",),
        ("It passes once the bank has taken {partner} to a state that permits it: docs/operations.md has the table.",),
    ),
    Reason.WORLD_FROZEN: Said(
        ("The bank has frozen the whole {level}: it takes nothing but voids.",),
        ("Wait until the bank lifts the freeze; then send it again under a new key.",),
    ),
    Reason.PARTNER_FROZEN: Said(
        ("Partner {partner} is frozen by the bank, so it and all below it may ask for nothing but voids ({field}).",),
        ("The bank must lift the freeze of {partner}; then send it again under a new key.",),
    ),
    Reason.PRODUCT_FROZEN: Said(
        ("Product {product} is frozen by the bank: nothing of it is taken but voids (field {field}).",),
        ("Use another product, or wait until the bank lifts the freeze and send it again under a new key.",),
    ),
    Reason.FIELD_INVALID: Said(
        ("Field {field} breaks a rule: {rule}.",),
        ("Correct {field} and send it with a new key.",),
    ),
    Reason.ROLE_UNKNOWN: Said(
        ("The operation has no role {role} ({field}); it has {roles}.",),
        ("Name accounts for these roles and no others: {roles}.",),
    ),
    Reason.ROLE_MISSING: Said(
        ("No account is named for the role {role} ({field}); the operation needs {roles}.",),
        ("Name an account for {role}.",),
    ),
    Reason.CURRENCY_UNKNOWN: Said(
        ("{currency} is not an active ISO 4217 currency (field {field}).",),
        ("Use the three capital letters of a currency that is in use, such as CNY.",),
    ),
    Reason.PRODUCT_CURRENCY: Said(
        ("The product is not offered in {currency} (field {field}); it is offered in {allowed}.",),
        ("Ask in one of: {allowed}.",),
    ),
    Reason.EXPONENT_MISMATCH: Said(
        ("The caller said that {currency} has {exponent} decimals ({field}); it has {allowed}.",),
        ("Send the amount in minor units of {currency} with {allowed} decimals, and exponent {allowed}.",),
    ),
    Reason.AMOUNT_NOT_POSITIVE: Said(
        ("The amount is {amount!n} ({field}); an amount is at least 1 minor unit.",),
        ("Send an amount of 1 or more; to move money the other way, swap payer and payee.",),
    ),
    Reason.AMOUNT_TOO_LARGE: Said(
        ("The amount is above {limit!n} minor units, the most that one posting holds (field {field}).",),
        ("Split the payment into several of at most {limit!n} minor units.",),
    ),
    Reason.RATE_INVALID: Said(
        ("The rate cannot be used ({field}: {rule}).",),
        ("Send a decimal number above zero in quotes, such as \"7.1234\", that buys at least one minor unit.",),
    ),
    Reason.POSTINGS_COUNT: Said(
        ("The entry would have {count!n} postings ({field}); {limit} are taken.",),
        ("Split it into several transactions, each with {limit} postings.",),
    ),
    Reason.POSTINGS_UNBALANCED: Said(
        ("Debits and credits in {currency} differ ({field}): {debits!m} is debited and {credits!m} is credited.",),
        ("Correct the postings by the difference of {difference!m}.",),
    ),
    Reason.NOT_PERMITTED: Said(
        ("This may not be asked for by whoever asked (field {field}).", "The rule is: {rule}.",
         "It was asked by {partner}.", "It is about account {account}.", "It is about {subject}."),
        ("Have the bank ask for it, or a partner that may.",),
    ),
    Reason.ORIGINAL_UNKNOWN: Said(
        ("Nothing that settled is remembered of {partner} under the key {original} (field {field}).",),
        ("Check the key. What is older than the window (30 days unless set otherwise) is paid back by a transfer.",),
    ),
    Reason.ORIGINAL_MISMATCH: Said(
        ("The transaction under the key {original} cannot be the original of this ({field}): {rule}.",),
        ("Name an original as the rule says: {rule}.",),
    ),
    Reason.HOLD_EXPIRED: Said(
        ("The hold under the key {original} has lapsed, and what it set aside was released (field {field}).",),
        ("Place a new hold.",),
    ),
    Reason.HOLD_CLOSED: Said(
        ("The hold under the key {original} was captured or voided before, so nothing is left of it (field {field}).",),
        ("Place a new hold.",),
    ),
    Reason.CAPTURE_EXCEEDS_HOLD: Said(
        ("{amount!m} was to be captured ({field}), and {remaining!m} is left of the hold.",),
        ("Capture at most {remaining!m}.",),
    ),
    Reason.REFUND_EXCEEDS_PAYMENT: Said(
        ("{amount!m} was to be given back.", "Of the payment {remaining!m} is left to give back (field {field})."),
        ("Refund at most {remaining!m}.",),
    ),
    Reason.ACCOUNT_UNKNOWN: Said(
        ("There is no account {account} (field {field}).",),
        ("Check the id, or open the account first.",),
    ),
    Reason.ACCOUNT_NOT_OWNED: Said(
        ("{partner} may not use account {account} on this side ({field}).",),
        ("Ask in the name of the partner that owns the account, or name an account of {partner}.",),
    ),
    Reason.OWNER_STATE: Said(
        ("Account {account} belongs to a partner that may not do this now: {partner} is in state {state} ({field}).",),
        ("It passes once {partner} is in a state that permits it; the bank changes states.",),
    ),
    Reason.OWNER_FROZEN: Said(
        ("Account {account} belongs to a partner that the bank has frozen: {partner} ({field}).",),
        ("The bank must lift the freeze of {partner}; then send it again under a new key.",),
    ),
    Reason.ACCOUNT_CLOSED: Said(
        ("Account {account} is closed for good (field {field}).",),
        ("Use another account.",),
    ),
    Reason.ACCOUNT_FROZEN: Said(
        ("Account {account} is frozen: nothing may be posted to it (field {field}).",),
        ("The bank must lift the freeze of {account}; then send it again under a new key.",),
    ),
    Reason.ACCOUNT_CURRENCY: Said(
        ("Account {account} is in {account_currency}, and the posting is in {currency} ({field}).",
         "The rule is: {rule}."),
        ("Use an account in {currency}, or an exchange.",),
    ),
    Reason.DEBITS_BLOCKED: Said(
        ("Account {account} refuses debits (field {field}).",),
        ("The bank must lift the block on debits of {account}.",),
    ),
    Reason.CREDITS_BLOCKED: Said(
        ("Account {account} refuses credits (field {field}).",),
        ("The bank must lift the block on credits of {account}.",),
    ),
    Reason.SAME_ACCOUNT: Said(
        ("{account} would be paid from itself ({field}).",),
        ("Name two different accounts.",),
    ),
    Reason.SPLIT_EXCEEDS_AMOUNT: Said(
        ("Fees and parts take {parts!m}, more than the {amount!m} that is split ({field}).",),
        ("Raise the amount to at least {parts!m}, or lower the parts.",),
    ),
    Reason.NOTHING_TO_MOVE: Said(
        ("There is nothing to post ({field}): {rule}.",),
        ("Nothing to do: the balances that this moves are zero already.",),
    ),
    Reason.INSUFFICIENT_FUNDS: Said(
        ("Account {account} would be left with less than it must keep ({level}: {limit}).",
         "It has {available!m} available and must keep at least {allowed!m}.",
         "This would leave {left!m}, which is {short!m} short."),
        ("Bring in {short!m} or more, or move {short!m} less.",
         "Have the owner of {others} bring money in, or move less."),
    ),
    Reason.COUNTER_OVERFLOW: Said(
        ("A counter would pass {limit!n} minor units, the most it holds ({field}).", "It is one of account {account}."),
        ("Use another account.",),
    ),
    Reason.LIMIT_EXCEEDED: Said(
        ("A limit of {level} {subject} would be passed ({field}): {limit} is at most {allowed}, {used} is used, and "
         "{asked} was asked for.",
         "A limit of {level} {above} would be passed ({field}): {limit}; {asked} was asked for.",
         "It counts {currency}."),
        ("At most {remaining} would pass now.",
         "Wait until the next {window} begins, or have the limit of {subject} raised by whoever set it.",
         "Split the payment, or have the limit of {each} raised by whoever set it.",
         "The limits of {elsewhere} name other currencies only: ask in one of those, or have them changed.",
         "Ask for less, ask later, or have the limit of {above} raised by whoever set it."),
    ),
    Reason.ACCOUNT_EXISTS: Said(
        ("Account {account} is open already (field {field}).",),
        ("Nothing to do, or choose another name.",),
    ),
    Reason.ACCOUNT_NOT_EMPTY: Said(
        ("Account {account} is not empty, or something is held on it ({field}).", "{available!m} is available."),
        ("Move the balance away and void its holds first.",),
    ),
    Reason.PARTNER_EXISTS: Said(
        ("Partner {partner} is admitted already (field {field}).",),
        ("Nothing to do, or choose another name.",),
    ),
    Reason.PARENT_UNKNOWN: Said(
        ("{partner}, which is above it in the path, was never admitted or has left (field {field}).",),
        ("Admit {partner} first: a path is admitted from the root down.",),
    ),
    Reason.STATE_UNKNOWN: Said(
        ("There is no such state, or a partner is not admitted in it ({field}): {rule}.",),
        ("Name one of: {rule}.",),
    ),
    Reason.STATE_TRANSITION: Said(
        ("{partner} is in state {state}, and cannot go from there to the one that was asked for ({field}).",
         "It may become: {rule}."),
        ("Take it one step of the table at a time: docs/operations.md.",),
    ),
    Reason.PARTNER_NOT_EMPTY: Said(
        ("Something is left, so it cannot leave (field {field}).", "Account {account} is not empty.",
         "{partner}, below it, has not left."),
        ("Empty {account} first.", "Have {partner} leave first."),
    ),
    Reason.PRODUCT_VERSION: Said(
        ("Version {version} is not higher than {highest}, the highest there is ({field}).",),
        ("Publish it as version {next} or higher.",),
    ),
    Reason.PRODUCT_INVALID: Said(
        ("The product's {field} breaks a rule at {path}: {rule}.",),
        ("Correct it at {path}; `clearline product test FILE` shows line and rule.",),
    ),
    Reason.TEMPLATE_UNBALANCED: Said(
        ("A step of the product's {field} cannot balance, at {path}: {rule}.",),
        ("Give exactly one target of the step what remains.",),
    ),
    Reason.DAY_CLOSED: Said(
        ("{day} is closed already ({field}); all days to {closed_through} are.",),
        ("Nothing to do; what is late is booked to the open day.",),
    ),
    Reason.DAY_AHEAD: Said(
        ("{day} has not begun ({field}); by the settlement calendar today is {today}.",),
        ("Close it on {day} or later.",),
    ),
    Reason.CROSSING_UNKNOWN: Said(
        ("No such transaction between partitions waits for this step ({field}: {rule}).",),
        ("Nothing to do: it was decided before.",),
    ),
    Reason.DAY_OPEN: Said(
        ("{day} is not closed in this partition ({field}).",),
        ("Close it first: `clearline close {day}`.",),
    ),
    Reason.DAY_SEALED: Said(
        ("{day} is sealed already ({field}), with {hash}.",),
        ("Nothing to do; `clearline close --verify {day}` recomputes it.",),
    ),
}  # fmt: skip
