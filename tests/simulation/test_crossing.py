"""Every interleaving of small scenarios between partitions, on the real Books: whatever order the logs fill in, whoever
dies where, no money is lost, doubled or shown twice, it is all or nothing, and in the end everything is done.

A state is what Kafka would keep: logs, places, rows and journals. From each, every partition may settle its next command
or all that wait in one batch, by a worker that goes on and by one that just took over (both must write the same bytes);
its batch may be aborted; and every client may submit its next command. States that were seen are not walked again. Three
holes, each made into the protocol on purpose, must be found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import pytest

from ledger import crossing, flights
from ledger.reasons import Reason, Rejection
from schemas.errors import InvariantError
from schemas.identity import command_id, tree_of
from schemas.records import BlockAccount, Posting, Transaction
from tests.crossing_world import TRANSIT, Between, Side, bank, pay
from tests.ledger_world import DAY

ACME, ZETA, STARK = "acme:w:a", "zeta:w:a", "stark:w:a"
pytestmark = pytest.mark.no_cover  # tracing would triple its time, and the unit tests cover every line


@dataclass(frozen=True)
class Node:
    """`clients`: what each of them has yet to submit. `path`: how it was reached, for whoever reads a failure."""

    world: Between
    clients: tuple[tuple[Any, ...], ...]
    path: tuple[str, ...] = ()

    def digest(self) -> bytes:
        h = blake2b(repr([len(c) for c in self.clients]).encode(), digest_size=16)
        for side in self.world.sides:
            for part in (sorted(side.rows.items()), side.log, side.next):
                h.update(repr(part).encode())
        return h.digest()


class WrongError(AssertionError):
    """Something that must never be was found."""


@dataclass
class Explorer:
    """Walks every state. `leaks`: what an aborted batch sent to other partitions is there all the same, once in a run;
    `loses`: a worker dies after its commit, once in a run, with what it had to send to others."""

    start: Node
    leaks: bool = False
    loses: bool = False
    found: Counter[str] = field(default_factory=Counter)

    def run(self) -> None:
        self.funds = self._available(self.start.world)
        todo, seen = [self.start], {self.start.digest()}
        while todo:
            node = todo.pop()
            self.found["states"] += 1
            try:
                self._check(node)
                nexts = list(self._nexts(node))
            except (AssertionError, InvariantError, KeyError) as e:
                raise WrongError(f"{e}\nafter: " + "; ".join(node.path)) from e
            if not nexts:
                self._check_end(node)
                continue
            for n in nexts:
                self.found["steps"] += 1
                digest = n.digest()
                if digest not in seen:
                    seen.add(digest)
                    todo.append(n)

    def _nexts(self, node: Node) -> Iterator[Node]:
        for i, commands in enumerate(node.clients):
            if commands:
                world = fork(node.world)
                world.submit(commands[0])
                rest = (*node.clients[:i], commands[1:], *node.clients[i + 1 :])
                yield Node(world, rest, (*node.path, f"client {i}: {commands[0].idempotency_key}"))
        for p in range(len(node.world.sides)):
            waiting = len(node.world.waiting(p))
            for count in sorted({1, waiting}) if waiting else ():
                yield self._delivered(node, p, count)
                if (self.leaks or self.loses) and not any("dies" in x for x in node.path):
                    yield from self._outside(node, p, count)

    def _delivered(self, node: Node, p: int, count: int) -> Node:
        """The next commands of a partition, by a worker that goes on after an abort, and by one that took over."""
        warm, cold = fork(node.world, warm=p), fork(node.world, cold=p)
        before = deepcopy(warm.sides[p].base.rows), [a.state() for a in warm.sides[p].base.accounts.values()]
        warm.draft(p, count)  # aborted: it must leave nothing behind
        assert before == (warm.sides[p].base.rows, [a.state() for a in warm.sides[p].base.accounts.values()])
        said = warm.deliver(p, count)
        assert cold.deliver(p, count) == said
        for a, b in zip(warm.sides, cold.sides, strict=True):
            assert (a.rows, a.journal, a.log, a.next) == (b.rows, b.journal, b.log, b.next), "a take-over differs"
        steps = ", ".join(r.changes.get("step", r.command) + " " + r.outcome for r in said)
        return Node(warm, node.clients, (*node.path, f"{p}: {steps}"))

    def _outside(self, node: Node, p: int, count: int) -> Iterator[Node]:
        """What goes to other partitions is not in the Kafka transaction, and the worker dies before or after that."""
        world = fork(node.world, cold=p)
        draft, records, sent = world.draft(p, count)
        if not sent:
            return
        if self.leaks:
            world.send(sent)
        else:
            world.commit(p, draft, records, [])
        yield Node(world, node.clients, (*node.path, f"{p}: dies {'before' if self.leaks else 'after'} its commit"))

    # ---- what must be so -----------------------------------------------------------------------------------------

    @staticmethod
    def _available(world: Between) -> int:
        """What customers may spend, over all partitions."""
        mine = [a for a in world.accounts().values() if a.account_id.partition(":")[0] != "bank"]
        return sum(a.credits_posted - a.debits_posted - a.debits_pending for a in mine)

    def _check(self, node: Node) -> None:
        """In every state: books balance in each partition, nothing is made of nothing, nothing is posted twice."""
        world = node.world
        for p in range(len(world.sides)):
            accounts = [a for (q, _), a in world.accounts().items() if p == q]
            assert sum(a.debits_posted - a.credits_posted for a in accounts) == 0
            assert sum(a.debits_pending - a.credits_pending for a in accounts) == 0
            assert all(min(a.debits_pending, a.credits_pending) >= 0 for a in accounts)
            assert all(a.min_available != 0 or a.credits_posted >= a.debits_posted + a.debits_pending for a in accounts)
        assert self._available(world) <= self.funds, "money is there twice"
        for identity, legs in posted(world).items():
            repeated = [leg for leg, n in legs.items() if n > 1]
            assert not repeated, f"{identity.hex()} posted twice: {repeated}"

    def _check_end(self, node: Node) -> None:
        """When nothing is left to do: nothing is open, and every transaction was settled whole, or not at all."""
        world = node.world
        why = "\nafter: " + "; ".join(node.path)
        try:
            assert not world.in_flight(), f"still open: {world.in_flight()}"
            totals = world.totals()
            assert all(n == 0 for name, n in totals.items() if name != "posted CNY"), totals
            assert totals["posted CNY"] == 0
            assert not any(a.debits_pending or a.credits_pending for a in world.accounts().values())
            assert self._available(world) == self.funds, "money is lost"
            for t in transactions(self.start):
                final = finals(world, t)
                legs = posted(world).get(command_id(t.partner_id, t.idempotency_key), Counter())
                wanted = asked(t) if final == ["settled"] else set()
                assert len(final) == 1, f"{t.idempotency_key} ended {len(final)} times"
                assert {leg for leg in legs if not leg[0].startswith(TRANSIT)} == wanted, f"{final}: {legs}"
        except AssertionError as e:
            raise WrongError(f"{e}{why}") from e
        self.found["ends"] += 1
        self.found[
            " ".join(sorted(f"{t.idempotency_key} {finals(world, t)[0]}" for t in transactions(self.start)))
        ] += 1


def fork(world: Between, warm: int = -1, cold: int = -1) -> Between:
    """The same bytes in other hands; one side ready to settle, by a worker that goes on, or by one that took over."""
    new = world.fork()
    new.sides = [Side(dict(s.rows), list(s.journal), list(s.log), s.next, s.base, s.index) for s in world.sides]
    if warm >= 0:
        new.sides[warm].base, new.sides[warm].index = deepcopy(new.sides[warm].base), deepcopy(new.sides[warm].index)
    if cold >= 0:
        new.sides[cold] = new.sides[cold].cold()
    return new


def transactions(start: Node) -> list[Transaction]:
    """The different ones that the clients ask for."""
    found = {c.idempotency_key: c for client in start.clients for c in client if isinstance(c, Transaction)}
    return list(found.values())


def asked(t: Transaction) -> set[tuple[str, str, int]]:
    if t.postings:
        return {(p.account_id, p.side, p.amount) for p in t.postings}
    return {(t.accounts["payer"], "debit", t.amount), (t.accounts["payee"], "credit", t.amount)}


def finals(world: Between, t: Transaction) -> list[str]:
    """The final outcomes of a transaction."""
    records = world.records(world.place(tree_of(t)))
    mine = [r for r in records if r.command == "Transaction" and r.idempotency_key == t.idempotency_key]
    return [r.outcome for r in mine if r.outcome in ("settled", "rejected")]


def posted(world: Between) -> dict[bytes, Counter[tuple[str, str, int]]]:
    """What every transaction posted, over all partitions."""
    out: dict[bytes, Counter[tuple[str, str, int]]] = {}
    for p in range(len(world.sides)):
        for r in world.records(p):
            identity = bytes.fromhex(r.changes["transaction"]) if r.command == "Crossing" else r.command_id
            if r.postings and not r.idempotency_key.startswith("fund"):
                legs = out.setdefault(identity, Counter())
                legs.update((leg.account_id, leg.side, leg.amount) for leg in r.postings)
    return out


# ---- the scenarios -------------------------------------------------------------------------------------------------


def opposite() -> Node:
    """Two partitions pay each other, one payment is repeated, a payee is blocked and let go at any time."""
    p, q = pay("p", 700, ACME, ZETA), pay("q", 600, ZETA, ACME)
    blocks = BlockAccount("zeta", "b1", ZETA, False, True), BlockAccount("bank", "b2", ZETA, False, False)
    return Node(bank(("acme", "zeta")), ((p, p), (q,), blocks))


def scarce() -> Node:
    """Two payments of which the funds allow one, and one back that may come in time."""
    return Node(
        bank(("acme", "zeta")), ((pay("p", 700, ACME, ZETA), pay("q", 600, ACME, ZETA)), (pay("r", 300, ZETA, ACME),))
    )


def three_ways() -> Node:
    """One payment to two partitions, each of which may refuse it."""
    legs = ((ACME, "debit", 100), ("acme:w:b", "credit", 10), (ZETA, "credit", 30), (STARK, "credit", 60))
    t = Transaction("acme", "p", "wallet", "transfer", 0, "CNY", {}, tuple(Posting(*x) for x in legs), DAY)
    blocks = (BlockAccount("zeta", "b1", ZETA, False, True),), (BlockAccount("stark", "b2", STARK, False, True),)
    return Node(bank(("acme", "zeta", "stark"), 3), ((t,), *blocks))


def in_a_ring() -> Node:
    """Three partitions pay on what they have, each to the next."""
    ring = pay("p", 1_000, ACME, ZETA), pay("q", 1_000, ZETA, STARK), pay("r", 1_000, STARK, ACME)
    return Node(bank(("acme", "zeta", "stark"), 3), tuple((t,) for t in ring))


@pytest.mark.parametrize(
    ("scenario", "ends"),
    [
        (opposite, {"p settled q settled", "p rejected q settled"}),
        (scarce, {"p settled q rejected r settled", "p settled q settled r settled"}),
        (three_ways, {"p settled", "p rejected"}),
        (in_a_ring, {"p settled q settled r settled"}),
    ],
)
def test_no_interleaving_loses_or_doubles_money(scenario: Callable[[], Node], ends: set[str]) -> None:
    explorer = Explorer(scenario())
    explorer.run()
    print(scenario.__name__, dict(explorer.found))
    seen = {name for name in explorer.found if name not in ("states", "steps", "ends")}
    assert seen >= ends
    assert explorer.found["states"] > 100


# ---- the checker must find what is wrong -------------------------------------------------------------------------


def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commits as soon as one partition has reserved."""
    monkeypatch.setattr(crossing, "all", any, raising=False)


def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignores a `reserved` that comes after a refusal: nobody tells that partition to give up what it set aside."""
    send, answer = flights.send, crossing._answer
    late: list[bool] = []

    def answered(book: Any, c: Any, at: Any) -> Any:
        row = flights.open_here(book.draft, book.partition, c.transaction_id)
        late[:] = [row is not None and row.reason != ""]
        return answer(book, c, at)

    def sent(book: Any, row: Any, step: str, *rest: Any, **more: Any) -> None:
        if not (step == crossing.VOID and late[0]):
            send(book, row, step, *rest, **more)

    monkeypatch.setattr(crossing, "_answer", answered)
    monkeypatch.setattr(crossing, "send", sent)


def doubtful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks the account rules once more at the commit, when the other partitions have settled already."""
    decided = crossing._decided

    def asked_again(book: Any, c: Any, at: Any) -> Any:
        row = flights.open_here(book.draft, c.from_partition, c.transaction_id)
        if row is not None and c.step == crossing.COMMIT:
            accounts = [book.draft.accounts[p.account_id] for p in row.legs]
            if any(a.credits_blocked for a in accounts):
                raise Rejection(Reason.CREDITS_BLOCKED)
        return decided(book, c, at)

    monkeypatch.setattr(crossing, "_decided", asked_again)


def spendable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the payer's money where it is until the decision."""
    aside = flights.aside

    def not_at_home(i: bytes, legs: Any, offset: int, sign: int = 1) -> Any:
        home = any(side == "debit" and a.owner != "bank" for a, side, _ in legs)
        return aside(i, [] if home else legs, offset, sign)

    monkeypatch.setattr(crossing, "aside", not_at_home)


@pytest.mark.parametrize(
    ("hole", "scenario", "found"),
    [
        (hasty, three_ways, "0 pending"),
        (forgetful, three_ways, "still open"),
        (doubtful, three_ways, "still open"),
        (spendable, scarce, "its limit is 0"),
    ],
)
def test_a_hole_in_the_protocol_is_found(
    hole: Callable[[pytest.MonkeyPatch], None],
    scenario: Callable[[], Node],
    found: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    explorer = Explorer(scenario())
    hole(monkeypatch)
    with pytest.raises(WrongError, match=found) as caught:
        explorer.run()
    print(hole.__name__, explorer.found["states"], caught.value)


@pytest.mark.parametrize("scenario", [scarce, three_ways])
def test_what_is_sent_after_the_commit_and_lost_is_found(scenario: Callable[[], Node]) -> None:
    with pytest.raises(WrongError, match="still open") as caught:
        Explorer(scenario(), loses=True).run()
    print(caught.value)


@pytest.mark.parametrize("scenario", [scarce, three_ways])
def test_what_an_aborted_batch_sent_does_no_harm(scenario: Callable[[], Node]) -> None:
    """The command that sent it comes again, at the same offset, and says the same: its second copy is a repeat. So the
    protocol would bear a log that shows what was aborted; it does not bear one that loses what was committed."""
    explorer = Explorer(scenario(), leaks=True)
    explorer.run()
    print(scenario.__name__, dict(explorer.found))
    assert explorer.found["ends"] > 10
