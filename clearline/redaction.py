"""Secrets do not get into logs, errors or answers: by their name, by their form, or because they are known.

The first line of defence is that nobody logs them; this is the second, at the places where text leaves the process.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Iterable, Mapping, MutableMapping
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from clearline.secret_files import read_secret
from schemas.errors import BadInputError

if TYPE_CHECKING:
    from clearline.config import Settings

HIDDEN = "[hidden]"
_KNOWN_MIN = 8  # shorter words would hide parts of innocent ones
_NAMES = re.compile(
    r"authorization|signature|secret|password|passwd|token|cookie|credential|master_?key|private_?key", re.I
)
_NOT_SECRET = re.compile(r"signature_age_s|tokens_left", re.I)
_FORMS = (
    (re.compile(r"\b((?:test|live)_[a-z0-9]{16}_)[A-Za-z0-9_-]+"), rf"\1{HIDDEN}"),
    (re.compile(r"\bwhsec_[A-Za-z0-9+/=_-]+"), f"whsec_{HIDDEN}"),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)\b(authorization|cookie|x-api-key)(['\"]?\s*[:=,]\s*b?['\"]?)[^\s'\",;)]{8,}"), rf"\1\2{HIDDEN}"),
    (re.compile(r"\b([a-z][a-z0-9+.-]*://)[^\s/@'\"]*:[^\s/@'\"]*@"), rf"\1{HIDDEN}@"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), HIDDEN),
    (re.compile(r"\b([A-Za-z][A-Za-z0-9_-]*=):[A-Za-z0-9+/]{86}==:"), rf"\1:{HIDDEN}:"),  # a signature by Ed25519
)
_CHEAP = re.compile(r"(?i)test_|live_|whsec_|bearer|basic|authorization|cookie|x-api-key|://|PRIVATE KEY|=:")
_known: set[str] = set()


def know(settings: Settings) -> None:
    """Has the secrets of these settings hidden wherever they stand, from now on, in this process."""
    _known.update(s for s in secrets_of(settings) if len(s) >= _KNOWN_MIN)


def secrets_of(settings: Settings) -> set[str]:
    """What of the settings must not be seen."""
    found = {settings.gateway.master_key, settings.clickhouse.password, settings.clickhouse.reader_password}
    found.add(settings.clickhouse.data_password)
    found |= {settings.kafka.password, settings.kafka.key_password, *_in_files(settings)}
    found |= {v for k, v in settings.kafka.client.items() if re.search(r"password|secret|pem|jaas|oauth", k)}
    for url in (settings.redis.url, settings.registry.url):
        password = urlsplit(url).password if url else None
        found |= {password, unquote(password)} if password else set()
    return {s for s in found if s}


def _in_files(settings: Settings) -> set[str]:
    """Secrets whose files the settings name. One that cannot be read is told where it is needed."""
    found = set()
    for path in (settings.kafka.password_file, settings.kafka.key_password_file):
        if path is not None:
            with suppress(BadInputError):
                found.add(read_secret(path, ""))
    return found


def hide(text: str) -> str:
    """The text without its secrets. A key's id stays: it names the key and opens nothing."""
    for secret in _known:
        if secret in text:
            text = text.replace(secret, HIDDEN)
    if _CHEAP.search(text):
        for form, instead in _FORMS:
            text = form.sub(instead, text)
    return text


def hide_all(value: Any) -> Any:
    """A JSON-like value without its secrets; what stands under a secret's name is hidden whatever it is."""
    if isinstance(value, str):
        return hide(value)
    if isinstance(value, bytes):
        return hide(value.decode("latin-1"))
    if isinstance(value, Mapping):
        return {k: HIDDEN if _is_secret(k) and v else hide_all(v) for k, v in value.items()}
    if isinstance(value, tuple) and len(value) == 2 and _is_secret(_text(value[0])):  # a header
        return (value[0], HIDDEN)
    if isinstance(value, (list, tuple, set, frozenset)):
        return [hide_all(v) for v in value]
    if isinstance(value, (int, float, bool, type(None))):
        return value
    return hide(repr(value))


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog's processor; after `format_exc_info`, so that tracebacks are texts."""
    for key, value in event.items():
        event[key] = HIDDEN if _is_secret(key) and value else hide_all(value)
    return event


class RedactingFormatter(logging.Formatter):
    """For libraries that log in Python's own way: message, arguments and traceback without secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """The whole line, hidden last: a secret may be in any part of it."""
        return hide(super().format(record))


def redact_logging(handlers: Iterable[logging.Handler]) -> None:
    """Has handlers hide secrets in what they write, in the form they write it now."""
    for handler in handlers:
        form = handler.formatter
        handler.setFormatter(RedactingFormatter(form._fmt if form is not None else logging.BASIC_FORMAT))


def print_exception(error: BaseException) -> None:
    """The traceback on stderr, without secrets."""
    sys.stderr.write(hide("".join(traceback.format_exception(error))))


def redact_tracebacks() -> None:
    """What ends the process or a thread with a traceback shows no secrets either."""
    import threading

    def shown(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            sys.__excepthook__(type(error), error, error.__traceback__)
        else:
            print_exception(error)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None and args.exc_type is not SystemExit:
            name = args.thread.name if args.thread is not None else "?"
            sys.stderr.write(f"exception in thread {name}\n")
            print_exception(args.exc_value)

    sys.excepthook = shown
    threading.excepthook = in_thread


def _is_secret(name: object) -> bool:
    text = _text(name)
    return bool(_NAMES.search(text)) and not _NOT_SECRET.search(text)


def _text(name: object) -> str:
    return name.decode("latin-1") if isinstance(name, bytes) else str(name)
