"""Volatile fields of payloads, such as counters: they are left out of the digest of a version.

    {"id": 1, "stats": {"likes": 5}} ──split_off──> {"id": 1, "stats": null} and {"stats": {"likes": 5}}

A contract names their paths (`stats`, `versions[*].stats`, `tags.*.seenAt`). `null` takes the place of each, so that a
field that appears or disappears is still a change of the version. Not here: restoring (`ops.restore_volatile_fields`).
"""

import hashlib
import re
from dataclasses import dataclass

import msgspec

from pipelines.landing.jsonb import SPACED_COLON, is_lossless, repair

EACH_ELEMENT, EACH_VALUE = "[*]", "*"

PathTree = dict[str, "PathTree"]
"""Paths by their steps; a step without further steps leads to a volatile field."""

NOTHING = msgspec.Raw(b"null")

SHORT = 10_000
TINY = re.compile(rb"[eE]-[0-9]{4}")
"""jsonb accepts every number of a text that is no longer, has no such exponent, and is `is_lossless`."""

COLON = b'":'


@dataclass(frozen=True, slots=True)
class VolatileFields:
    """The volatile fields of a payload, as JSON: values in the payload's structure, the path of each; their digest."""

    values: bytes
    paths: bytes
    digest: bytes


def path_tree(paths: tuple[str, ...]) -> PathTree:
    """The paths of a contract, as one tree."""
    root: PathTree = {}
    for path in paths:
        node = root
        for step in path.replace(EACH_ELEMENT, f".{EACH_ELEMENT}").split("."):
            node = node.setdefault(step, {})
    return root


def split_off(body: bytes, volatile: PathTree) -> tuple[bytes, VolatileFields | None]:
    """A payload without its volatile fields, and these; the whole payload and None, if splitting could lose data.

    Decoding an object loses duplicate keys. The result then has fewer `":` than the body, provided that each colon
    directly follows its key. Fields that jsonb cannot hold unchanged stay in the body, whose bytes are kept.
    """
    found: list[tuple[list[str], msgspec.Raw]] = []
    try:
        stable, values = (bytes(part) for part in _split(msgspec.Raw(body.strip()), volatile, [], found))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body, None
    left = stable.count(COLON) + sum(bytes(value).count(COLON) for _, value in found)
    if not found or left != body.count(COLON) or SPACED_COLON.search(body):
        return body, None
    if not is_lossless(values) or ((len(values) > SHORT or TINY.search(values)) and repair(values)[1]):
        return body, None
    paths = msgspec.json.encode([path for path, _ in found])
    return stable, VolatileFields(values, paths, hashlib.sha256(values).digest())


def _split(
    value: msgspec.Raw, node: PathTree, at: list[str], found: list[tuple[list[str], msgspec.Raw]]
) -> tuple[msgspec.Raw, msgspec.Raw]:
    """A value without volatile fields, and these alone; appends the path and the value of each to `found`."""
    if not node:
        found.append((at, value))
        return NOTHING, value
    opening = bytes(memoryview(value)[:1])
    if opening == b"[" and EACH_ELEMENT in node:
        parts = [
            _split(each, node[EACH_ELEMENT], [*at, str(number)], found)
            for number, each in enumerate(msgspec.json.decode(value, type=list[msgspec.Raw]))
        ]
        return _encoded([stable for stable, _ in parts]), _encoded([volatile for _, volatile in parts])
    if opening != b"{":
        return value, NOTHING
    stable = msgspec.json.decode(value, type=dict[str, msgspec.Raw])
    volatile = {}
    for name in sorted(stable):
        step = node.get(name, node.get(EACH_VALUE))
        if step is not None:
            stable[name], volatile[name] = _split(stable[name], step, [*at, name], found)
    return _encoded(stable), _encoded(volatile)


def _encoded(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
