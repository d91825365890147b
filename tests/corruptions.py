"""What may have become of a record on its way: each kind by name, as a change of the bytes of a JSON object.

Belongs here: bytes, and an API that answers with them. Not here: what is expected of whoever reads these.
"""

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipelines.warehouse.database import Warehouse
from tests.hostile import Answer, Asked
from tests.library import rows

Bodies = dict[tuple[str, str], Any]
Corrupt = Callable[[bytes], bytes]


def member(text: bytes) -> Corrupt:
    """One more member at the end, as it is written."""
    return lambda record: record[:-1] + b', "odd": ' + text + b"}"


def first(text: bytes) -> Corrupt:
    """One more member at the beginning, as it is written, with what follows it."""
    return lambda record: b"{" + text + record[1:]


def instead(text: bytes) -> Corrupt:
    return lambda record: text


REPAIRED: dict[str, Corrupt] = {
    "NaN": member(b"NaN"),
    "Infinity": member(b"[1, -Infinity]"),
    "half an emoji": member(rb'"\ud83d"'),
    "the other half of an emoji": first(rb'"odd": "\ude00 x", '),
    "invalid UTF-8": member(b'"caf\xe9"'),
    "a byte order mark": lambda record: b"\xef\xbb\xbf" + record,
    "a key twice": member(b'1, "odd": 2'),
    "a number of a million digits": member(b"7" * 1_000_000),
}
"""The record can still be read: landing repairs it."""

BROKEN: dict[str, Corrupt] = {
    "a control character": member(b'"a\x01b"'),
    "a line break": member(b'"a\nb"'),
    "a NUL byte": member(b'"a\x00b"'),
    "an unescaped quote": member(b'"5" wide"'),
    "two unescaped quotes": member(b'"say "hi", now"'),
    "an unescaped quote at the beginning": first(b'"odd": "a " b", '),
    "a string without an end": lambda record: record[:-1] + b', "odd": "abc}',
    "a string without an end at the beginning": first(b'"odd": "abc, '),
    "a string without a beginning": first(b'"odd": abc", '),
    "a key without an end": first(b'"odd: 1, '),
    "a key without a value": member(b""),
    "a wrong escape": member(rb'"C:\x"'),
    "half an escape": member(rb'"\u12"'),
    "no closing brace": lambda record: record[:-1],
    "no opening brace": lambda record: record[1:],
    "a closing brace too many": lambda record: record + b"}",
    "a closing bracket too many": lambda record: record[:-1] + b"]}",
    "a list without an end": member(b'["a", "b"'),
    "an object without an end": member(b'{"a": {"b": 1}'),
    "brackets the wrong way round": member(b'[{"a": 1]}'),
    "a trailing comma": lambda record: record[:-1] + b", }",
    "a comma missing": lambda record: record[:-1] + b' "odd": 1}',
    "a comma twice": first(b'"odd": 1,, '),
    "a colon missing": first(b'"odd" 1, '),
    "single quotes": lambda record: record.replace(b'"', b"'"),
    "a key without quotes": first(b"odd: 1, "),
    "a comment": first(b"/* don't, {] */ "),
    "a comment of a line": first(b"// it's 5\" wide\n"),
    "HTML": instead(b'<html><p class="x">Sorry, it\'s [down] {now}</p></html>'),
    "plain text": instead(b"Service unavailable, try again"),
    "lists 100,000 deep": member(b"[" * 100_000 + b"]" * 100_000),
    "objects 100,000 deep": member(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    "brackets 100,000 times": instead(b"[" * 100_000),
    "cut in the middle": lambda record: record[: len(record) // 2],
    "cut after a quote": instead(b'{"id": "'),
    "cut after a key": instead(b'{"id":'),
    "values of Python": member(b"[None, True]"),
    "a hexadecimal number": member(b"0x1F"),
    "a leading zero": member(b"007"),
    "undefined": instead(b"undefined"),
    "None": instead(b"None"),
    "not a number": instead(b"NaN"),
    "text after it": lambda record: record + b" and so on",
}
"""The record cannot be read: landing quarantines its bytes."""

OF_ANOTHER_TYPE: dict[str, Corrupt] = {
    "null": instead(b"null"),
    "a number": instead(b"7"),
    "a string": instead(b'"none, {[ of it"'),
    "a list": instead(b'[{"id": 1}, 2]'),
    "an empty object": instead(b"{}"),
    "an error": instead(b'{"error": "internal"}'),
}
"""JSON, and no record."""

NOTHING: dict[str, Corrupt] = {"nothing": instead(b"")}
"""The place is empty, so that nothing can be kept of it."""

CORRUPTIONS = REPAIRED | BROKEN | OF_ANOTHER_TYPE | NOTHING


def held(warehouse: Warehouse) -> Bodies:
    """The latest body of each record, by stream and id."""
    query = """
        select v.stream, v.external_id, p.body from staging.versions v join staging.payloads p using (payload_id)
        where v.latest
    """
    return {(stream, external_id): body for stream, external_id, body in rows(warehouse, query)}


@dataclass
class Broken:
    """Corrupts records of what an API answers, by the number of the record on its page; the API itself stays whole."""

    usual: Callable[[Asked], Answer]
    kinds: dict[int, str] = field(default_factory=dict)

    def answer(self, asked: Asked) -> Answer:
        answer = self.usual(asked)
        document = answer.document
        lists = [document] if isinstance(document, list) else list(document.values())
        records = next((each for each in lists if isinstance(each, list)), [])
        body = answer.body
        for place, kind in sorted(self.kinds.items(), reverse=True):
            if asked.method == "GET" and place < len(records):
                record = json.dumps(records[place]).encode()
                before, found, after = body.partition(record)
                assert found
                body = before + CORRUPTIONS[kind](record) + after
        return Answer(body, answer.status, answer.headers)


def two_places(draw: random.Random, size: int) -> dict[int, str]:
    return {place: draw.choice(sorted(CORRUPTIONS)) for place in draw.sample(range(size), 2)}
