"""What a partner may look at: accounts, balances, statements, partners, products, limits. Filled in by its routes."""

from __future__ import annotations

from typing import Protocol


class Reads(Protocol):
    """Answers from the projections; each says as of which offsets. Raises PartUnavailableError."""
