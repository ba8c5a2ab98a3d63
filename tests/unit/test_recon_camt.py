"""camt.053: read as a stream what pyiso20022's classes read whole; hostile and wrong files refused with line and rule."""

from __future__ import annotations

import io
import re
from datetime import date
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from xsdata.formats.dataclass.parsers import XmlParser
from xsdata.formats.dataclass.serializers import XmlSerializer

from clearline.recon import camt
from clearline.recon.camt import read_camt, versions
from clearline.recon.statement import RefusedStatementError, Statement, day_number

EXAMPLE = Path(__file__).resolve().parents[2] / "docs" / "examples" / "recon-statement.xml"
NAMESPACE = "urn:iso:std:iso:20022:tech:xsd:camt.053.001."


def read(text: str | bytes) -> list[Statement]:
    return read_camt("s.xml", io.BytesIO(text.encode() if isinstance(text, str) else text))


def refusal(text: str | bytes) -> str:
    with pytest.raises(RefusedStatementError) as e:
        read(text)
    return str(e.value)


def entry(amount: str = "10.00", sign: str = "CRDT", status: str = "<Cd>BOOK</Cd>", more: str = "", currency: str = "EUR",
          dates: str = "<ValDt><Dt>2026-11-22</Dt></ValDt>") -> str:  # fmt: skip
    return (
        f'<Ntry><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>{sign}</CdtDbtInd><Sts>{status}</Sts>{dates}'
        f"<BkTxCd/>{more}</Ntry>\n"
    )


def balance(code: str, amount: str, sign: str = "CRDT", currency: str = "EUR") -> str:
    return (
        f'<Bal><Tp><CdOrPrtry><Cd>{code}</Cd></CdOrPrtry></Tp><Amt Ccy="{currency}">{amount}</Amt>'
        f"<CdtDbtInd>{sign}</CdtDbtInd><Dt><Dt>2026-11-22</Dt></Dt></Bal>\n"
    )


def document(*entries: str, balances: str = "", summary: str = "", version: str = "08", currency: str = "EUR") -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Document xmlns="{NAMESPACE}{version}"><BkToCstmrStmt>\n'
        "<GrpHdr><MsgId>M</MsgId><CreDtTm>2026-11-23T00:00:00</CreDtTm></GrpHdr>\n"
        "<Stmt><Id>S-1</Id><CreDtTm>2026-11-23T00:00:00</CreDtTm>"
        f"<Acct><Id><IBAN>DE89370400440532013000</IBAN></Id><Ccy>{currency}</Ccy></Acct>\n"
        f"{balances}{summary}{''.join(entries)}</Stmt></BkToCstmrStmt></Document>"
    )


def details(*rows: str) -> str:
    return "<NtryDtls>" + "".join(f"<TxDtls>{row}</TxDtls>" for row in rows) + "</NtryDtls>"


def test_the_versions_are_those_that_pyiso20022_has():
    assert versions() == ["02", "03", "04", "05", "06", "07", "08", "09", "10", "11", "12"]


def in_classes(version: str) -> Any:
    """A document of two entries made with pyiso20022's classes, one with two details."""
    m = import_module(f"pyiso20022.camt.camt_053_001_{version}.camt_053_001_{version}")
    made = {name: getattr(m, name) for name in dir(m)}

    def cls(prefix: str, **has: str) -> Any:
        """The class of that name in this version: names end with a number that differs."""
        found = [v for k, v in made.items() if re.fullmatch(prefix + r"(V?\d+|Choice|\d+Choice|Details)?", k)]
        found = [c for c in found if set(has.values()) <= set(c.__dataclass_fields__)]
        assert len(found) >= 1, prefix
        return found[0]

    from xsdata.models.datatype import XmlDate, XmlDateTime

    now, day = XmlDateTime(2026, 11, 23, 1, 0, 0), XmlDate(2026, 11, 22)
    direction = m.CreditDebitCode
    amount = m.ActiveOrHistoricCurrencyAndAmount
    a_day = cls("DateAndDateTime", a="dt", b="dt_tm")(dt=day)
    status = getattr(m, "EntryStatus2Code", None)
    booked = status.BOOK if status is not None else cls("EntryStatus", a="cd")(cd="BOOK")
    code = cls("BankTransactionCodeStructure")()
    refs, transaction, details_class = (
        cls("TransactionReferences", a="end_to_end_id"), cls("EntryTransaction", a="refs"), cls("EntryDetails", a="tx_dtls"),
    )  # fmt: skip
    parts = [
        transaction(
            refs=refs(end_to_end_id=f"part {i}"), **_amount_of(transaction, amount(value=Decimal(v), ccy="EUR"), m)
        )
        for i, v in enumerate(("1.25", "2.50"))
    ]
    thousand = amount(value=Decimal("1000"), ccy="EUR")
    single = transaction(refs=refs(end_to_end_id="whole"), **_amount_of(transaction, thousand, m, "CRDT"))
    report = cls("ReportEntry", a="ntry_dtls", b="acct_svcr_ref")
    entries = [
        report(
            amt=amount(value=Decimal("3.75"), ccy="EUR"), cdt_dbt_ind=direction.DBIT, sts=booked, bookg_dt=a_day,
            val_dt=a_day, bk_tx_cd=code, acct_svcr_ref="B-1", ntry_dtls=[details_class(tx_dtls=parts)],
        ),
        report(
            amt=thousand, cdt_dbt_ind=direction.CRDT, sts=booked, bookg_dt=a_day,
            bk_tx_cd=code, ntry_ref="N-2",
            ntry_dtls=[details_class(tx_dtls=[single])],
        ),
    ]  # fmt: skip
    statement = cls("AccountStatement", a="ntry", b="bal")
    account_id = cls("AccountIdentification", a="iban")(iban="DE89370400440532013000")
    account = cls("CashAccount", a="ownr", b="svcr")(id=account_id, ccy="EUR")
    message = cls("BankToCustomerStatement", a="grp_hdr", b="stmt")(
        grp_hdr=cls("GroupHeader", a="msg_id")(msg_id="M", cre_dt_tm=now),
        stmt=[statement(id="S-9", cre_dt_tm=now, acct=account, ntry=entries)],
    )
    return m.Document(bk_to_cstmr_stmt=message)


def _amount_of(transaction: Any, amount: Any, m: Any, sign: str = "DBIT") -> dict[str, Any]:
    """A detail's own amount: an element of its own from version 3 on, before that below AmtDtls."""
    if "amt" in transaction.__dataclass_fields__:
        return {"amt": amount, "cdt_dbt_ind": m.CreditDebitCode(sign)}
    kinds = [getattr(m, n) for n in dir(m) if n.startswith("AmountAndCurrencyExchange")]
    outer = next(c for c in kinds if "tx_amt" in c.__dataclass_fields__)
    inner = next(c for c in kinds if "amt" in c.__dataclass_fields__ and "tp" not in c.__dataclass_fields__)
    return {"amt_dtls": outer(tx_amt=inner(amt=amount))}


@pytest.mark.parametrize("version", versions())
def test_what_pyiso20022_writes_is_read_in_every_version(version):
    whole = in_classes(version)
    text = XmlSerializer().render(whole, ns_map={None: NAMESPACE + version})
    (s,) = read(text)
    assert s.format == f"camt.053.001.{version}"
    assert (s.name, s.external_account, s.currency, s.entries) == ("S-9", "DE89370400440532013000", "EUR", 2)
    day = day_number(date(2026, 11, 22))
    rows = list(zip(s.lines.number, s.lines.detail, s.lines.amount, s.lines.value_day, s.lines.reference,
                    s.lines.bank_reference, strict=True))  # fmt: skip
    assert rows == [
        (1, 1, -125, day, "part 0", "B-1"), (1, 2, -250, day, "part 1", "B-1"), (2, 0, 100_000, day, "whole", "N-2"),
    ]  # fmt: skip


def test_the_example_is_read_as_pyiso20022_reads_it_whole():
    module = import_module("pyiso20022.camt.camt_053_001_08")
    whole = XmlParser().from_bytes(EXAMPLE.read_bytes(), module.Document).bk_to_cstmr_stmt.stmt[0]
    (s,) = read(EXAMPLE.read_bytes())
    theirs = [
        (e.ntry_dtls[0].tx_dtls[0].refs.end_to_end_id, int(e.amt.value * 100) * (1 if e.cdt_dbt_ind.value == "CRDT" else -1),
         e.acct_svcr_ref, day_number(e.val_dt.dt.to_date()))
        for e in whole.ntry
    ]  # fmt: skip
    mine = list(zip(s.lines.reference, s.lines.amount, s.lines.bank_reference, s.lines.value_day, strict=True))
    assert mine == theirs
    assert (s.opening, s.closing, s.name) == (0, 98_550, whole.id)


@pytest.mark.parametrize("version", versions())
def test_every_path_that_is_taken_is_one_of_pyiso20022s_classes_in_some_version(version):
    m = import_module(f"pyiso20022.camt.camt_053_001_{version}.camt_053_001_{version}")
    report = next(v for k, v in vars(m).items() if re.fullmatch(r"ReportEntry\d+", k))

    def names(cls: Any) -> dict[str, Any]:
        return {f.metadata.get("name", ""): f for f in cls.__dataclass_fields__.values()}

    def walk(cls: Any, path: list[str]) -> bool:
        field = names(cls).get(path[0]) if hasattr(cls, "__dataclass_fields__") else None
        if field is None:
            return False
        inner = re.findall(r"\w+", str(field.type))
        classes = [vars(m)[n] for n in inner if n in vars(m)]
        return len(path) == 1 or any(walk(c, path[1:]) for c in classes)

    detail = next(v for k, v in vars(m).items() if re.fullmatch(r"EntryTransaction\d+", k))
    paths = [(report, p) for p in camt._ENTRY] + [(detail, p) for p in camt._DETAIL]
    missing = {p for cls, p in paths if not walk(cls, p.split("/"))}
    # Forms of one thing that differ between versions, of which each has one.
    assert missing <= {"Sts/Cd", "Amt", "CdtDbtInd", "RltdPties/Dbtr/Nm", "RltdPties/Cdtr/Nm", "RltdPties/Dbtr/Pty/Nm",
                       "RltdPties/Cdtr/Pty/Nm", "Refs/AcctSvcrRef"}  # fmt: skip
    assert not {"RltdPties/Dbtr/Nm", "RltdPties/Dbtr/Pty/Nm"} <= missing


@pytest.mark.parametrize("version", ["01", "13", "99"])
def test_other_versions_and_messages_are_refused_by_name(version):
    assert f"'camt.053.001.{version}'" in refusal(document(version=version))
    assert "camt.053.001.02 to .12" in refusal(document(version=version))
    other = document().replace("camt.053.001.08", "pain.001.001.09")
    assert "'pain.001.001.09'" in refusal(other)
    assert "'html'" in refusal("<html/>")


BOMB = (
    '<!DOCTYPE x [<!ENTITY a "lol"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]>'
)


@pytest.mark.parametrize(
    "declaration",
    [
        BOMB,
        '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE x SYSTEM "http://192.0.2.1/x.dtd">',
        '<!DOCTYPE x [<!ENTITY % p SYSTEM "file:///etc/passwd"> %p;]>',
        "<!DOCTYPE Document>",
    ],
)
def test_a_document_type_declaration_ends_the_reading_before_anything_of_it_is_read(declaration):
    text = document(entry(more="<AddtlNtryInf>&c;&e;</AddtlNtryInf>"))
    said = refusal(text.replace("?>\n", f"?>\n{declaration}\n", 1))
    assert "line 2: has a document type declaration" in said
    assert "root:" not in said


def test_entities_without_a_declaration_are_not_well_formed():
    assert "is not well-formed XML: undefined entity" in refusal(
        document(entry(more="<AddtlNtryInf>&c;</AddtlNtryInf>"))
    )
    (s,) = read(document(entry(more="<AddtlNtryInf>a &amp; &lt;b&gt;</AddtlNtryInf>")))
    assert s.lines.text == ["a & <b>"]


@pytest.mark.parametrize(
    ("bytes_", "words"),
    [
        (document(entry())[:-12].encode(), "is not well-formed XML"),
        (document(entry()).encode("utf-16"), "is not well-formed XML"),  # it says UTF-8
        (
            document(entry(more="<AddtlNtryInf>ü</AddtlNtryInf>")).encode("latin-1"),
            "is not well-formed XML: not well-formed",
        ),
        (document(entry()).replace("UTF-8", "no-such-encoding").encode(), "cannot be decoded|unknown encoding"),
        (b"", "no element found"),
        (b"\x00\x01\x02", "is not well-formed XML"),
    ],
)
def test_wrong_bytes_are_refused(bytes_, words):
    assert re.search(words, refusal(bytes_))


def test_other_encodings_that_are_declared_are_read():
    text = document(entry(more="<AddtlNtryInf>Überweisung</AddtlNtryInf>"))
    for name, bytes_ in (
        ("ISO-8859-1", text.replace("UTF-8", "ISO-8859-1").encode("latin-1")),
        ("windows-1252", text.replace("UTF-8", "windows-1252").encode("cp1252")),
        ("UTF-16", text.replace("UTF-8", "UTF-16").encode("utf-16")),
    ):
        (s,) = read(bytes_)
        assert s.lines.text == ["Überweisung"], name


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (entry("10.005"), r"line 6: Amt: has 3 decimals \('10.005'\), EUR has 2 \(entry 2\)"),
        (entry("-10"), "Amt: must not be negative"),
        (entry("1e3"), "Amt: must be a decimal number, not '1e3'"),
        (entry("NaN"), "Amt: must be a decimal number"),
        (entry("10,00"), "Amt: must be a decimal number"),
        (entry(""), "Amt: must be a decimal number, not ''"),
        (entry("１０"), "Amt: must be a decimal number|has"),
        (entry("92233720368547758.08"), "Amt: must be at most 9223372036854775807 minor units"),
        (entry("9" * 41), "Amt: must be a decimal number"),
        (entry(currency="EURO"), "'EURO' is not an active ISO 4217"),
        (entry(sign="PLUS"), "CdtDbtInd: must be CRDT or DBIT, not 'PLUS'"),
        (entry(status="<Cd>DONE</Cd>"), "Sts: must be BOOK, PDNG, INFO or FUTR, not 'DONE'"),
        (entry(dates=""), "ValDt: must be given, or BookgDt"),
        (entry(dates="<ValDt><Dt>22.11.2026</Dt></ValDt>"), "ValDt: must be a day as YYYY-MM-DD, not '22.11.2026'"),
        (entry(dates="<BookgDt><Dt>2026-02-30</Dt></BookgDt>"), "BookgDt: must be a day"),
        (entry(dates="<ValDt><Dt>2026-11-22x</Dt></ValDt>"), "ValDt: must be a day"),
        (entry(dates="<ValDt><Dt>1969-12-31</Dt></ValDt>"), "must be a day from 1970-01-01"),
    ],
)
def test_a_bad_entry_is_named_with_its_line_field_and_rule(bad, words):
    assert re.search(words, refusal(document(entry(), bad, entry())))


def test_all_bad_entries_are_counted_and_twenty_named():
    said = refusal(document(*[entry("1.001")] * 30))
    assert said.count("decimals") == 20
    assert said.endswith("; and 10 more")


def test_trailing_zeros_are_no_decimals_and_currencies_have_their_own():
    (s,) = read(document(entry("100.00", currency="JPY"), currency="JPY"))
    assert s.lines.amount == [100]
    (s,) = read(document(entry("0.1250", currency="KWD"), currency="KWD"))
    assert s.lines.amount == [125]
    assert "JPY has none" in refusal(document(entry("100.50", currency="JPY"), currency="JPY"))


def test_what_does_not_add_up_is_refused_with_the_difference():
    balances = balance("OPBD", "5.00", "DBIT") + balance("CLBD", "6.00")
    said = refusal(document(entry("10.00"), entry("2.50", "DBIT"), balances=balances))
    assert "opening -5.00 EUR and 2 entries make 2.50 EUR, the statement says 6.00 EUR: it is off by 3.50 EUR" in said
    good = document(entry("10.00"), entry("2.50", "DBIT"), balances=balances.replace("6.00", "2.50"))
    (s,) = read(good)
    assert (s.opening, s.closing) == (-500, 250)


def summary(total: str = "", credits: str = "", debits: str = "") -> str:
    def part(name: str, text: str) -> str:
        n, _, amount = text.partition(" ")
        rest = f"<Sum>{amount}</Sum>" if amount else ""
        return f"<{name}><NbOfNtries>{n}</NbOfNtries>{rest}</{name}>" if text else ""

    return (
        "<TxsSummry>"
        + part("TtlNtries", total)
        + part("TtlCdtNtries", credits)
        + part("TtlDbtNtries", debits)
        + "</TxsSummry>"
    )


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        (summary("3"), "TtlNtries/NbOfNtries: says 3, there are 2: it is off by 1"),
        (summary("2 12.51"), "TtlNtries/Sum: says 12.51 EUR, the entries make 12.50 EUR: it is off by 0.01 EUR"),
        (summary(credits="2"), "TtlCdtNtries/NbOfNtries: says 2, there are 1"),
        (summary(credits="1 9.99"), "TtlCdtNtries/Sum: says 9.99 EUR"),
        (summary(debits="1 25.0"), "TtlDbtNtries/Sum: says 25.00 EUR, the entries make 2.50 EUR: it is off by 22.50"),
    ],
)
def test_counts_and_sums_that_are_stated_are_checked(stated, words):
    assert words in refusal(document(entry("10.00"), entry("2.50", "DBIT"), summary=stated))
    assert read(document(entry("10.00"), entry("2.50", "DBIT"), summary=summary("2 12.5", "1 10", "1 2.5")))


def test_entries_that_are_only_announced_are_left_out():
    (s,) = read(
        document(entry(), entry("7.00", status="<Cd>PDNG</Cd>"), balances=balance("OPBD", "0") + balance("CLBD", "10"))
    )
    assert (s.entries, s.announced, s.lines.amount) == (1, 1, [1000])


def test_details_are_lines_when_they_make_up_their_entry_and_else_it_is_one():
    def part(amount: str, name: str, currency: str = "EUR") -> str:
        return f'<Refs><EndToEndId>{name}</EndToEndId></Refs><Amt Ccy="{currency}">{amount}</Amt><CdtDbtInd>CRDT</CdtDbtInd>'

    (s,) = read(document(entry("10.00", more=details(part("4.00", "a"), part("6.00", "NOTPROVIDED")))))
    assert (s.lines.amount, s.lines.detail, s.lines.reference) == ([400, 600], [1, 2], ["a", ""])
    (s,) = read(document(entry("10.00", more=details(part("4.00", "a"), part("5.00", "b")))))
    assert (s.lines.amount, s.lines.detail) == ([1000], [0])
    (s,) = read(document(entry("10.00", more=details(part("4.00", "a"), part("6.00", "b", "USD")))))
    assert (s.lines.amount, s.lines.detail) == ([1000], [0])
    assert "decimals" in refusal(document(entry("10.00", more=details(part("4.001", "a"), part("5.999", "b")))))


def test_the_head_must_conform_to_the_schema():
    assert "head: does not conform to camt.053.001.08" in refusal(document().replace("<Id>S-1</Id>", "<Nonsense/>"))
    assert "is in EUR and in USD" in refusal(document(entry(currency="USD")))
    assert "states the balance CLBD more than once" in refusal(
        document(balances=balance("CLBD", "1") + balance("CLBD", "2"))
    )


def test_a_statement_in_pieces_of_any_size_is_the_same(monkeypatch):
    text = document(*[entry(f"{i}.00", more=details("<Refs><EndToEndId>ü</EndToEndId></Refs>")) for i in range(50)])
    (whole,) = read(text)
    for size in (1, 7, 64, 1_000):
        monkeypatch.setattr(camt, "_CHUNK", size)
        assert read(text) == [whole]


def test_several_statements_in_one_file():
    one = document(entry("1.00"), entry("2.00"))
    statement = re.search(r"<Stmt>.*</Stmt>", one, re.S)
    assert statement is not None
    two = one.replace(
        "</BkToCstmrStmt>", statement[0].replace("S-1", "S-2").replace("2.00", "3.00") + "</BkToCstmrStmt>"
    )
    assert [(s.name, s.lines.amount) for s in read(two)] == [("S-1", [100, 200]), ("S-2", [100, 300])]


def test_one_element_of_any_size_is_not_held_in_memory(monkeypatch):
    monkeypatch.setattr(camt, "_ELEMENT_BYTES_MAX", 200_000)
    long = "x" * 1_000_000
    assert "one element has more than 200,000 bytes" in refusal(
        document(entry(more=f"<AddtlNtryInf>{long}</AddtlNtryInf>"))
    )
    deep = "<a>" * 200_000 + "</a>" * 200_000
    assert "one element has more than" in refusal(document(entry(more=deep)))


def test_what_comes_before_a_statement_or_beside_entries_is_not_without_end(monkeypatch):
    monkeypatch.setattr(camt, "_ELEMENT_BYTES_MAX", 200_000)
    comment = document().replace("?>\n", "?>\n<!--" + "x" * 300_000 + "-->", 1)
    assert "has no statement in its first 200,000 bytes" in refusal(comment)
    assert "has no statement in its first" in refusal(document().replace("<Stmt>", "<x/>" * 80_000 + "<Stmt>"))
    monkeypatch.setattr(camt, "_HEAD_ELEMENTS_MAX", 100)
    assert "100 elements beside them" in refusal(document(balance("ITBD", "1") * 101))
    many = document(entry()).replace("</BkToCstmrStmt>", "</BkToCstmrStmt>" + "<y/>" * 80_000)
    assert "one element has more than 200,000 bytes" in refusal(many)


def test_deep_nesting_is_no_crash():
    deep = "<a>" * 100_000 + "</a>" * 100_000
    (s,) = read(document(entry(more=deep), entry()))
    assert s.entries == 2
