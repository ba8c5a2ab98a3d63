"""Who may do what on the brokers: one principal per role, the whole table as data, and what makes the brokers' ACLs it.

What is not in the table is denied (`allow.everyone.if.no.acl.found=false`), so it is read as it stands: a role that
needs one topic more gets one word more here, and `clearline access plan` shows the ACL that this makes. Names of
principals begin with their world, so nobody of the sandbox can name a topic of the live world.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, but not said so
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from schemas.errors import BadInputError, PartUnavailableError
from streams.clients import KafkaConfig, admin_client
from streams.topics import Topics

SUPER_USER = "prepare"  # makes topics, users and ACLs, then ends; the brokers know it as super user
READER_GROUPS = "clearline-"  # named by clients that follow topics without joining a group
SCRAM_ITERATIONS = 8_192
_ANSWER_S = 30.0


class Rule(NamedTuple):
    """One ACL without its principal. `resource`: topic, group or transactional_id; `pattern`: literal or prefixed."""

    resource: str
    name: str
    pattern: str
    operation: str


@dataclass(frozen=True, slots=True)
class Role:
    """What one role does on the brokers. Names of topics are those of `Topics`: `journal` is `live.journal`.

    `describes` "*": ends, numbers of partitions and ids of all topics of the world, none of their records. `joins`:
    groups whose offsets it commits, `looks_at`: groups whose offsets it only sees. `transactions`: beginnings of its
    transactional ids. `configs`: may read the settings of topics. `more`: rules whose names are not of the world.
    """

    purpose: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    describes: tuple[str, ...] = ("*",)
    joins: tuple[str, ...] = ()
    looks_at: tuple[str, ...] = ()
    transactions: tuple[str, ...] = ()
    configs: bool = False
    more: tuple[Rule, ...] = ()


ALL = ("submitted", "journal", "state", "dead", "triage", "seals", "replies", "access", "calls", "webhooks")
_TRIAGE_READS = ("submitted", "journal", "dead", "triage")
_GATEWAY_READS = ("submitted", "journal", "state", "replies", "access", "webhooks")
_GATEWAY_WRITES = ("submitted", "access", "calls")

ROLES: dict[str, Role] = {
    "worker": Role(
        "settles: the only one that writes the journal",
        reads=("submitted", "journal", "state"),
        writes=("submitted", "journal", "state", "dead", "replies"),
        joins=("settlement",),
        transactions=("settlement-",),
    ),
    "sink-clickhouse": Role("projects into ClickHouse", reads=("journal", "state", "dead", "seals", "calls")),
    "sink-redis": Role("projects balances into Redis", reads=("state",)),
    "sealer": Role("seals the journal", reads=("journal", "seals"), writes=("seals",), transactions=("sealer",)),
    "tieout": Role(
        "compares journal, ClickHouse and Redis, and looks as `clearline status` does, for Prometheus",
        reads=("submitted", "journal", "state", "dead"),
        looks_at=("settlement",),
    ),
    "gateway": Role("the HTTP way in for partners", reads=_GATEWAY_READS, writes=_GATEWAY_WRITES),
    "console": Role(
        "a gateway with the operators' page: what `gateway`, `triage` and `auditor` may",
        reads=ALL,
        writes=(*_GATEWAY_WRITES, "triage"),
        looks_at=("settlement",),
        transactions=("triage",),
    ),
    "webhooks": Role(
        "notifies partners",
        reads=("journal", "state", "access", "webhooks"),
        writes=("webhooks",),
        transactions=("webhooks-",),
    ),
    "publisher": Role(
        "a gateway of the bank's own that publishes with the SDK",
        reads=("submitted", "journal", "replies"),
        writes=("submitted",),
        describes=("submitted", "journal", "replies"),
    ),
    "auditor": Role(
        "verifies, ties out and looks at everything; changes nothing", reads=ALL, looks_at=("settlement",), configs=True
    ),
    "operator": Role(
        "people at the command line: gives commands, keys and subscriptions",
        reads=ALL,
        writes=("submitted", "access"),
        looks_at=("settlement",),
        configs=True,
    ),
    "triage": Role(
        "redrives dead letters",
        reads=_TRIAGE_READS,
        writes=("submitted", "triage"),
        looks_at=("settlement",),
        transactions=("triage",),
    ),
    "replay": Role(
        "replays into a shadow; writes its record into the journal's input, nothing else",
        reads=ALL,
        writes=("submitted",),
        looks_at=("settlement",),
        configs=True,
    ),
    "registry": Role(
        "Apicurio Registry, which keeps its schemas in a topic of its own",
        describes=(),
        more=(
            *(Rule("topic", "kafkasql-journal", "literal", x) for x in ("create", "describe_configs", "read", "write")),
            Rule("group", "apicurio-registry-", "prefixed", "read"),
        ),
    ),
}


NAMED_BY_ROLE: Mapping[str, Iterable[str]] = {}


class Grant(NamedTuple):
    """One ACL as the brokers have it. `permission`: allow or deny."""

    principal: str
    rule: Rule
    permission: str = "allow"
    host: str = "*"

    def to_dict(self) -> dict[str, str]:
        return {"principal": self.principal, **self.rule._asdict(), "permission": self.permission, "host": self.host}

    def __str__(self) -> str:
        r = self.rule
        name = r.name + ("*" if r.pattern == "prefixed" else "")
        at = "" if self.host == "*" else f" from {self.host}"
        return f"{self.principal} {self.permission} {r.operation} {r.resource} {name}{at}"


def user_of(world: str, role: str) -> str:
    """The name that a role logs in with, or the common name of its certificate."""
    return f"{world}.{role}"


def topic_of(topics: Topics, name: str) -> str:
    """A topic's whole name."""
    found: str = getattr(topics, name, f"{topics.world}.{name}")
    return found


def rules(topics: Topics, role: str) -> list[Rule]:
    """What a role may, sorted. Raises BadInputError for a role that is none."""
    if role not in ROLES:
        raise BadInputError(f"{role} has no place in the access table; roles are {', '.join(ROLES)}")
    r = ROLES[role]
    found = {Rule("topic", topic_of(topics, t), "literal", "read") for t in r.reads}
    found |= {Rule("topic", topic_of(topics, t), "literal", "write") for t in r.writes}
    if r.describes == ("*",):
        found.add(Rule("topic", f"{topics.world}.", "prefixed", "describe"))
    else:
        found |= {Rule("topic", topic_of(topics, t), "literal", "describe") for t in r.describes}
    if r.configs:
        found.add(Rule("topic", f"{topics.world}.", "prefixed", "describe_configs"))
    if r.reads:
        found.add(Rule("group", READER_GROUPS, "prefixed", "describe"))
    found |= {Rule("group", f"{topics.world}.{g}", "literal", "read") for g in r.joins}
    found |= {Rule("group", f"{topics.world}.{g}", "literal", "describe") for g in r.looks_at}
    found |= {Rule("transactional_id", f"{topics.world}.{t}", "prefixed", "write") for t in r.transactions}
    return sorted({*found, *r.more})


def table(topics: Topics, principals: Mapping[str, Iterable[str]] = NAMED_BY_ROLE) -> set[Grant]:
    """Every grant of a world. `principals`: by role, where they are not the role's own name; users or whole
    distinguished names. Raises BadInputError for a role that is none."""
    for role in principals:
        if role not in ROLES:
            raise BadInputError(f"{role} has no place in the access table; roles are {', '.join(ROLES)}")
    return {
        Grant(f"User:{who}", rule)
        for role in ROLES
        for who in principals.get(role, (user_of(topics.world, role),))
        for rule in rules(topics, role)
    }


@dataclass(frozen=True, slots=True)
class AccessPlan:
    """What the brokers have against what the table says. `missing` is to be made, `surplus` to be taken away: grants of
    the world's principals that the table does not have; `foreign` are others' on the world's topics, groups and
    transactional ids, which are shown and left alone; `blocked` is what `block` made, and stands until it is lifted."""

    missing: tuple[Grant, ...]
    surplus: tuple[Grant, ...]
    foreign: tuple[Grant, ...]
    blocked: tuple[Grant, ...] = ()

    @property
    def equal(self) -> bool:
        return not (self.missing or self.surplus or self.foreign)


def plan(kafka: KafkaConfig, topics: Topics, principals: Mapping[str, Iterable[str]] = NAMED_BY_ROLE) -> AccessPlan:
    """What `apply` would do; changes nothing. Raises PartUnavailableError when the brokers do not answer or keep no
    ACLs."""
    admin = admin_client(kafka)
    return _compare(topics, table(topics, principals), _found(kafka, admin))


def apply(kafka: KafkaConfig, topics: Topics, principals: Mapping[str, Iterable[str]] = NAMED_BY_ROLE) -> AccessPlan:
    """Makes the brokers' ACLs of this world those of the table; returns what was done. Again changes nothing.

    First what is missing is made, then what is too much is taken away, so that nobody who may is ever refused. Returns
    when a broker has it. Raises PartUnavailableError.
    """
    wanted, admin = table(topics, principals), admin_client(kafka)
    todo = _compare(topics, wanted, _found(kafka, admin))
    if todo.missing:
        _each(kafka, admin.create_acls([_binding(g) for g in todo.missing], request_timeout=_ANSWER_S))
    if todo.surplus:
        _each(kafka, admin.delete_acls([_filter(g) for g in todo.surplus], request_timeout=_ANSWER_S))

    def left(found: set[Grant]) -> int:
        now = _compare(topics, wanted, found)
        return len(now.missing) + len(now.surplus)

    _until_seen(kafka, admin, left)
    return todo


def _until_seen(kafka: KafkaConfig, admin: AdminClient, left: Callable[[set[Grant]], int]) -> None:
    """Waits until a broker has what was changed: the controllers have it, the brokers hear of it in a moment. `left`:
    how many changes are not in these rules."""
    deadline = time.monotonic() + _ANSWER_S
    while count := left(_found(kafka, admin)):
        if time.monotonic() > deadline:
            hint = f"{count} rules were changed and are not seen after {_ANSWER_S:.0f} s"
            raise PartUnavailableError("Kafka", kafka.bootstrap, hint)
        time.sleep(0.05)


def block(
    kafka: KafkaConfig, topics: Topics, who: str, principals: Mapping[str, Iterable[str]] = NAMED_BY_ROLE, *,
    lift: bool = False, dry: bool = False,
) -> bool:  # fmt: skip
    """Takes from a principal the right to give commands, whatever allows it, or (`lift`) ends that; whether there was
    anything to change (`dry`: would be). A denial, because brokers ask those first, and `apply` leaves it.

    Raises BadInputError for a worker, and for who may not write the topic anyway; PartUnavailableError.
    """
    admin = admin_client(kafka)
    found, grant = _found(kafka, admin), _denial(topics, f"User:{who}")
    if not lift:
        _refuse_to_block(topics, who, principals, found)
    to_do = (grant in found) is lift
    if dry or not to_do:
        return to_do
    changed: Mapping[Any, Future[Any]] = (
        admin.delete_acls([_filter(grant)], request_timeout=_ANSWER_S)
        if lift
        else admin.create_acls([_binding(grant)], request_timeout=_ANSWER_S)
    )
    _each(kafka, changed)
    _until_seen(kafka, admin, lambda now: int((grant in now) is lift))
    return True


def _denial(topics: Topics, principal: str) -> Grant:
    return Grant(principal, Rule("topic", topics.submitted, "literal", "write"), "deny")


def _refuse_to_block(topics: Topics, who: str, principals: Mapping[str, Iterable[str]], found: Iterable[Grant]) -> None:
    if who in principals.get("worker", (user_of(topics.world, "worker"),)):
        raise BadInputError(f"{who} settles: nobody's money would move. Stop the workers, or freeze the world")
    allowed = {
        g.principal.removeprefix("User:")
        for g in found
        if g.permission == "allow" and _lets_write(g.rule, topics.submitted)
    }  # fmt: skip
    if not allowed & {who, "*"}:
        names = ", ".join(sorted(allowed)) or "nobody"
        raise BadInputError(f"{who} may not write {topics.submitted} anyway; those who may: {names}")


def _lets_write(rule: Rule, topic: str) -> bool:
    named = rule.name in (topic, "*") or (rule.pattern == "prefixed" and topic.startswith(rule.name))
    return named and rule.resource == "topic" and rule.operation in ("write", "all")


def set_users(kafka: KafkaConfig, passwords: Mapping[str, str]) -> list[str]:
    """Gives users their passwords for SCRAM-SHA-512, whether they are there or not; returns their names.

    Raises PartUnavailableError.
    """
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, SCRAM_ITERATIONS)
    changes: list[Any] = [UserScramCredentialUpsertion(u, info, p.encode()) for u, p in sorted(passwords.items())]
    if changes:
        admin = admin_client(kafka)  # kept until the answers are there: a client that is dropped never answers
        _each(kafka, admin.alter_user_scram_credentials(changes, request_timeout=_ANSWER_S))
    return sorted(passwords)


def missing_users(kafka: KafkaConfig, names: Iterable[str]) -> list[str]:
    """Those of the names that the brokers know no SCRAM password of. Raises PartUnavailableError.

    For looking only: an error of the broker in this one answer ends the process (librdkafka 2.16.0), so nothing that
    changes something asks for it.
    """
    admin = admin_client(kafka)
    return sorted(set(names) - _users(kafka, admin))


def _users(kafka: KafkaConfig, admin: AdminClient) -> set[str]:
    _may_look(kafka, admin)
    asked: Any = admin.describe_user_scram_credentials(request_timeout=_ANSWER_S)  # one answer when nobody is named
    return set(_each(kafka, {"users": asked})["users"])


def _may_look(kafka: KafkaConfig, admin: AdminClient) -> None:
    """Raises PartUnavailableError for whoever may not see rules and users. To be refused is not to be told so: the
    client (librdkafka 2.16.0) takes it for an empty list of rules, and crashes when it asked for users."""
    asked = admin.describe_cluster(include_authorized_operations=True, request_timeout=_ANSWER_S)
    allowed = _each(kafka, {"cluster": asked})["cluster"].authorized_operations or []
    if AclOperation.DESCRIBE not in allowed:
        hint = f"Cluster authorization failed: only a super user such as {SUPER_USER} sees and makes users and rules"
        raise PartUnavailableError("Kafka", kafka.bootstrap, hint)


def _compare(topics: Topics, wanted: set[Grant], found: set[Grant]) -> AccessPlan:
    ours = {g.principal for g in wanted}
    blocked = {g for g in found if g == _denial(topics, g.principal)}
    others = found - blocked
    own = {g for g in others if g.principal in ours or g.principal.startswith(f"User:{topics.world}.")}
    foreign = {g for g in others - own if _touches(topics.world, g.rule)}
    return AccessPlan(
        tuple(sorted(wanted - found)), tuple(sorted(own - wanted)), tuple(sorted(foreign)), tuple(sorted(blocked))
    )


def _touches(world: str, rule: Rule) -> bool:
    """Whether a rule opens, or closes, anything of a world."""
    if rule.resource not in ("topic", "group", "transactional_id"):
        return False
    if rule.pattern == "prefixed":
        return rule.name.startswith(f"{world}.") or f"{world}.".startswith(rule.name)
    return rule.name == "*" or rule.name.startswith(f"{world}.")


def _found(kafka: KafkaConfig, admin: AdminClient) -> set[Grant]:
    _may_look(kafka, admin)
    anything: Any = None
    everything = AclBindingFilter(
        ResourceType.ANY, anything, ResourcePatternType.ANY, anything, anything, AclOperation.ANY, AclPermissionType.ANY
    )
    found = _each(kafka, {"acls": admin.describe_acls(everything, request_timeout=_ANSWER_S)})["acls"]
    return {_grant(b) for b in found}


def _grant(b: Any) -> Grant:
    rule = Rule(b.restype.name.lower(), b.name, b.resource_pattern_type.name.lower(), b.operation.name.lower())
    return Grant(b.principal, rule, b.permission_type.name.lower(), b.host)


def _binding(g: Grant) -> AclBinding:
    return AclBinding(*_parts(g))


def _filter(g: Grant) -> AclBindingFilter:
    return AclBindingFilter(*_parts(g))


def _parts(g: Grant) -> tuple[Any, ...]:
    r = g.rule
    return (
        ResourceType[r.resource.upper()], r.name, ResourcePatternType[r.pattern.upper()], g.principal, g.host,
        AclOperation[r.operation.upper()], AclPermissionType[g.permission.upper()],
    )  # fmt: skip


def _each(kafka: KafkaConfig, asked: Mapping[Any, Future[Any]]) -> dict[Any, Any]:
    """The answers. Raises PartUnavailableError with the first that is an error."""
    try:
        return {what: done.result(_ANSWER_S) for what, done in asked.items()}
    except KafkaException as e:
        refused = e.args[0].code() == KafkaError.CLUSTER_AUTHORIZATION_FAILED  # a controller tells it as a Java object
        hint = KafkaError(e.args[0].code()).str() if refused else e.args[0].str()
        raise PartUnavailableError("Kafka", kafka.bootstrap, hint) from None
    except TimeoutError:
        raise PartUnavailableError("Kafka", kafka.bootstrap, f"no answer within {_ANSWER_S:.0f} s") from None
