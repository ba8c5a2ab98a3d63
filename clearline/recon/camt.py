"""camt.053: the head of a statement through pyiso20022, its entries as a stream, in one pass over the file.

Entries are taken out of the tree as they come, so a file of a gigabyte needs the memory of its lines only. What is left
in the end is the head, which pyiso20022's classes read, strictly. A document type declaration ends the reading at once,
so a file has no entities but XML's own five.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.resources import files
from typing import Any, BinaryIO, NamedTuple
from xml.parsers import expat

from clearline.recon.statement import (
    ERRORS_MAX,
    LINES_MAX,
    LineError,
    Lines,
    RefusedStatementError,
    Statement,
    clean,
    day_number,
    iso_day,
    shown,
    xml_minor,
)

NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053.001."
NO_REFERENCE = frozenset({"", "NOTPROVIDED", "NONREF"})
_CHUNK = 1 << 16
_ELEMENT_BYTES_MAX = 16_000_000
_HEAD_ELEMENTS_MAX = 100_000
_DETAILS_MAX = 65_535
_OPENING, _CLOSING = ("OPBD", "PRCD"), ("CLBD",)

# What is taken of an entry and of a detail of it: paths below Ntry and TxDtls, and the name of what is there. Where
# versions differ (Sts, Pty), both forms are here.
_ENTRY = {
    "NtryRef": "ntry_ref", "Amt": "amount", "CdtDbtInd": "sign", "Sts": "status", "Sts/Cd": "status",
    "BookgDt/Dt": "booking", "BookgDt/DtTm": "booking", "ValDt/Dt": "value", "ValDt/DtTm": "value",
    "AcctSvcrRef": "bank_ref", "AddtlNtryInf": "info", "NtryDtls/Btch/PmtInfId": "payment_id",
}  # fmt: skip
_DETAIL = {
    "Refs/EndToEndId": "end_to_end", "Refs/TxId": "tx_id", "Refs/InstrId": "instr_id", "Refs/PmtInfId": "payment_id",
    "Refs/AcctSvcrRef": "bank_ref", "Amt": "amount", "CdtDbtInd": "sign", "AmtDtls/TxAmt/Amt": "tx_amount",
    "RmtInf/Ustrd": "info", "RmtInf/Strd/CdtrRefInf/Ref": "creditor_ref",
    "RltdPties/Dbtr/Nm": "debtor", "RltdPties/Dbtr/Pty/Nm": "debtor",
    "RltdPties/Cdtr/Nm": "creditor", "RltdPties/Cdtr/Pty/Nm": "creditor",
}  # fmt: skip
_REFERENCES = ("end_to_end", "tx_id", "instr_id", "creditor_ref", "payment_id")
_MONEY = frozenset({"amount", "tx_amount"})

_Fields = dict[str, str]


@dataclass(slots=True)
class _Node:
    """An element that matters: what its text is called, and what may be below it."""

    name: str
    below: dict[str, _Node]


class EntryError(NamedTuple):
    """One broken rule, in the entry of that number in the statement of that number."""

    statement: int
    entry: int
    field: str
    rule: str


def versions() -> list[str]:
    """The versions of camt.053 that can be read, such as 08: those of pyiso20022 but the first, which is a draft."""
    names = (p.name for p in (files("pyiso20022") / "camt").iterdir())
    found = (re.fullmatch(r"camt_053_001_(\d\d)", name) for name in names)
    return sorted(f[1] for f in found if f and f[1] != "01")


def read_camt(name: str, file: BinaryIO, progress: Callable[[int], None] = lambda _: None) -> list[Statement]:
    """The statements in a camt.053 message. `progress` is told the bytes read so far.

    Raises RefusedStatementError with line, field and rule of what is wrong.
    """
    return _Reader(name, file).read(progress)


class _Reader:
    """`_guard` sees every byte first: it refuses what is not well-formed, and any document type declaration."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name = name
        self._file = file
        self._version = ""
        self._statements: list[_Collected] = []
        self._errors: list[EntryError] = []
        self._error_count = 0
        self._guard = expat.ParserCreate(namespace_separator="}")
        self._guard.StartDoctypeDeclHandler = self._doctype
        # A tree whose top is known before the file is read: so its parts can be taken while it grows.
        builder = ET.TreeBuilder()
        self._top = builder.start("top", {})
        self._parser = ET.XMLParser(target=builder)  # noqa: S314 - the guard has refused declarations before
        self._root: ET.Element | None = None
        self._space = ""

    def read(self, progress: Callable[[int], None]) -> list[Statement]:
        done = 0
        try:
            while chunk := self._file.read(_CHUNK):
                self._guard.Parse(chunk, False)
                self._parser.feed(chunk)
                if self._root is None:
                    self._begin()
                self._take(done := done + len(chunk), whole=False)
                progress(done)
            self._guard.Parse(b"", True)
        except expat.ExpatError as e:
            raise self._refused(e.lineno, "", f"is not well-formed XML: {expat.ErrorString(e.code)}") from None
        except (ET.ParseError, LookupError, ValueError) as e:
            raise self._refused(self._guard.CurrentLineNumber, "", f"cannot be decoded: {e}") from None
        if self._root is None:
            self._begin()
        self._take(done, whole=True)
        if self._errors:
            raise RefusedStatementError(self._name, self._placed(), self._error_count)
        return self._with_heads()

    def _refused(self, line: int, field: str, rule: str) -> RefusedStatementError:
        return RefusedStatementError(self._name, [LineError(line, field, rule)])

    def _doctype(self, *_: object) -> None:
        raise self._refused(
            self._guard.CurrentLineNumber, "", "has a document type declaration (DOCTYPE), which no statement needs"
        )

    def _begin(self) -> None:
        """The first element says which message and version this is."""
        if not len(self._top):
            return
        root = self._top[0]
        space, _, name = root.tag.removeprefix("{").rpartition("}")
        known = versions()
        if name != "Document" or not space.startswith(NAMESPACE) or space.removeprefix(NAMESPACE) not in known:
            what = space.rpartition(":")[2] if name == "Document" and space else name
            rule = f"is {shown(what)}; statements that can be read are camt.053.001.{known[0]} to .{known[-1]}"
            raise self._refused(0, "", rule)
        self._root, self._version, self._space = root, space.removeprefix(NAMESPACE), "{" + space + "}"

    def _take(self, done: int, *, whole: bool) -> None:
        """Takes the entries that are complete out of the tree. All children of a statement are, but for the last one of
        the last statement while the file is not at its end."""
        found = self._root[0].findall(f"{self._space}Stmt") if self._root is not None and len(self._root) else []
        if not found and done > _ELEMENT_BYTES_MAX:
            raise self._refused(0, "", f"has no statement in its first {_ELEMENT_BYTES_MAX:,} bytes")
        for place in range(max(len(self._statements) - 1, 0), len(found)):
            if place == len(self._statements):
                self._statements.append(_Collected(self._space))
            self._take_entries(
                found[place], self._statements[place], done, open_end=not whole and place == len(found) - 1
            )

    def _take_entries(self, statement: ET.Element, c: _Collected, done: int, *, open_end: bool) -> None:
        end = len(statement) - open_end
        if end <= c.kept:
            if open_end and done - c.last_done > _ELEMENT_BYTES_MAX:
                rule = f"one element has more than {_ELEMENT_BYTES_MAX:,} bytes"
                raise self._refused(self._guard.CurrentLineNumber, "", rule)
            return
        c.last_done = done
        tag = f"{self._space}Ntry"
        kept = []
        for child in statement[c.kept : end]:
            if child.tag != tag:
                kept.append(child)
                continue
            errors = c.take(child)
            self._error_count += len(errors)
            self._errors.extend(EntryError(len(self._statements), c.count, *e) for e in errors)
            del self._errors[ERRORS_MAX:]
        statement[c.kept : end] = kept
        c.kept += len(kept)
        if c.count > LINES_MAX or c.kept > _HEAD_ELEMENTS_MAX:
            rule = f"has more than {LINES_MAX:,} entries, or {_HEAD_ELEMENTS_MAX:,} elements beside them"
            raise self._refused(self._guard.CurrentLineNumber, "", rule)

    def _placed(self) -> list[LineError]:
        """The errors with the lines of their entries, for which the file is read once more."""
        wanted = {(e.statement, e.entry): 0 for e in self._errors}
        at, depth = [0, 0], 0
        parser = expat.ParserCreate(namespace_separator="}")

        def start(tag: str, _: dict[str, str]) -> None:
            nonlocal depth
            depth += 1
            if depth == 3 and tag.endswith("}Stmt"):
                at[:] = at[0] + 1, 0
            elif depth == 4 and tag.endswith("}Ntry"):
                at[1] += 1
                if (at[0], at[1]) in wanted:
                    wanted[at[0], at[1]] = parser.CurrentLineNumber

        def end(_: str) -> None:
            nonlocal depth
            depth -= 1

        parser.StartElementHandler, parser.EndElementHandler = start, end
        self._file.seek(0)
        parser.ParseFile(self._file)
        return [LineError(wanted[e.statement, e.entry], e.field, f"{e.rule} (entry {e.entry})") for e in self._errors]

    def _with_heads(self) -> list[Statement]:
        """The statements, their heads read by pyiso20022."""
        from xsdata.exceptions import ConverterWarning, ParserError
        from xsdata.formats.dataclass.parsers import XmlParser
        from xsdata.formats.dataclass.parsers.config import ParserConfig
        from xsdata.formats.dataclass.parsers.handlers import XmlEventHandler

        module = import_module(f"pyiso20022.camt.camt_053_001_{self._version}")
        strict = ParserConfig(fail_on_unknown_properties=True, fail_on_converter_warnings=True)
        parser = XmlParser(config=strict, handler=XmlEventHandler)
        assert self._root is not None
        try:
            document: Any = parser.from_bytes(ET.tostring(self._root), module.Document)
            heads = document.bk_to_cstmr_stmt.stmt
        except (ParserError, ConverterWarning, TypeError, ValueError, AttributeError) as e:
            raise self._refused(0, "head", f"does not conform to camt.053.001.{self._version}: {e}") from None
        if not heads:
            raise self._refused(0, "", "has no statement")
        return [_statement(self, head, c, i) for i, (head, c) in enumerate(zip(heads, self._statements, strict=True))]

    def refuse(self, field: str, rule: str) -> RefusedStatementError:
        """The error for the whole file."""
        return self._refused(0, field, rule)

    @property
    def message(self) -> str:
        """The message and version, such as camt.053.001.08."""
        return f"camt.053.001.{self._version}"


def _tree(space: str, paths: dict[str, str]) -> _Node:
    """The names that matter, each with what its text is called and what may be below it."""
    root = _Node("", {})
    for path, name in paths.items():
        node = root
        for step in path.split("/"):
            node = node.below.setdefault(space + step, _Node("", {}))
        node.name = name
    return root


def _gather(element: ET.Element, node: _Node, fields: _Fields) -> None:
    """The texts that matter below an element, by their names; of a name that is there again the first, but of
    free text all."""
    for child in element:
        found = node.below.get(child.tag)
        if found is None:
            continue
        name = found.name
        if name:
            text = (child.text or "").strip()
            if name in _MONEY:
                fields.setdefault(name + "_currency", child.get("Ccy", ""))
            if text:
                have = fields.get(name)
                fields[name] = f"{have} {text}" if have and name == "info" else have or text
        if found.below:
            _gather(child, found, fields)


class _Collected:
    """The entries of one statement so far. `signs`: how many were booked, and how many there are, by CdtDbtInd. `kept`:
    how many of its elements in the tree are not entries; `last_done`: bytes of the file when the last element was
    complete."""

    __slots__ = (
        "lines", "count", "booked", "announced", "currencies", "signs", "kept", "last_done", "_days", "_entry_node",
        "_detail_node", "_details_tag", "_detail_tag",
    )  # fmt: skip

    def __init__(self, space: str) -> None:
        self.lines = Lines()
        self.count = self.booked = self.announced = self.kept = self.last_done = 0
        self.currencies: dict[str, int] = {}
        self.signs = {name: [0, 0] for name in ("CRDT", "DBIT")}
        self._days: dict[str, int] = {}
        self._entry_node, self._detail_node = _tree(space, _ENTRY), _tree(space, _DETAIL)
        self._details_tag, self._detail_tag = f"{space}NtryDtls", f"{space}TxDtls"

    def take(self, element: ET.Element) -> list[tuple[str, str]]:
        """One entry into the columns; field and rule of what is wrong with it."""
        self.count += 1
        entry: _Fields = {}
        _gather(element, self._entry_node, entry)
        status = entry.get("status", "")
        if entry.get("sign") in self.signs:
            self.signs[entry["sign"]][0] += status == "BOOK"
            self.signs[entry["sign"]][1] += 1
        if status != "BOOK":
            self.announced += 1
            if status in ("PDNG", "INFO", "FUTR"):
                return []
            return [("Sts", f"must be BOOK, PDNG, INFO or FUTR, not {shown(status)}")]
        details: list[_Fields] = []
        for group in element.iterfind(self._details_tag):
            for detail in group.iterfind(self._detail_tag):
                details.append({})
                _gather(detail, self._detail_node, details[-1])
        try:
            amount = self._money(entry)
            value, booking = self._day(entry, "value"), self._day(entry, "booking")
            if value is None and booking is None:
                raise _FieldError("ValDt", "must be given, or BookgDt")
            parts = self._split(entry, details, amount)
        except _FieldError as e:
            return [(e.field, e.rule)]
        self.booked += 1
        value = booking if value is None else value
        booking = value if booking is None else booking
        assert value is not None
        assert booking is not None
        for place, (fields, part) in enumerate(parts, start=1 if len(parts) > 1 else 0):
            self._add(entry, fields, place, part, value, booking)
        return []

    def _add(self, entry: _Fields, fields: _Fields, detail: int, amount: int, value: int, booking: int) -> None:
        candidates = (*(fields.get(n, "") for n in _REFERENCES), entry.get("payment_id", ""))
        reference = next((r for r in candidates if r.upper() not in NO_REFERENCE), "")
        lines = self.lines
        lines.number.append(self.count)
        lines.detail.append(detail)
        lines.value_day.append(value)
        lines.booking_day.append(booking)
        lines.amount.append(amount)
        lines.reference.append(clean(reference))
        lines.bank_reference.append(clean(fields.get("bank_ref") or entry.get("bank_ref") or entry.get("ntry_ref", "")))
        lines.text.append(clean(fields.get("info") or entry.get("info", "")))
        lines.counterparty.append(clean(fields.get("debtor" if amount > 0 else "creditor", "")))

    def _money(self, fields: _Fields, name: str = "amount", sign: str = "") -> int:
        currency = fields.get(name + "_currency", "")
        try:
            amount = xml_minor(fields.get(name, ""), currency)
        except ValueError as e:
            raise _FieldError("Amt", str(e)) from None
        if amount < 0:
            raise _FieldError("Amt", f"must not be negative ({shown(fields[name])}): CdtDbtInd says the direction")
        direction = fields.get("sign", sign)
        if direction not in ("CRDT", "DBIT"):
            raise _FieldError("CdtDbtInd", f"must be CRDT or DBIT, not {shown(direction)}")
        if name == "amount" and not sign:
            self.currencies.setdefault(currency, self.count)
        return amount if direction == "CRDT" else -amount

    def _day(self, fields: _Fields, name: str) -> int | None:
        text = fields.get(name)
        if text is None:
            return None
        day = self._days.get(text)
        if day is None:
            try:
                day = self._days[text] = iso_day(text)
            except ValueError as e:
                raise _FieldError("ValDt" if name == "value" else "BookgDt", str(e)) from None
        return day

    def _split(self, entry: _Fields, details: list[_Fields], amount: int) -> list[tuple[_Fields, int]]:
        """An entry's details with their amounts, when each states one in the entry's currency and they make it up;
        else the entry as it is, with the references of its one detail."""
        whole = [(details[0] if len(details) == 1 else entry, amount)]
        if not 1 < len(details) <= _DETAILS_MAX:
            return whole
        parts = []
        for fields in details:
            name = "amount" if "amount" in fields else "tx_amount"
            if fields.get(name + "_currency") != entry["amount_currency"]:
                return whole
            parts.append((fields, self._money(fields, name, entry["sign"])))
        return parts if sum(part for _, part in parts) == amount else whole


class _FieldError(Exception):
    def __init__(self, field: str, rule: str) -> None:
        super().__init__(rule)
        self.field = field
        self.rule = rule


def _statement(reader: _Reader, head: Any, c: _Collected, place: int) -> Statement:
    """A statement from its head as pyiso20022 has read it, and its entries. Raises RefusedStatementError."""
    where = f"statement {place + 1} ({head.id})"
    currencies = [x for x in (head.acct.ccy, *(b.amt.ccy for b in head.bal), *c.currencies) if x]
    if not currencies:
        raise reader.refuse(where, "names no currency: no account currency, no balance and no entry")
    other = next((x for x in currencies if x != currencies[0]), None)
    if other is not None:
        raise reader.refuse(where, f"is in {currencies[0]} and in {other}; one statement has one currency")
    statement = Statement(
        reader.message, head.id, _account_id(head.acct), currencies[0], c.lines, c.booked, c.announced
    )
    try:
        statement.opening = _balance(head.bal, _OPENING, where)
        statement.closing = _balance(head.bal, _CLOSING, where)
        statement.first_day, statement.last_day = _period(head)
    except ValueError as e:
        raise reader.refuse(where, str(e)) from None
    statement.cover()
    problems = [*statement.problems(), *_summary(head.txs_summry, statement, c)]
    if problems:
        raise RefusedStatementError(where, problems)
    return statement


def _account_id(account: Any) -> str:
    return str(account.id.iban or (account.id.othr.id if account.id.othr else ""))


def _balance(balances: list[Any], codes: tuple[str, ...], where: str) -> int | None:
    """The balance of the first of these codes that is there. Raises ValueError when one is there twice."""
    for code in codes:
        found = [
            b
            for b in balances
            if (b.tp.cd_or_prtry.cd and getattr(b.tp.cd_or_prtry.cd, "value", b.tp.cd_or_prtry.cd) == code)
        ]
        amounts = {_signed(b.amt.value, b.amt.ccy, b.cdt_dbt_ind) for b in found}
        if len(amounts) > 1:
            raise ValueError(f"states the balance {code} more than once, and differently")
        if amounts:
            return amounts.pop()
    return None


def _signed(value: Any, currency: str, indicator: Any) -> int:
    amount = xml_minor(format(value, "f"), currency)
    return amount if indicator is None or indicator.value == "CRDT" else -amount


def _period(head: Any) -> tuple[int | None, int | None]:
    """First and last day of the period that the statement states."""
    period = head.fr_to_dt
    if period is None:
        return None, None
    first, last = period.fr_dt_tm.to_datetime().date(), period.to_dt_tm.to_datetime().date()
    if last < first:
        raise ValueError(f"its period ends ({last}) before it begins ({first})")
    return day_number(first), day_number(last)


def _summary(summary: Any, s: Statement, c: _Collected) -> list[LineError]:
    """Where the counts and sums that the statement states are not those of its entries. Entries that are not booked
    are in some banks' counts and not in others': both are taken."""
    out: list[LineError] = []
    if summary is None:
        return out
    rows = (
        ("TtlNtries", summary.ttl_ntries, [c.booked, c.count], s.credits + s.debits),
        ("TtlCdtNtries", summary.ttl_cdt_ntries, c.signs["CRDT"], s.credits),
        ("TtlDbtNtries", summary.ttl_dbt_ntries, c.signs["DBIT"], s.debits),
    )
    for name, stated, counts, total in rows:
        if stated is None:
            continue
        number = stated.nb_of_ntries
        if number is not None and int(number) not in counts:
            rule = f"says {number}, there are {counts[0]:,}: it is off by {int(number) - counts[0]:,}"
            out.append(LineError(0, f"{name}/NbOfNtries", rule))
        if stated.sum is not None and not c.announced:
            due = xml_minor(format(stated.sum, "f"), s.currency)
            if due != total:
                text = f"says {s.shown(due)}, the entries make {s.shown(total)}: it is off by {s.shown(due - total)}"
                out.append(LineError(0, f"{name}/Sum", text))
    return out


def is_camt(start: bytes) -> bool:
    """Whether a file that begins so is XML."""
    return start.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"<" or start[:2] in (b"\xff\xfe", b"\xfe\xff")
