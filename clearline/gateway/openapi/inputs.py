"""Request bodies in JSON Schema, made of the models that check them: without what a caller does not write."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel

from clearline.contract import TransactionInput
from clearline.contract_control import OpenAccountInput, SetLimitInput
from clearline.gateway.asking import HIDDEN
from clearline.gateway.openapi.parts import Schema
from clearline.gateway.routes.keys import KeyInput
from clearline.gateway.routes.onboarding import GoLiveInput
from clearline.gateway.routes.sandbox import JoinInput
from clearline.webhooks.subscriptions import WebhookChange, WebhookInput

BATCH_MAX = 1_000
_REF = "#/components/schemas/{model}"


@cache
def body_schemas() -> dict[str, Schema]:
    """The schemas of all request bodies, with those they refer to, by name."""
    found: dict[str, Schema] = {}
    transaction = _of(TransactionInput, found, without=HIDDEN)
    follow_up = _of(TransactionInput, found, only=("amount", "final", "reference", "metadata"))
    found["TransactionInput"] = transaction
    found["BatchInput"] = {
        "type": "object",
        "description": "Each transaction under a key of its own, or under the header's with `/` and its index.",
        "properties": {
            "transactions": {
                "type": "array",
                "minItems": 1,
                "maxItems": BATCH_MAX,
                "items": {
                    **transaction,
                    "properties": {
                        "idempotency_key": _of(TransactionInput, found)["properties"]["idempotency_key"],
                        **transaction["properties"],
                    },
                },
            }
        },
        "required": ["transactions"],
        "additionalProperties": False,
    }
    found["CaptureInput"] = _part(follow_up, ("amount", "final", "reference", "metadata"), ("amount",))
    found["VoidInput"] = _part(follow_up, ("reference", "metadata"))
    found["RefundInput"] = _part(follow_up, ("amount", "reference", "metadata"), ("amount",))
    found["ReversalInput"] = _part(follow_up, ("reference", "metadata"))
    found["OpenAccountInput"] = _of(OpenAccountInput, found, without=(*HIDDEN, "requested_by"))
    found["LimitsInput"] = _of(SetLimitInput, found, without=(*HIDDEN, "requested_by", "level", "subject_id"))
    for model in (KeyInput, WebhookInput, WebhookChange, JoinInput, GoLiveInput):
        found[model.__name__] = _of(model, found)
    return dict(sorted(found.items()))


def model_schemas(models: Iterable[type[BaseModel]]) -> dict[str, Schema]:
    """The schemas of models that are answered, by name."""
    found: dict[str, Schema] = {}
    for model in models:
        schema: dict[str, Any] = model.model_json_schema(ref_template=_REF, mode="serialization")
        found.update(_plain(schema.pop("$defs", {})))
        found[model.__name__] = _plain({k: v for k, v in schema.items() if k != "title"})
    return dict(sorted(found.items()))


def _of(
    model: type[BaseModel], others: dict[str, Schema], *, without: Collection[str] = (), only: Collection[str] = ()
) -> Schema:
    """A model's schema less some fields; the models it refers to go to `others`."""
    schema: dict[str, Any] = model.model_json_schema(ref_template=_REF)
    others.update(_plain(schema.pop("$defs", {})))
    names = [n for n in schema["properties"] if n not in without and (not only or n in only)]
    found: Schema = _plain(_part(schema, names, [n for n in schema.get("required", ()) if n in names]))
    return found


def _part(schema: Schema, names: Collection[str], required: Collection[str] = ()) -> Schema:
    out = {**schema, "properties": {n: schema["properties"][n] for n in names}, "required": list(required)}
    out.pop("title", None)
    if not required:
        del out["required"]
    return out


def _plain(part: Any) -> Any:
    """Without the titles that pydantic makes of names: they say nothing."""
    if isinstance(part, dict):
        named = isinstance(part.get("title"), str) and ("type" in part or "anyOf" in part or "enum" in part)
        return {k: _plain(v) for k, v in part.items() if not (k == "title" and named)}
    return [_plain(v) for v in part] if isinstance(part, list) else part
