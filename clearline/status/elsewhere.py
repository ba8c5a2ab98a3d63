"""The figures of a role that runs elsewhere, from its /metrics and /readyz, as its ready file would have them here."""

from __future__ import annotations

from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from clearline.audit.continuous.difference import Verdict
from schemas.errors import ClearlineError
from streams.metric_names import PARTS, Name


def figures_at(url: str, timeout_s: float) -> dict[str, Any]:
    """What the role at this address says of itself. 503 of /readyz is an answer, too. Raises ClearlineError."""
    base = url.rstrip("/")
    try:
        with httpx.Client(timeout=timeout_s) as client:
            told = client.get(f"{base}/metrics").raise_for_status().text
            readiness = client.get(f"{base}/readyz").json()
        samples = [s for family in text_string_to_metric_families(told) for s in family.samples]
        return figures_of(samples, [str(why) for why in readiness.get("why", [])])
    except (httpx.HTTPError, ValueError, AttributeError) as e:
        raise ClearlineError(f"{base} does not answer: {e or type(e).__name__}") from None


def figures_of(samples: list[Any], why: list[str]) -> dict[str, Any]:
    """Figures by the names of ready files. `why`: what does not hold, as /readyz says it."""
    one = {s.name: s.value for s in samples if not set(s.labels) - {"role"}}
    by: dict[str, dict[str, float]] = {}
    for s in samples:
        key = s.labels.get("partition") or s.labels.get("part") or s.labels.get("code")
        if key is not None:
            by.setdefault(s.name, {})[key] = s.value
    waits = [part for part, value in by.get(Name.ROLE_WAITING, {}).items() if value]
    codes = [code for code, value in by.get(Name.ROLE_WAITING_CODE, {}).items() if value]
    stopped = {**by.get(Name.PARTITION_STOPPED, {}), **by.get(Name.UNSEALABLE, {})}
    found: dict[str, Any] = {
        "stopped": {p: "see the log of this role" for p, value in stopped.items() if value},
        "waiting_for": "; ".join(why) if waits else "", "waiting_part": PARTS.get(waits[0], "") if waits else "",
        "waiting_code": codes[0] if codes else "",
        "not_ready": "; ".join(why),
    }  # fmt: skip
    if Name.PARTITION_ASSIGNED in by:
        found["partitions"] = [int(p) for p, value in by[Name.PARTITION_ASSIGNED].items() if value]
        found["next_offset"] = {p: int(v) for p, v in by.get(Name.PARTITION_NEXT_OFFSET, {}).items()}
        found["heads"] = {p: {"sequence": int(v), "chain": ""} for p, v in by.get(Name.PARTITION_SEQUENCE, {}).items()}
        found["dropped"] = {
            "fenced": int(one.get(Name.FENCED, 0)), "last_fenced_at_ms": int(one.get(Name.LAST_FENCED, 0) * 1000),
        }  # fmt: skip
    if Name.FOLLOWER_POSITION in by:
        found["verified"] = {p: int(v) for p, v in by[Name.FOLLOWER_POSITION].items()}
    for name in (Name.COMMANDS, Name.FOLLOWER_RECORDS):
        if name in one:
            found["done"] = int(one[name])
    if Name.TIEOUT_VERDICT in by and one.get(Name.TIEOUT_ROUND_AT):
        found |= _tie_out(by, one[Name.TIEOUT_ROUND_AT])
    if one.get(Name.LAST_COMMIT):
        found["last_commit_at"] = one[Name.LAST_COMMIT]
    if Name.CLOCK_SKEW in one:
        found["clock_skew_ms"] = one[Name.CLOCK_SKEW] * 1000
    return found


def _tie_out(by: dict[str, dict[str, float]], round_at_s: float) -> dict[str, Any]:
    """What the tie-out says, without what differs: accounts and amounts are in no metric."""
    verdicts = {part: Verdict(int(v)) for part, v in by[Name.TIEOUT_VERDICT].items()}
    counts, lags = by.get(Name.TIEOUT_DIFFERENCES, {}), by.get(Name.TIEOUT_LAG, {})
    parts = {
        part: {"verdict": v.word, "said": "", "differences": int(counts.get(part, 0)), "lag_seconds": lags.get(part, 0)}
        for part, v in verdicts.items()
    }
    return {
        "verdict": max(verdicts.values()).word, "lag_seconds": max(lags.values(), default=0.0), "parts": parts,
        "differences": [], "cut": "", "totals": {}, "round_at": int(round_at_s * 1000),
    }  # fmt: skip
