"""Checks a receipt: that a record stands in the bank's journal under a sealed root. Needs Python 3.9 and nothing else.

    python check_receipt.py RECEIPT.json [--root HEX] [--schema JournalRecord.avsc]

--root: what the bank published; without it the receipt is only held against itself. --schema: the published contract
of the record, instead of the copy in the receipt. Exit code 0: it holds; 1: it does not; 2: wrong usage.
"""

import argparse
import io
import json
import time
from hashlib import sha256
from pathlib import Path


def ensure(holds, what):
    if not holds:
        raise ValueError(what)


def take(data, size):
    ensure(size >= 0 and len(found := data.read(size)) == size, "the bytes end too early")
    return found


def number(data):
    n, shift, byte = 0, 0, 128
    while byte > 127:
        byte = take(data, 1)[0]
        n, shift = n | (byte & 127) << shift, shift + 7
    return n >> 1 ^ -(n & 1)


def names(schema):
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    own = {schema["name"]: schema} if isinstance(schema, dict) and "name" in schema else {}
    return own | {name: part for p in parts for name, part in names(p).items()}


def decode(schema, data, named):
    """One value by the rules of Avro's binary encoding."""
    if isinstance(schema, list):
        return decode(dict(enumerate(schema))[number(data)], data, named)
    schema = schema if isinstance(schema, dict) else named.get(schema, {"type": schema})
    kind, out = schema["type"], []
    if kind == "record":
        return {f["name"]: decode(f["type"], data, named) for f in schema["fields"]}
    if kind in ("array", "map"):
        while count := number(data):
            for _ in range(count):
                key = decode("string", data, named) if kind == "map" else len(out)
                out.append((key, decode(schema["items" if kind == "array" else "values"], data, named)))
        return dict(out) if kind == "map" else [value for _, value in out]
    simple = {"int": number, "long": number, "null": lambda d: None, "boolean": lambda d: take(d, 1) == b"\1",
              "bytes": lambda d: take(d, number(d)), "string": lambda d: take(d, number(d)).decode(),
              "fixed": lambda d: take(d, schema["size"]), "enum": lambda d: schema["symbols"][number(d)]}  # fmt: skip
    return simple[kind](data)


def whole(text, schema):  # a record, its bytes in hexadecimal
    fields = decode(schema, data := io.BytesIO(bytes.fromhex(text)), names(schema)).items()
    return {k: v.hex() if isinstance(v, bytes) else v for k, v in fields} if not data.read() else {}


def check(receipt, published_root, schema):
    """What the record says, line by line. Raises an error when anything does not hold."""
    seal, r = whole(receipt["seal_body"], receipt["seal_schema"]), whole(receipt["record"], schema or receipt["schema"])
    ensure((receipt["receipt"], receipt["seal"]) == ("clearline-receipt-1", seal), "the seal is another")
    index, last = receipt["index"], seal["last_sequence"] - seal["first_sequence"]
    found = sha256(b"\0" + bytes.fromhex(receipt["record"])).digest()
    for sibling in map(bytes.fromhex, receipt["path"]):  # as in RFC 9162, 2.1.3.2
        ensure(0 <= index <= last > 0, "the path is too long for this index")
        right = index & 1 or index == last
        found = sha256(b"\1" + (sibling + found if right else found + sibling)).digest()
        levels = (index & -index).bit_length() if right else 1  # on the right edge of the tree, several at once
        index, last = index >> levels, last >> levels
    leads = 0 == last == index and found.hex() == seal["root"] == (published_root or seal["root"])
    ensure(leads, "the path does not lead to the root of the seal, or that is not the published one")
    places = (receipt["partition"], seal["partition"], receipt["sequence"], seal["first_sequence"] + receipt["index"])
    ensure(places == (r["source_partition"],) * 2 + (r["sequence"],) * 2, "record, seal and receipt name other places")
    legs = [{k: p[k] for k in ("account_id", "side", "amount", "currency")} for p in r["postings"]]
    told = {k: r[k] for k in ("partner_id", "idempotency_key", "outcome", "reason", "booked_at")} | {"postings": legs}
    ensure(told == receipt["transaction"], "the record is not what the receipt says")
    booked = time.strftime("booked at %Y-%m-%d %H:%M:%S UTC", time.gmtime(r["booked_at"] // 1000))
    lines = [f"{p['side']} {p['account_id']} {p['amount']} {p['currency']} (minor units)" for p in legs]
    lines += [f"root {seal['root']}, " + ("the published one" if published_root else "compared with no published one")]
    return [f"{r['partner_id']} {r['idempotency_key']}: {r['outcome']} {r['reason']}", booked, *lines]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Checks a receipt. Exit code 0: it holds; 1: it does not.")
    _ = [parser.add_argument(n, type=t) for n, t in (("receipt", Path), ("--root", str.lower), ("--schema", Path))]
    given = parser.parse_args()
    try:
        files = [json.loads(f.read_text(encoding="utf-8")) if f else None for f in (given.receipt, given.schema)]
        print("the receipt holds", *check(files[0], given.root, files[1]), sep="\n")
    except Exception as e:  # whatever a forged file makes of it, it is refused
        parser.exit(print(f"REFUSED: {e!r}") or 1)
