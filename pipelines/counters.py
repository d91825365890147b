"""Counters inside payloads: what changes all the time is kept apart from what makes a version.

A contract names the paths of its counters (`stats`, `versions[*].stats`, `tags.*.seenAt`). They are left out of the
digest, with `null` in their place, so that a counter that comes or goes is still a change. Belongs here: taking them
out. Not: putting them back (`ops.put_back`), not where they are kept (`publishing`).
"""

import hashlib
from dataclasses import dataclass

import msgspec

EACH_ELEMENT, EACH_VALUE = "[*]", "*"

Tree = dict[str, "Tree"]
"""Steps into a payload; one that leads no further is a counter."""

NOTHING = msgspec.Raw(b"null")


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
    """A payload without its counters, and these; raises what msgspec raises where it cannot be read."""
    paths: list[list[str]] = []
    stable, values = _split(msgspec.Raw(body.lstrip()), counters, [], paths)
    if not paths:
        return body, None
    text = bytes(values)
    return bytes(stable), Counted(text, msgspec.json.encode(paths), hashlib.sha256(text).digest())


def _split(value: msgspec.Raw, node: Tree, at: list[str], paths: list[list[str]]) -> tuple[msgspec.Raw, msgspec.Raw]:
    """A value without counters, and its counters alone."""
    if not node:
        paths.append(at)
        return NOTHING, value
    opening = bytes(value)[:1]
    if opening == b"[" and EACH_ELEMENT in node:
        parts = [
            _split(each, node[EACH_ELEMENT], [*at, str(number)], paths)
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
            stable[name], counters[name] = _split(stable[name], step, [*at, name], paths)
    return _encoded(stable), _encoded(counters)


def _encoded(value: object) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(value))
