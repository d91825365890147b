"""The JSON paths of a stream's payloads, each with the types that were seen there, and how often in this run.

A path is written `modelVersions[*].files[*].sizeKB`, keys that are not plain in quotes, and `$` for the payload. So
that a stream has not too many, an object tells up to `MOST_KEYS` keys by name, the rest as `*`; so are keys that are
ids or longer than `LONGEST_KEY`, and all where the contract has a dict of objects or lists. A stream has `MOST_PATHS`
named paths; below `DEEPEST` nothing is told. Elements are told as `[*]`, and by their places in an array of up to
`MOST_PLACES` unlike scalars, such as a link of a graph. Belongs here: paths in memory. Not: the table (`drift`).
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec.inspect import DictType, ListType, StructType, Type, UnionType

from pipelines.landing.volatile_fields import EACH_ELEMENT, EACH_VALUE, Tree

MOST_KEYS, LONGEST_KEY, MOST_PATHS, MOST_PLACES, DEEPEST = 64, 64, 1_000, 8, 12
ROOT = "$"

TYPES = {
    dict: "object",
    list: "array",
    str: "string",
    int: "number",
    float: "number",
    bool: "boolean",
    type(None): "null",
}
SCALARS = {str: "string", int: "number", float: "number", bool: "boolean"}

_ID = re.compile(r"[0-9][0-9.:_-]*|(?=.*[0-9])[0-9A-Fa-f-]{16,}")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_STEP = re.compile(r"\[(?:\*|\d+)\]|\*|\"(?:[^\"\\]|\\.)*\"|[^.\[]+")


class Tally:
    """How often a type was there: payloads that had it before this run, and those that this run looked at.

    opened: payloads of which only what is below was looked at. sample: the digest of one that had it.
    """

    __slots__ = ("before", "last", "opened", "sample", "seen")

    def __init__(self, sample: bytes | None = None, before: int = 0) -> None:
        self.sample, self.before, self.seen, self.opened, self.last = sample, before, 0, 0, 0


class Node:
    """A path of a stream: the types it has had, and the paths below."""

    __slots__ = ("depth", "holder", "path", "steps", "tallies")

    def __init__(self, path: str = ROOT, holder: Tally | None = None, depth: int = 0) -> None:
        self.path, self.holder, self.depth = path, holder, depth
        self.tallies: dict[str, Tally] = {}
        self.steps: dict[str, Node] = {}

    def step(self, step: str, sample: bytes | None = None) -> "Node":
        """The path one step further; for a key its name, quoted where it is not plain."""
        found = self.steps.get(step)
        if found is None:
            above = "" if self.path == ROOT else self.path
            element = step.startswith("[")
            path = above + step if element or not above else f"{above}.{step}"
            holder = self.tally("array" if element else "object", sample)
            found = self.steps[step] = Node(path, holder, self.depth + 1)
        return found

    def tally(self, kind: str, sample: bytes | None = None) -> Tally:
        found = self.tallies.get(kind)
        if found is None:
            found = self.tallies[kind] = Tally(sample)
        return found

    def each(self) -> Iterator["Node"]:
        yield self
        for below in self.steps.values():
            yield from below.each()


class Row(NamedTuple):
    """What a run adds to a row of `ops.schema_drift`. of_payloads: since the beginning, for a row that is new."""

    stream: str
    path: str
    type: str
    seen: int
    of_payloads: int
    sample: bytes | None


class Paths:
    """The paths of one stream, as the table has them and as this run finds them."""

    def __init__(self, stream: str, maps: set[str], known: list[dict[str, Any]]) -> None:
        self.stream, self.maps, self.root = stream, maps, Node()
        self.offered, self.number = 0, 0
        for row in known:
            node = self.root
            for step in _STEP.findall(row["path"]) if row["path"] != ROOT else ():
                node = node.step(step)
            node.tally(row["type"]).before = row["payloads"]
        self.named = sum(1 for _ in self.root.each())

    def inspect(self, value: Any, sample: bytes) -> None:
        """Looks at a payload."""
        self.number += 1
        self._look(self.root, value, sample)

    def look_at_counters(self, value: Any, counters: Tree, sample: bytes) -> None:
        """Looks at what is below the counters of a payload."""
        self.number += 1
        self._find(self.root, value, counters, sample)

    def _look(self, node: Node, value: Any, sample: bytes) -> None:
        kind = TYPES[type(value)]
        tally = node.tallies.get(kind)
        if tally is None:
            tally = node.tally(kind, sample)
        if tally.last != self.number:
            tally.last = self.number
            tally.seen += 1
        self._below(node, value, sample)

    def _below(self, node: Node, value: Any, sample: bytes) -> None:
        if type(value) is dict:
            if node.depth < DEEPEST:
                steps = node.steps
                for key, each in value.items():
                    self._look(steps.get(key) or self._step(node, key, sample), each, sample)
        elif type(value) is list and value and node.depth < DEEPEST:
            if len(value) <= MOST_PLACES and _unlike(value):
                for place, each in enumerate(value):
                    self._look(node.step(f"[{place}]", sample), each, sample)
                return
            below = node.step(EACH_ELEMENT, sample)
            for each in value:
                self._look(below, each, sample)

    def _find(self, node: Node, value: Any, counters: Tree, sample: bytes) -> None:
        if not counters:
            tally = node.tallies.get(TYPES[type(value)])
            if tally is None:
                self._look(node, value, sample)
            else:
                tally.opened += tally.last != self.number
                tally.last = self.number
                self._below(node, value, sample)
        elif type(value) is list and EACH_ELEMENT in counters:
            for each in value:
                self._find(node.step(EACH_ELEMENT, sample), each, counters[EACH_ELEMENT], sample)
        elif type(value) is dict:
            for key, each in value.items():
                step = counters.get(key, counters.get(EACH_VALUE))
                if step is not None:
                    self._find(self._step(node, key, sample), each, step, sample)

    def _step(self, node: Node, key: str, sample: bytes) -> Node:
        """Where a key leads: to a path of its name while there is room, else to that of all other keys."""
        if len(key) > LONGEST_KEY or node.path in self.maps or _ID.fullmatch(key):
            return node.step(EACH_VALUE, sample)
        name = key if _PLAIN.fullmatch(key) else msgspec.json.encode(key).decode()
        if name not in node.steps:
            if len(node.steps) >= MOST_KEYS or self.named >= MOST_PATHS:
                return node.step(EACH_VALUE, sample)
            self.named += 1
        return node.step(name, sample)

    def rows(self) -> Iterator[Row]:
        """What this run adds, in payloads; a type that it has not looked for adds nothing."""
        for node in self.root.each():
            holders = [node.holder] if node.holder else node.tallies.values()
            within = sum(each.seen + each.opened for each in holders)
            before = sum(each.before for each in holders)
            for kind, tally in node.tallies.items():
                of_payloads = max(within, tally.seen)
                if of_payloads and (tally.seen or tally.before):
                    yield Row(
                        self.stream,
                        node.path,
                        kind,
                        tally.seen,
                        of_payloads if tally.before else of_payloads + before,
                        tally.sample,
                    )


def named(kind: Type, path: str = "") -> Iterator[tuple[str, Type]]:
    """The paths that a contract names, each with what is there."""
    if isinstance(kind, UnionType):
        for one in kind.types:
            yield from named(one, path)
        return
    yield path, kind
    match kind:
        case StructType():
            for field in kind.fields:
                yield from named(field.type, f"{path}.{field.encode_name}" if path else field.encode_name)
        case ListType():
            yield from named(kind.item_type, path + EACH_ELEMENT)
        case DictType():
            yield from named(kind.value_type, f"{path}.{EACH_VALUE}")


def maps(kind: Type) -> Iterator[str]:
    """The paths at which a contract has dicts of objects or lists: their keys are data."""
    for path, there in named(kind):
        if isinstance(there, DictType) and isinstance(there.value_type, StructType | ListType):
            yield path


def _unlike(values: list[Any]) -> bool:
    """Whether all are scalars, and not all of one type."""
    kinds = {SCALARS.get(type(each)) for each in values if each is not None}
    return len(kinds) > 1 and None not in kinds
