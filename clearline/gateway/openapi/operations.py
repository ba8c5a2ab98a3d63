"""Every operation of the API, in the order of docs/gateway.md: a test holds this table equal to the routes."""

from __future__ import annotations

from typing import Any

from clearline.fields import KEY_MAX
from clearline.finance.uploads import CSV, NAME, PARQUET
from clearline.gateway.figures_answer import forms
from clearline.gateway.openapi.parts import Answer, Link, Operation
from ledger.names import LOCAL_NAME, PARTNER_ID
from sinks.finance import data
from sinks.finance.catalogue import REPORTS, Parameter, Report

TAGS = {
    "transactions": "Moving money, and what became of it.",
    "accounts": "Accounts, balances, statements.",
    "partners": "The own partner and those below it.",
    "products": "The product shelf.",
    "limits": "Limits of partners, accounts and products.",
    "reports": "Figures of finance, exact at a cut: docs/finance.md.",
    "data": "Figures for programs, and partners' own tables: docs/data-services.md.",
    "keys": "Credentials.",
    "webhooks": "Notifications to an address of the partner's: docs/webhooks.md.",
    "onboarding": "From the sandbox to live: docs/sandbox.md.",
    "gateway": "Pages and the gateway's own state.",
}

_PARTNER_PATTERN = f"^{PARTNER_ID.pattern}$"
_ACCOUNT_PATTERN = f"^{PARTNER_ID.pattern}:{LOCAL_NAME.pattern}$"


def _path(name: str, pattern: str, description: str, example: str) -> dict[str, Any]:
    return {
        "name": name, "in": "path", "required": True, "description": description, "example": example,
        "schema": {"type": "string", "pattern": pattern},
    }  # fmt: skip


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


PATH_PARAMETERS: dict[str, dict[str, Any]] = {
    "id": _path("id", "^[0-9a-f]{32}$", "The transaction's id.", "1c5f2c2c2c7d4b6f9a3e5d7c9b1a0f2e"),
    "account_id": _path(
        "account_id", _ACCOUNT_PATTERN, "The account's id, path-encoded: a slash is `%2F`.", "acme:wallet:alice"
    ),
    "partner_id": _path("partner_id", _PARTNER_PATTERN, "The partner's path, path-encoded.", "acme/shop-17"),
    "product": _path("product", "^[a-z][a-z0-9-]{0,63}$", "The product's name.", "wallet"),
    "level": {
        "name": "level", "in": "path", "required": True, "description": "Whose limits.", "example": "partner",
        "schema": {"enum": ["partner", "account", "product"]},
    },
    "subject": _path(
        "subject", "^[^\\x00-\\x1f]{1,512}$", "The partner, account or product, path-encoded.", "acme/shop-17"
    ),
    "key_id": _path("key_id", "^[a-z0-9]{16}$", "The key's id.", "4kq7x0m2c9vbt1sd"),
    "webhook_id": _path(
        "webhook_id", "^wh_[0-9a-f]{32}$", "The subscription's id.", "wh_0f1e2d3c4b5a69788796a5b4c3d2e1f0"
    ),
    "delivery_id": _path("delivery_id", "^[0-9a-f]{32}$", "The delivery's id.", "0f1e2d3c4b5a69788796a5b4c3d2e1f0"),
    "name": {
        "name": "name", "in": "path", "required": True, "description": "The report's name.", "example": REPORTS[0].name,
        "schema": {"enum": [r.name for r in REPORTS]},
    },
    "table": _path("table", f"^{NAME.pattern}$", "The table's name.", "regions"),
    "file": _path("file", "^[a-z.-]{1,40}$", "A file of the page.", "swagger-ui.css"),
    "code": _path("code", "^[a-z_]{1,64}$", "A problem's code.", "insufficient_funds"),
}  # fmt: skip

PARAMETERS: dict[str, dict[str, Any]] = {
    "idempotency_key": {
        "name": "Idempotency-Key", "in": "header", "required": True,
        "description": "The caller's own name for this write, such as o-1001. One key and payload never act twice.",
        "schema": {"type": "string", "minLength": 1, "maxLength": KEY_MAX, "pattern": "^[!-~]([ -~]*[!-~])?$"},
    },
    "prefer": {
        "name": "Prefer", "in": "header", "required": False, "example": "wait=5",
        "description": "`wait=N`: answer with the outcome when it comes within N seconds.",
        "schema": {"type": "string"},
    },
    "clearline_partner": {
        "name": "Clearline-Partner", "in": "header", "required": False,
        "description": "Act for this partner: the credential's own, or one below it.", "example": "acme",
        "schema": {"type": "string", "pattern": _PARTNER_PATTERN},
    },
    "accept_language": {
        "name": "Accept-Language", "in": "header", "required": False, "description": "Used where `lang` is not given.",
        "schema": {"type": "string"},
    },
    "limit": _query(
        "limit", {"type": "integer", "minimum": 1, "maximum": 1000, "default": 100}, "At most so many items."
    ),
    "cursor": _query("cursor", {"type": "string"}, "`next_cursor` of the page before, unchanged."),
    "lang": _query("lang", {"enum": ["en", "zh"]}, "English or Chinese."),
    "partner": _query("partner", {"type": "string", "pattern": _PARTNER_PATTERN}, "Only of this partner's tree."),
    "since": _query("since", {"type": "string", "format": "date"}, "First day."),
    "until": _query("until", {"type": "string", "format": "date"}, "Last day."),
    "on": _query("on", {"enum": ["value", "booking"], "default": "value"}, "By which day lines are placed."),
    "delivery_status": _query("status", {"enum": ["pending", "dead"]}, "Only deliveries in this state."),
    "if_none_match": {
        "name": "If-None-Match", "in": "header", "required": False, "schema": {"type": "string"},
        "description": "ETags of what is there already: 304.",
    },
    "cut": _query("cut", {"type": "string", "pattern": "^[0-9]+:[0-9]+(,[0-9]+:[0-9]+)*$"},
                  "At this cut, as `Clearline-As-Of` named it; without one at the head."),
    "known_at": _query("known_at", {"type": "string", "format": "date-time"}, "What was booked until then."),
    "closed": _query("closed", {"type": "string", "format": "date"}, "At the cut that the close of this day sealed."),
    "format": _query("format", {"enum": list(forms())}, "In place of Accept."),
    "cash_flow_part": _query("part", {"enum": list(data.PARTS), "default": "flow"}, "Which figures."),
    "table_key": _query("key", {"type": "string", "pattern": f"^{NAME.pattern}$"}, "The key column; else the first."),
}  # fmt: skip
_WHEN = ("cut", "known_at", "closed", "format", "if_none_match")
_SCHEMA_OF: dict[str, dict[str, Any]] = {
    "date": {"type": "string", "format": "date"},
    "moment": {"type": "string", "format": "date-time"},
    "partner": {"type": "string", "pattern": f"^({PARTNER_ID.pattern})?$"},
    "account": {"type": "string", "pattern": f"^({PARTNER_ID.pattern}:{LOCAL_NAME.pattern})?$"},
    "count": {"type": "string", "pattern": "^[0-9]{1,9}$"},
    "text": {"type": "string"},
}


def _parameters_of(whose: str, *reports: Report, path: str = "") -> tuple[str, ...]:
    """Names of the components for the parameters of these reports but the one that the path has. `whose`: what the
    names begin with. A choice takes the choices of all of them."""
    found: dict[str, list[Parameter]] = {}
    for p in (p for report in reports for p in report.parameters if p.name != path):
        found.setdefault(p.name, []).append(p)
    for name, alike in found.items():
        schema = _SCHEMA_OF.get(alike[0].asked) or {"enum": list(dict.fromkeys(c for p in alike for c in p.choices))}
        PARAMETERS[f"{whose}_{name}"] = _query(name, schema, alike[0].about)
    return tuple(f"{whose}_{name}" for name in found)


_FIGURES = ("Clearline-As-Of", "ETag", "Cache-Control", "Age")
_FILES = tuple(f.media for f in forms().values() if f.name != "json")


def _figures(schema: str, what: str) -> dict[int, Answer]:
    return {
        200: Answer(what, schema, (*_FIGURES, "Content-Disposition"), files=_FILES),
        304: Answer("It is what If-None-Match names.", headers=_FIGURES),
    }


_TO_TRANSACTION = {
    name: Link(operation, {"id": "$response.body#/id"}, text)
    for name, operation, text in (
        ("get", "get_transaction", "What became of it."),
        ("explain", "explain_transaction", "The same in words."),
        ("capture", "capture_transaction", "Of a hold."),
        ("void", "void_transaction", "Of a hold."),
        ("refund", "refund_transaction", "Of a payment."),
        ("reverse", "reverse_transaction", "Of anything that settled."),
    )
}
_NEW = ("Location", "Idempotent-Replayed", "Preference-Applied")
_LATER = (*_NEW, "Retry-After")
_MADE = ("Location", "Idempotent-Replayed")


def _written(settled: str, links: dict[str, Link], schema: str = "Transaction") -> dict[int, Answer]:
    return {
        201: Answer(settled, schema, _NEW, links),
        202: Answer("Acknowledged: it is in the log, and has no outcome yet.", schema, _LATER, links),
    }


def _follow_up(name: str, summary: str) -> tuple[tuple[str, str], Operation]:
    verb = {"reversal": "reverse"}.get(name, name)
    return ("POST", f"/v1/transactions/{{id}}/{name}"), Operation(
        f"{verb}_transaction", "transactions", summary, "transact:PRODUCT:OPERATION",
        _written("Settled.", {"get": _TO_TRANSACTION["get"]}),
        "Product, currency and original come from {id}. A new transaction under a key of its own: the old one is never "
        "edited.",
        body=f"{name.capitalize()}Input", body_required=name in ("capture", "refund"),
        write=True, prefers=True, every_reason=True,
    )  # fmt: skip


OPERATIONS: dict[tuple[str, str], Operation] = {
    ("POST", "/v1/transactions"): Operation(
        "post_transaction", "transactions", "Move money", "transact:PRODUCT:OPERATION",
        _written("Settled.", _TO_TRANSACTION),
        "Answers 202 as soon as it is in the log, or with `Prefer: wait=N` its outcome. A rejection is a problem with "
        "the ledger's reason.",
        body="TransactionInput", write=True, prefers=True, every_reason=True,
    ),
    ("POST", "/v1/transactions:batch"): Operation(
        "post_transactions", "transactions", "Move money, up to 1,000 at once", "transact:PRODUCT:OPERATION",
        {200: Answer("Each as its own POST would be answered, in their order.", "Batch")},
        "Each transaction is on its own: one that is rejected does not hold up the others.",
        body="BatchInput", write=True, prefers=True,
    ),
    ("GET", "/v1/transactions/{id}"): Operation(
        "get_transaction", "transactions", "A transaction", "read",
        {200: Answer("The transaction as it stands.", "AnyCommand", links={
            "explain": Link("explain_transaction", {"id": "$response.body#/id"}, "The same in words."),
        })},
    ),
    ("GET", "/v1/transactions/{id}/explain"): Operation(
        "explain_transaction", "transactions", "What happened, in words", "read",
        {200: Answer("What was asked, each step, and what would make it pass.", "Explanation")},
        parameters=("lang", "accept_language"), codes=("field_invalid",),
    ),
    **dict((
        _follow_up("capture", "Capture a hold, or a part of it"),
        _follow_up("void", "Void a hold"),
        _follow_up("refund", "Refund a payment, or a part of it"),
        _follow_up("reversal", "Reverse a transaction"),
    )),
    ("GET", "/v1/accounts"): Operation(
        "list_accounts", "accounts", "Accounts of the tree", "read",
        {200: Answer("A page of accounts.", "Accounts", links={
            "next": Link("list_accounts", {"cursor": "$response.body#/next_cursor"}, "The next page."),
            "balance": Link("get_balance", {"account_id": "$response.body#/items/0/account_id"}, "Of the first."),
        })},
        parameters=("partner", "limit", "cursor"), codes=("not_found",),
    ),
    ("POST", "/v1/accounts"): Operation(
        "open_account", "accounts", "Open an account", "accounts",
        _written("Opened.", {
            name: Link(operation, {"account_id": "$response.body#/subject"}, text)
            for name, operation, text in (
                ("get", "get_account", "The account."), ("balance", "get_balance", "Its balance."),
                ("statement", "get_statement", "Its statement."),
            )
        }, "Command"),
        body="OpenAccountInput", write=True, prefers=True, every_reason=True, codes=("not_found",),
    ),
    ("GET", "/v1/accounts/{account_id}"): Operation(
        "get_account", "accounts", "An account", "read",
        {200: Answer("The account.", "Account")},
    ),
    ("GET", "/v1/accounts/{account_id}/balance"): Operation(
        "get_balance", "accounts", "An account's balance", "read",
        {200: Answer("The four counters and what is available.", "Balance")},
    ),
    ("GET", "/v1/accounts/{account_id}/statement"): Operation(
        "get_statement", "accounts", "An account's statement", "read",
        {200: Answer("Opening balance, lines with the balance after each, closing balance.", "Statement", links={
            "next": Link("get_statement", {
                "account_id": "$request.path.account_id", "cursor": "$response.body#/next_cursor",
            }, "The next page."),
        })},
        parameters=("since", "until", "on", "limit", "cursor"),
    ),
    ("GET", "/v1/partner"): Operation(
        "get_own_partner", "partners", "The partner that asks", "read",
        {200: Answer("The partner.", "Partner")},
    ),
    ("GET", "/v1/partners"): Operation(
        "list_partners", "partners", "Partners below", "read",
        {200: Answer("A page of partners.", "Partners", links={
            "next": Link("list_partners", {"cursor": "$response.body#/next_cursor"}, "The next page."),
            "get": Link("get_partner", {"partner_id": "$response.body#/items/0/partner_id"}, "The first."),
        })},
        parameters=("limit", "cursor"),
    ),
    ("GET", "/v1/partners/{partner_id}"): Operation(
        "get_partner", "partners", "A partner", "read",
        {200: Answer("The partner.", "Partner")},
    ),
    ("GET", "/v1/products"): Operation(
        "list_products", "products", "The shelf", "read",
        {200: Answer("A page of products.", "Products", links={
            "get": Link("get_product", {"product": "$response.body#/items/0/product"}, "The first."),
        })},
        parameters=("limit", "cursor"),
    ),
    ("GET", "/v1/products/{product}"): Operation(
        "get_product", "products", "A product", "read",
        {200: Answer("The product with all its versions.", "ProductWithVersions")},
    ),
    ("GET", "/v1/limits"): Operation(
        "list_limits", "limits", "Limits of the tree, and what is used of them", "read",
        {200: Answer("A page of limits.", "Limits", links={
            "next": Link("list_limits", {"cursor": "$response.body#/next_cursor"}, "The next page."),
        })},
        parameters=("limit", "cursor"),
    ),
    ("PUT", "/v1/limits/{level}/{subject}"): Operation(
        "set_limits", "limits", "Set limits of what is below", "limits",
        _written("Set, in place of those there were.", {}, "Command"),
        body="LimitsInput", write=True, prefers=True, every_reason=True,
    ),
    ("GET", "/v1/reports"): Operation(
        "list_reports", "reports", "Reports that may be asked", "reports",
        {200: Answer("All of them, with parameters and columns.", "ReportList")},
    ),
    ("GET", "/v1/reports/{name}"): Operation(
        "get_report", "reports", "A report", "reports", _figures("Report", "The figures."),
        "Of the own subtree; of everything for a key of the bank. `GET /v1/reports` has the parameters of each: one "
        "that a report does not have is refused.",
        parameters=(*_parameters_of("report", *REPORTS), *_WHEN), codes=("report_too_large",),
    ),
    ("GET", "/v1/data/aggregates"): Operation(
        "get_aggregates", "data", "Sums by any of day, product, operation, partner", "reports",
        _figures("Report", "The sums."), data.AGGREGATES.about,
        parameters=(*_parameters_of("aggregates", data.AGGREGATES), *_WHEN), codes=("not_found", "report_too_large"),
    ),
    ("GET", "/v1/data/series"): Operation(
        "get_series", "data", "A time series", "reports", _figures("Report", "The series."), data.SERIES.about,
        parameters=(*_parameters_of("series", data.SERIES), *_WHEN), codes=("not_found", "report_too_large"),
    ),
    ("GET", "/v1/data/top"): Operation(
        "get_top", "data", "The first by a measure", "reports", _figures("Report", "The first."), data.TOP_N.about,
        parameters=(*_parameters_of("top", data.TOP_N), *_WHEN), codes=("not_found", "report_too_large"),
    ),
    ("GET", "/v1/data/cash-flow/{account_id}"): Operation(
        "get_cash_flow", "data", "An account's cash flow", "reports", _figures("Report", "The cash flow."),
        " ".join(f"`{name}`: {part.about}" for name, part in data.PARTS.items()),
        parameters=(
            "cash_flow_part", *_parameters_of("cash_flow", *data.PARTS.values(), path="account"), *_WHEN,
        ), codes=("report_too_large",),
    ),
    ("GET", "/v1/data/tables"): Operation(
        "list_tables", "data", "The partner's own tables", "data", {200: Answer("All of them.", "Tables")},
    ),
    ("PUT", "/v1/data/tables/{table}"): Operation(
        "put_table", "data", "Put a table", "data",
        {
            200: Answer("The table has this content already.", "Table", ("Location",)),
            201: Answer("Put, in place of the one there was.", "Table", _MADE, {
                "get": Link("get_table", {"table": "$response.body#/table"}, "Its rows."),
                "delete": Link("delete_table", {"table": "$response.body#/table"}, "Ends it."),
            }),
        },
        "Whole or not at all. The first line names the columns; all values are text; each row has a key of its own.",
        parameters=("table_key",), files={CSV: "account,region\nacme:wallet:alice,north\n", PARQUET: ""}, write=True,
        codes=("idempotency_conflict", "tables_full"),
    ),
    ("GET", "/v1/data/tables/{table}"): Operation(
        "get_table", "data", "A table and its rows", "data",
        {200: Answer("A page of its rows.", "TableWithRows", links={
            "next": Link("get_table", {
                "table": "$request.path.table", "cursor": "$response.body#/next_cursor",
            }, "The next page."),
        })},
        parameters=("limit", "cursor"),
    ),
    ("DELETE", "/v1/data/tables/{table}"): Operation(
        "delete_table", "data", "End a table", "data",
        {204: Answer("It is gone, with its rows.", headers=("Idempotent-Replayed",))}, write=True,
        codes=("idempotency_conflict",),
    ),
    ("GET", "/v1/keys"): Operation(
        "list_keys", "keys", "Keys of the tree", "keys",
        {200: Answer("A page of keys, without secrets.", "Keys", links={
            "next": Link("list_keys", {"cursor": "$response.body#/next_cursor"}, "The next page."),
        })},
        parameters=("limit", "cursor"),
    ),
    ("POST", "/v1/keys"): Operation(
        "make_key", "keys", "Make a key", "keys",
        {201: Answer("The key, with its secret this once.", "NewKey", _MADE, {
            "revoke": Link("revoke_key", {"key_id": "$response.body#/key_id"}, "Ends it at once."),
        })},
        body="KeyInput", write=True, codes=("idempotency_conflict",),
    ),
    ("DELETE", "/v1/keys/{key_id}"): Operation(
        "revoke_key", "keys", "Revoke a key", "keys", {204: Answer("It is taken no more.")}, write=True,
    ),
    ("GET", "/v1/webhooks"): Operation(
        "list_webhooks", "webhooks", "Subscriptions", "webhooks",
        {200: Answer("A page of subscriptions, without secrets.", "Webhooks", links={
            "next": Link("list_webhooks", {"cursor": "$response.body#/next_cursor"}, "The next page."),
        })},
        parameters=("limit", "cursor"),
    ),
    ("POST", "/v1/webhooks"): Operation(
        "make_webhook", "webhooks", "Subscribe", "webhooks",
        {201: Answer("The subscription, with its secret this once.", "NewWebhook", _MADE, {
            name: Link(operation, {"webhook_id": "$response.body#/id"}, text)
            for name, operation, text in (
                ("get", "get_webhook", "The subscription."), ("change", "change_webhook", "Another address or events."),
                ("deliveries", "list_deliveries", "What was not delivered."),
                ("rotate", "rotate_webhook", "A new secret."), ("delete", "delete_webhook", "Ends it."),
            )
        })},
        body="WebhookInput", write=True, codes=("idempotency_conflict",),
    ),
    ("GET", "/v1/webhooks/{webhook_id}"): Operation(
        "get_webhook", "webhooks", "A subscription", "webhooks",
        {200: Answer("The subscription.", "Webhook")},
    ),
    ("PATCH", "/v1/webhooks/{webhook_id}"): Operation(
        "change_webhook", "webhooks", "Change a subscription", "webhooks",
        {200: Answer("The subscription as it is now.", "Webhook")},
        body="WebhookChange", write=True,
    ),
    ("DELETE", "/v1/webhooks/{webhook_id}"): Operation(
        "delete_webhook", "webhooks", "End a subscription", "webhooks",
        {204: Answer("What was queued for it is dropped.")}, write=True,
    ),
    ("POST", "/v1/webhooks/{webhook_id}/verify"): Operation(
        "verify_webhook", "webhooks", "Verify the address", "webhooks",
        {200: Answer("The receiver sent the challenge back.", "Webhook")}, write=True, codes=("verification_failed",),
    ),
    ("POST", "/v1/webhooks/{webhook_id}/rotate"): Operation(
        "rotate_webhook", "webhooks", "Make a new secret", "webhooks",
        {200: Answer("The subscription, with the new secret this once.", "NewWebhook", ("Idempotent-Replayed",))},
        write=True, codes=("idempotency_conflict",),
    ),
    ("GET", "/v1/webhooks/{webhook_id}/deliveries"): Operation(
        "list_deliveries", "webhooks", "What was not delivered", "webhooks",
        {200: Answer("A page of deliveries, oldest first.", "Deliveries", links={
            "next": Link("list_deliveries", {
                "webhook_id": "$request.path.webhook_id", "cursor": "$response.body#/next_cursor",
            }, "The next page."),
        })},
        parameters=("delivery_status", "limit", "cursor"),
    ),
    ("POST", "/v1/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"): Operation(
        "redeliver", "webhooks", "Send it again", "webhooks",
        {202: Answer("The worker sends it again, under the same id.")}, write=True,
    ),
    ("GET", "/v1/onboarding"): Operation(
        "get_onboarding", "onboarding", "Which checks are passed", "read",
        {200: Answer("Each check, and what to do for those that are missing.", "Onboarding")},
    ),
    ("POST", "/v1/onboarding/go-live"): Operation(
        "ask_to_go_live", "onboarding", "Ask to go live", "keys",
        {200: Answer("Asked for; a person of the bank decides.", "Onboarding")},
        body="GoLiveInput", body_required=False, write=True, codes=("checks_missing",),
    ),
    ("POST", "/v1/sandbox/partners"): Operation(
        "join_sandbox", "onboarding", "Join the sandbox", None,
        {201: Answer("A partner with accounts, money and a key.", "Joined", ("Location",))},
        "In a sandbox only; anywhere else it does not exist. Each call makes another partner.",
        body="JoinInput", codes=("not_found", "rate_limited", "unavailable"),
    ),
    ("POST", "/v1/sandbox/reset"): Operation(
        "reset_sandbox", "onboarding", "Begin anew", "keys",
        {200: Answer("Holds are voided, limits lifted, balances as they were at first.", "ResetDone")},
        "In a sandbox only; anywhere else it does not exist.", write=True, codes=("not_found",),
    ),
    ("GET", "/reasons"): Operation(
        "list_reasons", "gateway", "All codes", None, {200: Answer("HTML.", media="text/html")},
    ),
    ("GET", "/reasons/{code}"): Operation(
        "get_reason", "gateway", "A code's page", None, {200: Answer("HTML.", media="text/html")}, codes=("not_found",),
    ),
    ("GET", "/openapi.json"): Operation(
        "get_openapi", "gateway", "This document", None, {200: Answer("OpenAPI 3.1.", "AnyDocument")},
    ),
    ("GET", "/asyncapi.yaml"): Operation(
        "get_asyncapi", "gateway", "The topics of Kafka", None,
        {200: Answer("AsyncAPI 3.", "AnyDocument", media="application/yaml")},
    ),
    ("GET", "/docs"): Operation(
        "get_docs", "gateway", "This document as a page", None, {200: Answer("HTML.", media="text/html")},
    ),
    ("GET", "/docs/{file}"): Operation(
        "get_docs_file", "gateway", "What that page loads", None,
        {200: Answer("A script, a style or a picture.", media="*/*")}, codes=("not_found",),
    ),
    ("GET", "/healthz"): Operation(
        "get_health", "gateway", "Whether the process answers", None, {200: Answer("It does.", "Alive")},
    ),
    ("GET", "/readyz"): Operation(
        "get_readiness", "gateway", "Whether it can take commands", None,
        {200: Answer("It can.", "Ready"), 503: Answer("It cannot, and why.", "Ready")},
    ),
    ("GET", "/v1/status"): Operation(
        "get_status", "gateway", "What this gateway is", None, {200: Answer("Its state.", "Status")},
    ),
    ("GET", "/metrics"): Operation(
        "get_metrics", "gateway", "Figures for Prometheus", None, {200: Answer("Text.", media="text/plain")},
    ),
}  # fmt: skip
