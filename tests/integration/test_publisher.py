"""The publisher SDK and the snippets of docs/publishing.md on a real broker, registry and worker."""

from __future__ import annotations

import ast
import asyncio
import subprocess
import sys
from typing import Any

import pytest

from clearline.config import settings_env
from clearline.publisher import (
    AsyncPublisher,
    ContractError,
    OutcomeTimeoutError,
    Publisher,
    RejectedError,
)
from clearline.stack import CHECKOUT
from schemas.errors import BadInputError
from streams.reader import end_offsets, read_to_end
from tests.contract.test_publishing import block
from tests.integration.conftest import World

pytestmark = pytest.mark.stack

WAIT_S = 120.0
OPENING: list[dict[str, Any]] = [
    {"command": "OpenAccount", "idempotency_key": "1", "account_id": "bank:clearing:CNY", "type": "asset", "currency": "CNY"},
    {"command": "AdmitPartner", "idempotency_key": "2", "subject_id": "acme", "name": "Acme"},
    {"command": "AdmitPartner", "idempotency_key": "3", "subject_id": "acme/shop-17", "name": "Shop"},
    *(
        {"command": "OpenAccount", "idempotency_key": f"open-{a}", "account_id": a, "type": "liability", "currency": "CNY",
         "min_available": 0}
        for a in ("acme:wallet:alice", "acme:wallet:bob", "acme/shop-17:wallet:till")
    ),
    *(
        {"partner_id": "acme", "idempotency_key": f"fund-{a}", "product": "wallet", "operation": "transfer",
         "amount": 1_000_000, "currency": "CNY", "accounts": {"payer": "bank:clearing:CNY", "payee": a}}
        for a in ("acme:wallet:alice", "acme/shop-17:wallet:till")
    ),
]  # fmt: skip


def payment(key: str, amount: int) -> dict[str, Any]:
    return {
        "partner_id": "acme", "idempotency_key": key, "product": "wallet", "operation": "transfer", "amount": amount,
        "currency": "CNY", "accounts": {"payer": "acme:wallet:alice", "payee": "acme:wallet:bob"},
    }  # fmt: skip


def publisher(world: World) -> Publisher:
    return Publisher(kafka=world.kafka.bootstrap, registry=str(world.settings.registry.url), world=world.settings.world)


def test_one_and_many_with_their_outcomes(world: World) -> None:
    with publisher(world) as p:
        sent = [p.publish(document) for document in OPENING]
        assert [len(s.acknowledged()) for s in sent] == [4] + [1] * 7, "the bank's account is in every partition"
        with pytest.raises(OutcomeTimeoutError, match="is in the log and has no outcome"):
            sent[-1].outcome(0.2)  # no worker is up
        world.start()
        assert [s.outcome(WAIT_S).status for s in sent] == ["applied"] * 6 + ["settled"] * 2

        first = p.settle(payment("o-1", 5), timeout_s=WAIT_S)
        again = p.settle(payment("o-1", 5), timeout_s=WAIT_S)
        assert (first.status, first.repeated, again.repeated) == ("settled", False, True)
        assert (again.id, again.offset, again.booked_at) == (first.id, first.offset, first.booked_at)
        with pytest.raises(RejectedError, match="idempotency_conflict") as conflict:
            p.settle(payment("o-1", 6), timeout_s=WAIT_S)
        assert (conflict.value.reason, conflict.value.detail["field"]) == ("idempotency_conflict", "idempotency_key")
        rejected = p.publish(payment("big", 10**9)).outcome(WAIT_S)
        assert (rejected.status, rejected.reason) == ("rejected", "insufficient_funds")
        assert rejected.cure
        assert p.publish(payment("big", 10**9)).outcome(WAIT_S).repeated, "a rejection is final too"

        before = sum(end_offsets(world.kafka, world.topics.submitted).values())
        with pytest.raises(ContractError, match="amount"):
            p.publish(**payment("o-2", 5) | {"amount": 5.0})
        assert p.dry_run(payment("o-2", 5)) is None
        foreseen = p.dry_run(payment("o-2", 10**9), foresee=True)
        assert foreseen is not None
        assert (foreseen.status, foreseen.reason) == ("rejected", "insufficient_funds")
        assert sum(end_offsets(world.kafka, world.topics.submitted).values()) == before, "nothing was sent"

        refused: list[int] = []
        many = p.publish_many(
            ({**payment(f"m-{i}", 1), **({"amount": 0} if i % 1_000 == 7 else {})} for i in range(3_000)),
            lambda i, _e: refused.append(i),
        )
        assert (many.published, many.refused_count, refused) == (2_997, 3, [7, 1_007, 2_007])
        assert p.settle(payment("last", 1), timeout_s=WAIT_S).status == "settled"
        unkeyed = p.publish({k: v for k, v in payment("x", 1).items() if k != "idempotency_key"})
        assert unkeyed.settled(WAIT_S).idempotency_key == unkeyed.idempotency_key
    outcomes = [r.outcome for r in world.journal() if r.idempotency_key.startswith("m-")]
    assert outcomes == ["settled"] * 2_997


def test_asyncio_and_backpressure(world: World) -> None:
    world.start()

    async def run() -> None:
        async with AsyncPublisher(world.settings, queue_max=10) as p:
            for document in OPENING:
                assert (await (await p.publish(document)).outcome(WAIT_S)).status in ("applied", "settled")
            sent = await asyncio.gather(*(p.publish(payment(f"a-{i}", 1)) for i in range(200)))
            outcomes = await asyncio.gather(*(s.settled(WAIT_S) for s in sent))
            assert len({o.offset for o in outcomes}) == 200
            await p.flush()
            assert (await p.publish_many([payment("b", 1)])).published == 1

    asyncio.run(run())
    with pytest.raises(BadInputError, match="not both"):
        AsyncPublisher(world.settings, world="other")


def test_the_pages_snippets_run(world: World) -> None:
    """The first one is the SDK in eight lines; the second one knows nothing of this package."""
    world.start()
    with publisher(world) as p:
        for document in OPENING:
            p.publish(document).outcome(WAIT_S)
    first, alone = block("python", "## From Python"), block("python", "### With confluent-kafka alone")
    assert sum(1 for line in first.splitlines() if line.strip()) <= 8
    imported = {name.split(".")[0] for node in ast.walk(ast.parse(alone)) for name in names(node)}
    assert imported == {"os", "hashlib", "confluent_kafka"}
    nowhere = {"CLEARLINE_CLICKHOUSE__PORT": "1", "CLEARLINE_CLICKHOUSE__HTTP_PORT": "1"}
    env = {**settings_env(world.settings), **nowhere, "PYTHONPATH": str(CHECKOUT)}
    shown = run(first, env).split()
    assert shown[0] == "settled"
    plain = {
        "KAFKA": world.kafka.bootstrap,
        "REGISTRY": str(world.settings.registry.url),
        "WORLD": world.settings.world,
    }
    assert run(alone, plain).split() == ["settled", "307f4df1af5bf06aee0b5a20891b4c70"]
    assert run(alone, plain).split()[0] == "repeated"


def test_what_is_left_at_the_end_of_a_program_is_flushed(world: World) -> None:
    program = (
        "from clearline.publisher import Publisher\n"
        f"p = Publisher(kafka={world.kafka.bootstrap!r}, registry={world.settings.registry.url!r}, world={world.settings.world!r})\n"
        f"for i in range(500): p.publish({payment('x', 1)!r} | {{'idempotency_key': f'k-{{i}}'}})\n"
    )
    run(program, {"PYTHONPATH": str(CHECKOUT)})
    # At least once: on a slow machine what was not acknowledged in time is sent again, and the ledger calls it repeated.
    sent = [world.codec.decode(r.value) for r in read_to_end(world.kafka, world.topics.submitted)]
    assert {c.idempotency_key for c in sent} == {f"k-{i}" for i in range(500)}


def names(node: ast.AST) -> list[str]:
    """What an import statement names."""
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""]
    return [alias.name for alias in node.names] if isinstance(node, ast.Import) else []


def run(program: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PATH": "/usr/bin:/bin", **env}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
