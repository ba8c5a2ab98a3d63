"""What is answered, in JSON Schema: closed objects, so that a test finds a field that is not written down."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from clearline.gateway import problems
from clearline.gateway.openapi.parts import Schema
from ledger.money import EXPONENTS

TEXT: Schema = {"type": "string"}
TIME: Schema = {"type": "string", "format": "date-time", "examples": ["2026-11-22T09:00:00.123Z"]}
DAY: Schema = {"type": "string", "format": "date"}
COUNT: Schema = {"type": "integer", "minimum": 0}
CURRENCY: Schema = {"type": "string", "enum": sorted(EXPONENTS)}
MONEY: Schema = {"type": "integer", "format": "int64", "description": "Minor units."}
POSITION = {"$ref": "#/components/schemas/Position"}


def or_null(schema: Schema) -> Schema:
    """The schema, or null."""
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    if "enum" in schema:
        return {**schema, "type": [schema["type"], "null"], "enum": [*schema["enum"], None]}
    return {**schema, "type": [schema["type"], "null"]}


def described(schema: Schema, text: str) -> Schema:
    """The schema with a description."""
    return {**schema, "description": text}


def closed(description: str, properties: dict[str, Schema], optional: Collection[str] = ()) -> Schema:
    """An object with these members and no other, all but `optional` required."""
    return {
        "type": "object",
        "description": description,
        "properties": properties,
        "required": [name for name in properties if name not in optional],
        "additionalProperties": False,
    }


def listed(schema: Schema) -> Schema:
    """An array."""
    return {"type": "array", "items": schema}


def ref(name: str) -> Schema:
    """A component."""
    return {"$ref": f"#/components/schemas/{name}"}


def page(of: str) -> Schema:
    """A page of a list."""
    return closed(
        "A page of a list.",
        {
            "items": listed(ref(of)),
            "next_cursor": described(or_null(TEXT), "For the next page; null at the end."),
        },
    )


_ID = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
_LINKS = closed("Where to look further.", {"self": TEXT, "explain": TEXT})
_COMMON_HEAD = {
    "id": described(_ID, "The command id."),
    "partner_id": described(TEXT, "In whose name it was asked."),
    "idempotency_key": described(TEXT, "Under which key."),
}
_COMMON_TAIL = {
    "booked_at": described(or_null(TIME), "When it was decided; null while it is pending."),
    "position": described(or_null(POSITION), "Where the log has it."),
    "reason": described(or_null(TEXT), "Why it was rejected: a code of docs/REASONS.md."),
    "links": _LINKS,
}

_COMMAND_SCHEMAS: dict[str, Schema] = {
    "Position": closed(
        "Where the log has a command.",
        {
            "partition": COUNT,
            "offset": described(COUNT, "Of the command."),
            "sequence": described(or_null(COUNT), "Of its outcome in the journal of the partition."),
        },
    ),
    "Transaction": closed(
        "A transaction, as it was asked for and what became of it.",
        {
            **_COMMON_HEAD,
            "status": {"type": "string", "enum": ["pending", "settled", "rejected"]},
            "product": TEXT,
            "product_version": described(or_null(COUNT), "Of the product that settled it."),
            "operation": TEXT,
            "amount": described(or_null(MONEY), "What was asked for, in minor units; null where postings say it."),
            "currency": described(or_null(TEXT), "ISO 4217 letters, as they were asked for."),
            "value_date": described(DAY, "What was asked for."),
            "reference": TEXT,
            **_COMMON_TAIL,
        },
    ),
    "Command": closed(
        "A command that is no transaction, and what became of it.",
        {
            **_COMMON_HEAD,
            "status": {"type": "string", "enum": ["pending", "applied", "rejected"]},
            "command": described(TEXT, "What was asked, such as OpenAccount."),
            "subject": described(TEXT, "What it changes: an account, a partner, a product."),
            **_COMMON_TAIL,
        },
    ),
    "Problem": closed(
        "Why it was not answered as asked (RFC 9457).",
        {
            "type": described({"type": "string", "format": "uri"}, "A page that opens."),
            "title": described(TEXT, "What the code means."),
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "detail": described(TEXT, "One sentence about this case."),
            "instance": described(TEXT, "Names this one answer."),
            "code": {"type": "string", "enum": list(dict.fromkeys(problems.codes()))},
            "cure": described(TEXT, "What helps."),
            "errors": listed(closed("A field that breaks its rule.", {"field": TEXT, "rule": TEXT})),
            "reason_detail": {
                "type": "object",
                "additionalProperties": TEXT,
                "description": "What the ledger's refusal names.",
            },
            "transaction": {"anyOf": [ref("Transaction"), ref("Command")]},
            "scope": described(TEXT, "The scope that is missing."),
            "missing": described(listed(TEXT), "The checks that are not passed."),
        },
        optional=("errors", "reason_detail", "transaction", "scope", "missing"),
    ),
    "Batch": closed(
        "The answers, in the order of what was asked.",
        {
            "results": listed(
                closed(
                    "As its own POST would be answered.",
                    {
                        "status": {"type": "integer"},
                        "body": {"anyOf": [ref("Transaction"), ref("Problem")]},
                        "replayed": described({"type": "boolean"}, "Another try under its key was the first."),
                    },
                )
            )
        },
    ),
}

_KEY: dict[str, Schema] = {
    "key_id": {"type": "string", "pattern": "^[a-z0-9]{16}$"},
    "partner_id": described(TEXT, "Whose it is."),
    "state": {"type": "string", "enum": ["active", "revoked", "expired"]},
    "scopes": listed(TEXT),
    "signature": described({"type": "string", "enum": ["optional", "required"]}, "Whether requests must be signed."),
    "public_key": described(or_null(TEXT), "Ed25519, 32 bytes in hexadecimal."),
    "thumbprint": described(or_null(TEXT), "SHA-256 of the client certificate, in hexadecimal."),
    "created_at": TIME,
    "expires_at": or_null(TIME),
    "revoked_at": or_null(TIME),
    "requested_by": described(TEXT, "The id of the key that made it, or bank: and a name."),
    "note": TEXT,
    "replaces": described(or_null(TEXT), "The key whose place it takes."),
}
_KEY_SCHEMAS: dict[str, Schema] = {
    "Key": closed("A credential, without what it could be guessed by.", _KEY),
    "NewKey": closed(
        "A credential. `token`: what goes into Authorization; null when it was shown before.",
        {**_KEY, "token": or_null({"type": "string", "pattern": "^(test|live)_[a-z0-9]{16}_[A-Za-z0-9_-]{43}$"})},
    ),
    "Keys": page("Key"),
}
_AMOUNT_ON = listed(closed("Money on an account.", {"account_id": TEXT, "currency": CURRENCY, "balance": MONEY}))
_ONBOARDING_SCHEMAS: dict[str, Schema] = {
    "Explanation": closed(
        "What became of a command, in words.",
        {
            "id": _ID,
            "language": {"type": "string", "enum": ["en", "zh"]},
            "summary": TEXT,
            "steps": listed(
                closed(
                    "One step.",
                    {
                        "at": or_null(TIME),
                        "partition": or_null(COUNT),
                        "offset": described(or_null(COUNT), "Of the command that caused it."),
                        "text": TEXT,
                    },
                )
            ),
            "why": described(or_null(TEXT), "Why it was rejected; null when it was not."),
            "cure": described(or_null(TEXT), "What would make it pass; null when it was not rejected."),
        },
    ),
    "Onboarding": closed(
        "Where a partner stands on its way to live.",
        {
            "partner_id": TEXT,
            "partner_state": or_null(TEXT),
            "checks": listed(
                closed(
                    "One check of the inspection.",
                    {"check": TEXT, "passed_at": or_null(TIME), "do": described(TEXT, "What passes it.")},
                )
            ),
            "missing": listed(TEXT),
            "go_live": closed(
                "Whether it was asked for and approved: two persons.",
                {
                    "state": {"type": "string", "enum": ["open", "requested", "approved"]},
                    "requested_by": or_null(TEXT),
                    "requested_at": or_null(TIME),
                    "note": or_null(TEXT),
                    "approved_by": or_null(TEXT),
                    "approved_at": or_null(TIME),
                    "live_as": or_null(TEXT),
                },
            ),
        },
    ),
    "Joined": closed(
        "A new partner of the sandbox. `private_key`: of the pair that was made; null when a public key was given.",
        {
            "partner_id": TEXT,
            "name": TEXT,
            "token": described(TEXT, "What goes into Authorization; shown this once."),
            "key_id": _KEY["key_id"],
            "scopes": listed(TEXT),
            "public_key": TEXT,
            "private_key": or_null(TEXT),
            "accounts": _AMOUNT_ON,
            "curl": described(listed(TEXT), "Three calls to begin with."),
        },
    ),
    "ResetDone": closed(
        "What was done.",
        {
            "partner_id": TEXT,
            "holds_voided": COUNT,
            "limits_lifted": COUNT,
            "accounts": _AMOUNT_ON,
            "skipped": described(listed(TEXT), "Accounts that could not be brought back."),
        },
    ),
}
_STATUS_SCHEMAS: dict[str, Schema] = {
    "Alive": closed("The process answers.", {"status": {"const": "ok"}}),
    "Ready": closed(
        "Whether it can take commands.",
        {"status": {"type": "string", "enum": ["ready", "not ready"]}, "troubles": listed(TEXT)},
    ),
    "Status": {
        **closed(
            "What this gateway is, and how far what it knows is behind.",
            {
                "status": {"type": "string", "enum": ["ready", "not ready"]},
                "troubles": listed(TEXT),
                "world": TEXT,
                "sandbox": {"type": "boolean"},
                "version": TEXT,
                "limiter": described({"type": "string", "enum": ["redis", "local"]}, "Where calls are counted."),
            },
        ),
        "additionalProperties": True,
    },
}

_EVENT = {
    **closed(
        "An event that is told.",
        {
            "type": TEXT,
            "account_id": described(TEXT, "Of balance.below and balance.above."),
            "amount": described(MONEY, "Of balance.below and balance.above."),
            "percent": described(COUNT, "Of limit.reached."),
            "lead_s": described(COUNT, "Of hold.expiring, in seconds."),
        },
        optional=("account_id", "amount", "percent", "lead_s"),
    )
}
_WEBHOOK: dict[str, Schema] = {
    "id": {"type": "string", "pattern": "^wh_[0-9a-f]{32}$"},
    "partner_id": TEXT,
    "url": TEXT,
    "note": TEXT,
    "state": described({"type": "string", "enum": ["new", "verified", "disabled"]}, "Only a verified one is told."),
    "events": listed(_EVENT),
    "created_at": TIME,
    "verified_at": or_null(TIME),
    "secrets": listed(closed("A signing secret, without the secret.", {"made_at": TIME, "ends_at": or_null(TIME)})),
}
_WEBHOOK_SCHEMAS: dict[str, Schema] = {
    "Webhook": closed("A subscription.", _WEBHOOK),
    "NewWebhook": closed(
        "A subscription. `secret`: signs what is sent; null when it was shown a day ago.",
        {**_WEBHOOK, "secret": or_null({"type": "string", "pattern": "^whsec_[A-Za-z0-9+/]{43}=$"})},
    ),
    "Webhooks": page("Webhook"),
    "Delivery": closed(
        "A notification that is not delivered yet, or dead.",
        {
            "id": _ID,
            "event": TEXT,
            "account": described(TEXT, "What it is ordered by."),
            "state": {"type": "string", "enum": ["pending", "dead"]},
            "attempts": COUNT,
            "created_at": TIME,
            "next_at": or_null(TIME),
            "died_at": or_null(TIME),
            "last_error": or_null(TEXT),
            "last_status": or_null(COUNT),
            "body": described({"type": "object"}, "What is sent: docs/webhooks.md."),
        },
    ),
    "Deliveries": page("Delivery"),
}

_CELL: Schema = {"type": ["string", "integer", "boolean", "null"]}
_REPORT_COLUMN = {
    "name": TEXT,
    "kind": described(
        {"enum": ["text", "date", "moment", "count", "money", "share", "flag"]},
        "money: minor units of the row's currency; share: basis points.",
    ),
}
_REPORT_SCHEMAS: dict[str, Schema] = {
    "ReportEntry": closed(
        "A report that may be asked.",
        {
            "name": TEXT,
            "title": TEXT,
            "about": TEXT,
            "parameters": listed(
                closed(
                    "A parameter. `default`: null when it must be given.",
                    {"name": TEXT, "kind": TEXT, "about": TEXT, "default": or_null(TEXT), "choices": listed(TEXT)},
                )
            ),
            "columns": listed(closed("A column.", {**_REPORT_COLUMN, "about": TEXT})),
            "links": closed("Where it is.", {"self": TEXT}),
        },
    ),
    "ReportList": page("ReportEntry"),
    "Report": closed(
        "A report at a cut: docs/finance.md. The same at the same cut to the byte.",
        {
            "report": TEXT,
            "title": TEXT,
            "parameters": {"type": "object", "additionalProperties": TEXT},
            "as_of": closed(
                "Up to where it goes.",
                {
                    "cut": TEXT,
                    "known_at": or_null(TEXT),
                    "partitions": listed(
                        closed(
                            "The last record of a partition that counts.",
                            {"partition": COUNT, "sequence": COUNT, "journal_offset": COUNT, "source_offset": COUNT},
                        )
                    ),
                },
            ),
            "columns": listed(closed("A column.", _REPORT_COLUMN)),
            "rows": listed({"type": "object", "additionalProperties": _CELL}),
            "totals": described(
                {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": MONEY}},
                "Sums of the columns that add up, by currency.",
            ),
            "balanced": described({"type": "boolean"}, "Of a trial balance: whether debits equal credits."),
            "differences": described(
                {"type": "object", "additionalProperties": MONEY}, "Of a trial balance: by currency, where they do not."
            ),
        },
        optional=("balanced", "differences"),
    ),
}

_TABLE: dict[str, Schema] = {
    "table": TEXT,
    "partner_id": described(TEXT, "Whose it is."),
    "version": COUNT,
    "key": described(TEXT, "The column that names a row."),
    "columns": listed(TEXT),
    "rows": COUNT,
    "bytes": described(COUNT, "Of the values."),
    "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "SHA-256 of key, names and values."},
    "created_at": TIME,
    "requested_by": described(TEXT, "The id of the key that sent it."),
    "links": closed("Where it is.", {"self": TEXT}),
}
_TABLE_SCHEMAS: dict[str, Schema] = {
    "Table": closed("A table of the partner's own, without its rows.", _TABLE),
    "Tables": page("Table"),
    "TableWithRows": closed(
        "A page of a table's rows.",
        {
            **_TABLE,
            "items": listed({"type": "object", "additionalProperties": TEXT}),
            "next_cursor": described(or_null(TEXT), "For the next page; null at the end."),
        },
    ),
}

SCHEMAS: dict[str, Schema] = {
    **_COMMAND_SCHEMAS, **_REPORT_SCHEMAS, **_TABLE_SCHEMAS,
    **_KEY_SCHEMAS, **_WEBHOOK_SCHEMAS, **_ONBOARDING_SCHEMAS, **_STATUS_SCHEMAS,
    "AnyCommand": {"anyOf": [ref("Transaction"), ref("Command")], "description": "A transaction, or another command."},
    "AnyDocument": {"type": "object"},
}  # fmt: skip

_RATE_ITEM = r'"(burst|day|reports)";[a-z]+=[0-9]+;[a-z]+=[0-9]+'
_RATES = f"^{_RATE_ITEM}, {_RATE_ITEM}(, {_RATE_ITEM})?$"


def _header(description: str, schema: Schema, *, required: bool = False) -> dict[str, Any]:
    return {"description": description, "required": required, "schema": schema}


HEADERS: dict[str, dict[str, Any]] = {
    "Location": _header("Where to look for it.", TEXT, required=True),
    "Idempotent-Replayed": _header(
        "`true`: another try under this key was the first.", {"type": "string", "enum": ["true"]}
    ),
    "Preference-Applied": _header("The wait that was taken, `wait=N`.", TEXT),
    "Retry-After": _header("Seconds to wait before the next try.", {"type": "integer", "minimum": 0}, required=True),
    "WWW-Authenticate": _header("Which credentials are taken.", TEXT, required=True),
    "Allow": _header("Methods that the path has.", TEXT, required=True),
    "RateLimit": _header(
        "What is left of the limits of calls; `reports`: of reports and data.",
        {"type": "string", "pattern": _RATES},
        required=True,
    ),
    "RateLimit-Policy": _header("The limits of calls.", {"type": "string", "pattern": _RATES}, required=True),
    "Clearline-As-Of": _header(
        "The cut that the figures are at: partition and sequence, as in `0:1204,1:998`, and `; known_at=MOMENT`.",
        {"type": "string", "pattern": "^[0-9]+:[0-9]+(,[0-9]+:[0-9]+)*(; known_at=[0-9TZ:.-]+)?$"},
        required=True,
    ),
    "ETag": _header("The same for the same bytes.", {"type": "string", "pattern": '^"[0-9a-f]{32}"$'}, required=True),
    "Cache-Control": _header("For how long it may be kept: longer when a cut was named.", TEXT, required=True),
    "Age": _header("Seconds since the head was looked at.", COUNT, required=True),
    "Content-Disposition": _header("The name of a file.", TEXT),
}
