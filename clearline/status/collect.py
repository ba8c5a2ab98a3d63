"""One look at everything, fast and without ever failing: whatever does not answer in time is said to be unknown.

Parts are asked side by side, each within about a second, so that one that hangs makes nobody else look ill; what has
not answered after `BUDGET_S` is left to answer the next look. `Collector` keeps its clients and what it saw before, for
whoever looks again and again; `collect` looks once, and a second time where a rate is needed to say when a lag is gone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace
from functools import partial
from typing import Any

from clearline import detached, lag
from clearline.config import Settings
from clearline.connection import clickhouse_config, redis_config, registry_of
from clearline.embedded.folder import DataFolder
from clearline.stack import PARTS, resolved_settings
from clearline.status.disks import Disks
from clearline.status.elsewhere import figures_at
from clearline.status.flows import FlowReader, Flows
from clearline.status.incidents import incidents
from clearline.status.model import Disk, Lag, Part, Partition, Role, Section, Status
from clearline.status.processes import expected_roles, is_paused, role_here, role_of, told
from schemas.errors import NO_SPACE, ClearlineError, PartUnavailableError
from sinks.look import StoreLook, look_clickhouse, look_redis

BUDGET_S = 2.8
ASK_S = 1.3
SCHEMAS_AGAIN_S = 10.0
RATE_PAUSE_S = 0.7
_FOLLOWERS = ("sink-clickhouse", "sink-redis", "sealer", "tieout")


def collect(settings: Settings, folder: DataFolder) -> Status:
    """One look; two where something is behind, because one alone tells no rate. Takes at most about 3 s and raises
    nothing because a part is down; ClearlineError when the data folder's own files are damaged."""
    collector = Collector(settings, folder)
    try:
        found = collector.collect()
        if any(x.total and x.rate is None for x in found.lags) and found.took_ms < (BUDGET_S - RATE_PAUSE_S) * 500:
            time.sleep(RATE_PAUSE_S)
            found = collector.collect()
        return found
    finally:
        collector.close()


class Collector:
    """Looks again and again. Not thread-safe: one look at a time. Close it."""

    def __init__(self, settings: Settings, folder: DataFolder) -> None:
        self._settings = settings
        self._folder = folder
        self._pool = ThreadPoolExecutor(max_workers=8, thread_name_prefix="status")
        self._asked: dict[str, Future[Any]] = {}
        self._disks = Disks(folder)
        self._flows: tuple[str, FlowReader] | None = None
        self._schemas: tuple[float, dict[str, str]] = (float("-inf"), {})

    def collect(self) -> Status:
        """One look. Raises ClearlineError when the data folder's own files are damaged."""
        began = time.monotonic()
        run = detached.running(self._folder)
        base = Status(
            self._settings.world, "stopped", str(self._settings.data_dir), int(time.time() * 1000),
            embedded=not is_external(self._settings),
        )  # fmt: skip
        if run is None and base.embedded:
            return replace(base, disks=self._disks.look(), took_ms=_ms_since(began))
        try:
            settings = resolved_settings(self._settings)
        except ClearlineError as e:
            state = str(run.get("state")) if run else "unknown"
            return replace(base, state=state, error=str(e), took_ms=_ms_since(began))
        figures = self._figures(settings, run)
        roles = self._roles(settings, run, figures)
        answers = self._ask(settings, figures)
        found = self._assembled(base, settings, run, roles, figures, answers)
        found = replace(found, took_ms=_ms_since(began))
        return replace(found, incidents=incidents(found))

    def close(self) -> None:
        """Ends clients and threads; one that hangs is left to end by itself."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        running = self._asked.get("kafka")
        if self._flows is not None and (running is None or running.done()):
            self._flows[1].close()

    # ---- asking ------------------------------------------------------------------------------------------------------

    def _ask(self, settings: Settings, figures: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
        """The answers by name; an exception where there is none."""
        followers = {
            name: {int(p): int(o) for p, o in f["verified"].items()}
            for name, f in figures.items()
            if (name in _FOLLOWERS or name.startswith("webhooks-")) and f.get("verified")
        }
        questions: dict[str, Callable[[], Any]] = {
            "kafka": lambda: self._kafka(settings).look(followers),
            "registry": lambda: registry_of(settings).ping(ASK_S),
            "schemas": lambda: self._wrong_schemas(settings),
            "clickhouse": lambda: look_clickhouse(clickhouse_config(settings), ASK_S),
            "redis": lambda: look_redis(redis_config(settings), ASK_S),
            "disks": self._disks.look,
        }
        began = {}
        for name, question in questions.items():
            running = self._asked.get(name)
            if running is None or running.done():  # else the last look's question is still open: nobody asks it twice
                self._asked[name] = self._pool.submit(_timed, question)
            began[name] = self._asked[name]
        wait(began.values(), timeout=BUDGET_S)
        answers = {name: _answer(future) for name, future in began.items()}
        said = answers["kafka"]
        if isinstance(said, ClearlineError) and getattr(said, "code", "") != NO_SPACE:
            # It answers as soon as it says what topics there are; all else may need longer on a busy machine.
            answered = self._flows is not None and self._flows[1].answered
            answers["kafka"] = SlowError(str(said)) if answered else ClearlineError(str(said))
        return answers

    def _kafka(self, settings: Settings) -> FlowReader:
        """The clients, which stay as long as the address does."""
        at = str(settings.kafka.bootstrap)
        if self._flows is None or self._flows[0] != at:
            self._flows = (at, FlowReader(settings))
        return self._flows[1]

    def _wrong_schemas(self, settings: Settings) -> dict[str, str]:
        """What is wrong with our schemas in the registry, asked now and then: it is many questions."""
        at, wrong = self._schemas
        if wrong or time.monotonic() - at > SCHEMAS_AGAIN_S:
            wrong = registry_of(settings).look(ASK_S)
            self._schemas = (time.monotonic(), wrong)
        return wrong

    def _figures(self, settings: Settings, run: Mapping[str, Any] | None) -> dict[str, dict[str, Any]]:
        """What each role says of itself: in its ready file here, at its address elsewhere."""
        if run is not None:
            return {name: told(self._folder, name) for name in run.get("roles", {})}
        urls = settings.status.roles
        asked = {name: self._pool.submit(_timed, partial(figures_at, url, ASK_S)) for name, url in urls.items()}
        wait(asked.values(), timeout=ASK_S + 0.3)
        answers = {name: _answer(future) for name, future in asked.items()}
        return {n: a if isinstance(a, dict) else {"_unknown": str(a)} for n, a in answers.items()}

    # ---- putting together --------------------------------------------------------------------------------------------

    def _roles(
        self, settings: Settings, run: Mapping[str, Any] | None, figures: Mapping[str, dict[str, Any]]
    ) -> tuple[Role, ...]:
        if run is None:
            return tuple(_role_elsewhere(name, f, settings.status.roles[name]) for name, f in figures.items())
        here = run.get("roles", {})
        found = [role_here(n, child, self._folder, figures.get(n, {}), settings.world) for n, child in here.items()]
        if run.get("state") == "running":
            found += [
                Role(n, "stopped", "its supervisor does not run it") for n in expected_roles(settings) if n not in here
            ]
        return tuple(found)

    def _assembled(
        self, base: Status, settings: Settings, run: dict[str, Any] | None, roles: tuple[Role, ...],
        figures: Mapping[str, dict[str, Any]], answers: dict[str, Any],
    ) -> Status:  # fmt: skip
        flows, disks = answers["kafka"], answers["disks"]
        schemas = answers["schemas"]
        children = (run or {}).get("parts", {})
        found = replace(
            base,
            state=str(run.get("state")) if run else "external",
            supervisor=(run or {}).get("supervisor", {}).get("pid"),
            error=str((run or {}).get("error") or ""),
            addresses=(run or {}).get("addresses", {}),
            parts=tuple(_part(name, settings, children.get(name, {}), answers[name]) for name in PARTS),
            roles=roles,
            schemas=Section(schemas) if isinstance(schemas, dict) else Section(unknown=str(schemas)),
            in_flight=lag.in_flight({n: {"ready": f} for n, f in figures.items()}),
            tieout=_tie_out(figures.get("tieout", {})),
            disks=(*_disks_here(disks, base.embedded), *_disks_of(answers["clickhouse"], base.embedded)),
            frozen=_frozen(figures),
            settled_per_second=_sum_of_rates(roles),
        )
        if not isinstance(flows, Flows):
            why = str(flows)
            return replace(
                found, topics=replace(found.topics, unknown=why), dead=replace(found.dead, unknown=why),
                lags_unknown=why, partitions=_partitions(settings, None, roles, figures),
            )  # fmt: skip
        settlement = flows.lags[0]
        return replace(
            found, topics=flows.topics, lags=flows.lags, dead=flows.dead,
            submitted=flows.look.ends.get(f"{settings.world}.transactions.submitted", {}),
            received_per_second=settlement.inflow,
            settled_per_second=found.settled_per_second if found.settled_per_second is not None else settlement.rate,
            partitions=_partitions(settings, flows, roles, figures),
        )  # fmt: skip


def _timed(question: Callable[[], Any]) -> tuple[Any, int]:
    began = time.monotonic()
    try:
        return question(), _ms_since(began)
    except ClearlineError as e:
        return e, _ms_since(began)
    except Exception as e:  # whatever a client raises: a look must not fail, and says what it met
        return ClearlineError(f"{type(e).__name__}: {e}"), _ms_since(began)


class SlowError(ClearlineError):
    """Not all was answered in time. It may hang, or the machine may be busy: one look cannot tell."""


def _answer(future: Future[Any]) -> Any:
    if not future.done():
        return SlowError(f"no answer within {BUDGET_S:.0f} s")
    answer, _ = future.result()
    return answer


def _ms_since(began: float) -> int:
    return int((time.monotonic() - began) * 1000)


def is_external(settings: Settings) -> bool:
    """Whether every part has an address in the settings, so that nothing is run here."""
    return all((settings.kafka.bootstrap, settings.registry.url, settings.clickhouse.host, settings.redis.url))


def _role_elsewhere(name: str, figures: dict[str, Any], url: str) -> Role:
    if "_unknown" in figures:
        return role_of(name, "down", {}, error=str(figures["_unknown"]))
    state = "halted" if figures.get("stopped") else "ready"
    return replace(role_of(name, state, figures, error=figures["not_ready"]), metrics=f"{url.rstrip('/')}/metrics")


def _part(name: str, settings: Settings, child: Mapping[str, Any], answer: Any) -> Part:
    """What a part itself answered, beside what its supervisor says of its process."""
    house = settings.clickhouse
    address = {
        "kafka": str(settings.kafka.bootstrap), "registry": str(settings.registry.url),
        "clickhouse": f"{house.host}:{house.port}", "redis": redis_config(settings).address,
    }[name]  # fmt: skip
    state, why, paused = "up", "", is_paused(child.get("pid"))
    facts: dict[str, Any] = {}
    if isinstance(answer, SlowError) and not paused and child.get("state") in (None, "ready"):
        state, why = "slow", str(answer)
    elif isinstance(answer, PartUnavailableError):
        state, why = NO_SPACE if answer.code == NO_SPACE else "down", str(answer)
    elif isinstance(answer, Exception):
        state, why = "down", str(answer)
    elif isinstance(answer, StoreLook):
        facts = {"version": answer.version, "uptime_s": answer.uptime_s, **answer.facts}
        if answer.read_only:
            state, why = "read_only", answer.read_only
    elif isinstance(answer, Flows):
        facts = {"brokers": answer.look.brokers, "took_ms": answer.look.took_ms}
    return Part(
        name, address, state, why, str(child.get("state") or ""), child.get("pid"), int(child.get("restarts") or 0),
        paused, str(child.get("error") or ""), str(child.get("log") or ""), facts=facts,
    )  # fmt: skip


def _disks_here(answer: Any, embedded: bool) -> tuple[Disk, ...]:
    """The data folder's disks. Where nothing but a role runs, a container for instance, it is small and need not hold
    what the embedded parts would take."""
    found: tuple[Disk, ...] = answer if isinstance(answer, tuple) else ()
    return found if embedded else tuple(replace(d, needed=0) for d in found)


def _disks_of(answer: Any, embedded: bool) -> tuple[Disk, ...]:
    """The disks of a ClickHouse that runs elsewhere; of the embedded one it is the data folder's."""
    if embedded or not isinstance(answer, StoreLook):
        return ()
    return tuple(Disk(f"clickhouse:{d.path}", d.free, d.total) for d in answer.disks)


def _tie_out(figures: Mapping[str, Any]) -> dict[str, Any] | None:
    names = ("verdict", "lag_seconds", "parts", "differences", "cut", "totals", "round_at")
    return {n: figures[n] for n in names} if all(n in figures for n in names) else None


def _frozen(figures: Mapping[str, dict[str, Any]]) -> Section:
    """What the workers say is frozen in their partitions: each subject once."""
    told_by = [f["frozen"] for n, f in figures.items() if n.startswith("worker-") and "frozen" in f]
    if not told_by:
        return Section(unknown="no worker tells what is frozen; `clearline freeze ls` reads it from the log")
    rows = {(row["level"], row["subject_id"]): row for rows in told_by for row in rows}
    return Section([rows[key] for key in sorted(rows)])


def _sum_of_rates(roles: tuple[Role, ...]) -> float | None:
    rates = [r.rate_per_second for r in roles if r.kind == "worker" and r.rate_per_second is not None]
    return round(sum(rates), 1) if rates else None


def _partitions(
    settings: Settings, flows: Flows | None, roles: tuple[Role, ...], figures: Mapping[str, dict[str, Any]]
) -> tuple[Partition, ...]:
    """Who settles which partition: as the group says where it has members, else as the workers do."""
    owner = {p: r.name for r in roles if r.kind == "worker" and r.state == "ready" for p in r.partitions}
    ends: Mapping[int, int] = {}
    if flows is not None:
        ends = flows.look.ends.get(f"{settings.world}.transactions.submitted", {})
        if flows.look.members:
            owner = {p: f"worker-{m.instance.rpartition('-')[2]}" for m in flows.look.members for p in m.partitions}
    heads: dict[int, dict[str, Any]] = {}
    next_offsets: dict[int, int] = {}
    halted: dict[int, str] = {}
    for name, f in figures.items():
        if name.startswith("worker-"):
            for p, head in (f.get("heads") or {}).items():
                if head["sequence"] >= heads.get(int(p), {"sequence": -1})["sequence"]:
                    heads[int(p)] = head
                    next_offsets[int(p)] = int((f.get("next_offset") or {}).get(p, 0))
            halted |= {int(p): str(why) for p, why in (f.get("stopped") or {}).items()}
    count = max([settings.partitions, *(p + 1 for p in ends)])
    return tuple(
        Partition(
            p,
            owner.get(p, ""),
            next_offsets.get(p),
            ends.get(p),
            heads.get(p, {}).get("sequence"),
            str(heads.get(p, {}).get("chain", "")),
            halted.get(p, ""),
        )
        for p in range(count)
    )


def behind(status: Status, role: str) -> Lag | None:
    """The lag of one role."""
    return next((x for x in status.lags if x.role == role), None)
