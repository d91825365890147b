"""Counters inside payloads: what changes all the time is kept apart from what makes a version.

A contract names the paths of its counters (`stats`, `versions[*].stats`, `tags.*.seenAt`). They are left out of the
digest, with `null` in their place, so that a counter that comes or goes is still a change. Belongs here: taking them
out. Not: putting them back (`ops.restore_volatile_fields`), not where they are kept (`publishing`).
"""

import hashlib
import re
from dataclasses import dataclass

import msgspec

from pipelines.landing.jsonb import faithful, repair

EACH_ELEMENT, EACH_VALUE = "[*]", "*"

Tree = dict[str, "Tree"]
"""Steps into a payload; one that leads no further is a counter."""

NOTHING = msgspec.Raw(b"null")

SHORT = 10_000
TINY = re.compile(rb"[eE]-[0-9]{4}")
"""A number within so many bytes, without such an exponent, is none that jsonb refuses once `faithful` has read it."""

COLON = b'":'
APART = (b'" ', b'"\n', b'"\t', b'"\r')
KEY_APART = re.compile(rb'"[ \t\r\n]+:')


@dataclass(frozen=True, slots=True)
class Counted:
    """The counters of a payload: in its structure, with the steps to each, and their digest."""

    values: bytes
    paths: bytes
    digest: bytes


def tree(paths: tuple[str, ...]) -> Tree:
    """The paths of a contract as one tree."""
    root: Tree = {}
    for path in paths:
        node = root
        for step in path.replace(EACH_ELEMENT, f".{EACH_ELEMENT}").split("."):
            node = node.setdefault(step, {})
    return root


def take_out(body: bytes, counters: Tree) -> tuple[bytes, Counted | None]:
    """A payload without its counters, and these; the whole of it where taking it apart could lose something.

    A key told twice is lost when an object is taken apart; then fewer `":` are left, where each key's colon follows
    its quote. Counters that jsonb would not hold as they are stay in the body, which is mended with its bytes kept.
    """
    found: list[tuple[list[str], msgspec.Raw]] = []
    try:
        stable, values = (bytes(part) for part in _split(msgspec.Raw(body.strip()), counters, [], found))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body, None
    left = stable.count(COLON) + sum(bytes(value).count(COLON) for _, value in found)
    if not found or left != body.count(COLON) or (any(apart in body for apart in APART) and KEY_APART.search(body)):
        return body, None
    if not faithful(values) or ((len(values) > SHORT or TINY.search(values)) and repair(values)[1]):
        return body, None
    paths = msgspec.json.encode([path for path, _ in found])
    return stable, Counted(values, paths, hashlib.sha256(values).digest())


def _split(
    value: msgspec.Raw, node: Tree, at: list[str], found: list[tuple[list[str], msgspec.Raw]]
) -> tuple[msgspec.Raw, msgspec.Raw]:
    """A value without counters, and its counters alone; adds the steps to each and what it is."""
    if not node:
        found.append((at, value))
        return NOTHING, value
    opening = bytes(memoryview(value)[:1])
    if opening == b"[" and EACH_ELEMENT in node:
        parts = [
            _split(each, node[EACH_ELEMENT], [*at, str(number)], found)
            for number, each in enumerate(msgspec.json.decode(value, type=list[msgspec.Raw]))
        ]
        return _encoded([stable for stable, _ in parts]), _encoded([counters for _, counters in parts])
    if opening != b"{":
        return value, NOTHING
    stable = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    counters = {}
    for name in sorted(stable):
        step = node.get(name, node.get(EACH_VALUE))
        if step is not None:
            stable[name], counters[name] = _split(stable[name], step, [*at, name], found)
    return _encoded(stable), _encoded(counters)


def _encoded(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
