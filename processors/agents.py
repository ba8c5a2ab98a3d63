"""The Faust agents. The settlement agent takes whole batches from an in-memory channel and is the only writer of state.

Faust's consumer, tables and transactions are not used on this path: its exactly_once lost and doubled money under
kill -9 when it was measured, and its per-event cost is three times what a settlement may cost (docs/ARCHITECTURE.md).
"""

from __future__ import annotations

from typing import Any

from processors.settlement import Batch, Settlement


def add_settlement_agent(app: Any, channel: Any, settlement: Settlement) -> Any:
    """Adds the agent that settles `Batch`es from `channel` to a Faust app; returns the agent."""

    async def settle(stream: Any) -> None:
        async for batch in stream:
            take(batch, settlement)

    return app.agent(channel, concurrency=1, name="settlement")(settle)


def take(batch: Batch, settlement: Settlement) -> None:
    """Settles one batch unless it was taken already; there is no await between its first and last change of state."""
    if batch.claimed:
        return
    batch.claimed = True
    try:
        settlement.settle(batch)
    except BaseException as e:
        batch.error = e
    finally:
        batch.done.set()
