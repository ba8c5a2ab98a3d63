"""The schema registry: registers our schemas at set-up and turns ids into a codec.

Workers and publishers never register anything; they ask for the ids of exactly the committed schemas and refuse to run
when one is missing, so a schema can only change where its compatibility was checked. Four calls of Confluent's API are
all that is needed; its Python client would load an OAuth stack for them, half a second at every start of a role.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import httpx

from schemas.codec import Codec, UndecodableError, schema_text
from schemas.errors import BadInputError, PartUnavailableError
from schemas.records import RECORDS, Subjects

_REFUSED = (409, 422)
_FIRST_WAIT_S = 0.1


class Registered(NamedTuple):
    """A schema as the registry has it."""

    id: int
    subject: str
    version: int
    schema: str


class Registry:
    """One registry that speaks Confluent's API at `url`. Calls raise PartUnavailableError when it does not answer."""

    def __init__(self, url: str, timeout_s: float = 5.0) -> None:
        self.url = url
        self._timeout_s = timeout_s

    def register_all(self) -> dict[str, int]:
        """Registers every schema (again: the same id) and sets FULL_TRANSITIVE; ids by record name.

        Raises BadInputError when the registry refuses a schema as incompatible.
        """
        out = {}
        with self._client() as client:
            for name in RECORDS:
                subject = Subjects.of(name)
                answer = self._ask(client, "POST", f"/subjects/{subject}/versions", _document(name))
                out[name] = int(answer["id"])
                self._ask(client, "PUT", f"/config/{subject}", {"compatibility": "FULL_TRANSITIVE"})
        return out

    def ids(self, records: Collection[str] = ()) -> dict[str, int]:
        """Ids of the committed schemas, all or of these records. Raises BadInputError when one was never registered."""
        out = {}
        with self._client() as client:
            for name in records or RECORDS:
                found = self._ask(client, "POST", f"/subjects/{Subjects.of(name)}", _document(name))
                if found is None:
                    raise BadInputError(
                        f"schema {Subjects.of(name)} is not in the registry at {self.url}: run `./run up`"
                    )
                out[name] = int(found["id"])
        return out

    def missing(self) -> list[str]:
        """Subjects whose committed schema the registry does not have."""
        with self._client() as client:
            return [
                Subjects.of(name)
                for name in RECORDS
                if self._ask(client, "POST", f"/subjects/{Subjects.of(name)}", _document(name)) is None
            ]

    def listing(self) -> list[Registered]:
        """Every version of every schema of ours, by id: what a backup keeps of the registry."""
        found: set[Registered] = set()
        with self._client() as client:
            for subject in {Subjects.of(name) for name in RECORDS}:
                for version in self._ask(client, "GET", f"/subjects/{subject}/versions") or []:
                    one = self._ask(client, "GET", f"/subjects/{subject}/versions/{version}")
                    found.add(Registered(int(one["id"]), subject, int(version), str(one["schema"])))
        return sorted(found)

    def register_again(self, rows: Sequence[Registered]) -> int:
        """Registers schemas so that they have the ids that they had; returns how many were not there.

        Raises BadInputError when one gets another id: the registry has had other schemas before.
        """
        new = 0
        with self._client() as client:
            for row in sorted(rows):
                document = {"schema": row.schema, "schemaType": "AVRO"}
                known = self._ask(client, "POST", f"/subjects/{row.subject}", document)
                answer = known or self._ask(client, "POST", f"/subjects/{row.subject}/versions", document)
                if int(answer["id"]) != row.id:
                    raise BadInputError(
                        f"schema {row.subject} has id {row.id} in the journal, and the registry at {self.url} gives it "
                        f"{answer['id']}: restore the registry's own backup first, or begin with an empty registry"
                    )
                new += known is None
        return new

    def codec(self, records: Collection[str] = ()) -> Codec:
        """A codec with the registry's ids, for all records or for these."""
        return Codec(self.ids(records))

    def ping(self, timeout_s: float = 1.0) -> None:
        """Raises PartUnavailableError when it does not answer within `timeout_s`."""
        with self._client() as client:
            try:
                client.get("/config", timeout=timeout_s).raise_for_status()
            except httpx.HTTPError as e:
                raise PartUnavailableError("Schema registry", self.url, str(e) or type(e).__name__) from None

    def look(self, timeout_s: float = 1.0) -> dict[str, str]:
        """What is wrong with the committed schemas in the registry, by subject; empty when each is there. Nothing is
        changed. Raises PartUnavailableError when it does not answer within `timeout_s`; a question is asked once."""
        wrong = {}
        with self._client() as client:
            client.timeout = httpx.Timeout(timeout_s)
            try:
                for name in RECORDS:
                    subject = Subjects.of(name)
                    answer = client.post(f"/subjects/{subject}", json=_document(name))
                    if answer.status_code == httpx.codes.NOT_FOUND:
                        wrong[subject] = _why_missing(client, subject, name)
                    else:
                        answer.raise_for_status()
            except httpx.HTTPError as e:
                raise PartUnavailableError("Schema registry", self.url, str(e) or type(e).__name__) from None
        return wrong

    def schema_text(self, schema_id: int) -> str | None:
        """The schema behind an id; None when the registry does not know the id."""
        with self._client() as client:
            found = self._ask(client, "GET", f"/schemas/ids/{schema_id}")
        return None if found is None else str(found["schema"])

    def _client(self) -> httpx.Client:
        # What is asked for without TLS needs none of the authorities that a client reads at its start.
        secured = not self.url.startswith("http:")
        return httpx.Client(base_url=self.url, timeout=self._timeout_s, verify=secured)

    def _ask(self, client: httpx.Client, method: str, path: str, document: dict[str, str] | None = None) -> Any:
        """The answer's document, None for "not found"; asks for up to 20 s while the registry is starting or away."""
        try:
            answer = _patiently(client, method, path, document)
        except httpx.HTTPError as e:
            raise PartUnavailableError("Schema registry", self.url, str(e)) from None
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if answer.status_code in _REFUSED:
            raise BadInputError(f"the registry at {self.url} refuses {path}: {answer.text[:300]}")
        if answer.is_error:
            raise PartUnavailableError("Schema registry", self.url, f"{path}: HTTP {answer.status_code}")
        return answer.json()


def _document(record_name: str) -> dict[str, str]:
    return {"schema": schema_text(record_name), "schemaType": "AVRO"}


def _why_missing(client: httpx.Client, subject: str, record_name: str) -> str:
    """Why a schema is not there: nobody registered it, or the registry would refuse it for what it has."""
    path = f"/compatibility/subjects/{subject}/versions/latest"
    answer = client.post(path, json=_document(record_name), params={"verbose": "true"})
    if answer.is_success and answer.json().get("is_compatible") is False:
        messages = answer.json().get("messages") or []
        return f"the registry refuses it as incompatible with the latest version it has{_said(messages)}"
    return "it was never registered"


def _said(messages: list[Any]) -> str:
    return f": {str(messages[0])[:200]}" if messages else ""


def _patiently(client: httpx.Client, method: str, path: str, document: dict[str, str] | None) -> httpx.Response:
    try:
        return _once(client, method, path, document)
    except httpx.HTTPError:  # most first questions are answered, and a command starts sooner without what follows
        from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential
    again = Retrying(
        retry=retry_if_exception_type(httpx.HTTPError), stop=stop_after_delay(20), wait=wait_exponential(0.1, max=2),
        reraise=True,
    )  # fmt: skip
    time.sleep(_FIRST_WAIT_S)
    return again(_once, client, method, path, document)


def _once(client: httpx.Client, method: str, path: str, document: dict[str, str] | None) -> httpx.Response:
    answer = client.request(method, path, json=document)
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        answer.raise_for_status()
    return answer


def learn_schemas(codec: Codec, registry: Registry, schema_ids: set[int], refused: set[int]) -> None:
    """Teaches the codec the schemas behind unknown ids; ids that are not ours are put into `refused`."""
    for schema_id in sorted(schema_ids - refused):
        text = registry.schema_text(schema_id)
        try:
            if text is None:
                refused.add(schema_id)
            else:
                codec.add_writer_schema(schema_id, text)
        except UndecodableError:
            refused.add(schema_id)
