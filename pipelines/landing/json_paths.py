"""The JSON paths of a stream's payloads, the types at each, and how many payloads of this run had them.

A path is `modelVersions[*].files[*].sizeKB`; keys that are not plain words are quoted, the payload itself is `$`. To
limit the number of paths, `*` stands for a key that looks like an id, that is longer than `MAX_KEY_LENGTH`, that comes
after the first `MAX_KEYS` of its object or the first `MAX_PATHS` of the stream, or that is in an object which the
contract declares as a dict of objects or lists. Paths end at `MAX_DEPTH`. `[*]` stands for the elements of an array,
except in an array of at most `MAX_PLACES` scalars of several types: there each place is a path (`[0]`).
Belongs here: paths in memory. Not here: the table of paths (`schema_drift`).
"""

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import msgspec
from msgspec.inspect import DictType, ListType, StructType, Type, UnionType

from pipelines.landing.volatile_fields import EACH_ELEMENT, EACH_VALUE, PathTree

MAX_KEYS, MAX_KEY_LENGTH, MAX_PATHS, MAX_PLACES, MAX_DEPTH = 64, 64, 1_000, 8, 12
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
    """Counts of a type at a path: `before`, payloads of earlier runs that had it; `seen`, payloads of this run.

    opened: payloads of this run of which only the paths below were inspected. last: number of the payload counted last.
    sample: the digest of a payload that had it.
    """

    __slots__ = ("before", "last", "opened", "sample", "seen")

    def __init__(self, sample: bytes | None = None, before: int = 0) -> None:
        self.sample, self.before, self.seen, self.opened, self.last = sample, before, 0, 0, 0


class Node:
    """A path of a stream, with a tally for each type, and the paths below by their step."""

    __slots__ = ("depth", "holder", "path", "steps", "tallies")

    def __init__(self, path: str = ROOT, holder: Tally | None = None, depth: int = 0) -> None:
        self.path, self.holder, self.depth = path, holder, depth
        self.tallies: dict[str, Tally] = {}
        self.steps: dict[str, Node] = {}

    def step(self, step: str, sample: bytes | None = None) -> "Node":
        """The path below, added if it is new. step: `[*]`, `[0]`, `*`, or a key, quoted if it is not a plain word."""
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
    """What a run adds to a row of `ops.schema_drift`. of_payloads: for a new row that of earlier runs too."""

    stream: str
    path: str
    type: str
    seen: int
    of_payloads: int
    sample: bytes | None


class StreamPaths:
    """The paths of one stream: those that the table has, and those that this run finds."""

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
        """Counts the paths and types of a payload."""
        self.number += 1
        self._visit(self.root, value, sample)

    def inspect_volatile(self, value: Any, volatile: PathTree, sample: bytes) -> None:
        """Counts the paths and types below the volatile fields of a payload."""
        self.number += 1
        self._visit_volatile(self.root, value, volatile, sample)

    def _visit(self, node: Node, value: Any, sample: bytes) -> None:
        kind = TYPES[type(value)]
        tally = node.tallies.get(kind)
        if tally is None:
            tally = node.tally(kind, sample)
        if tally.last != self.number:
            tally.last = self.number
            tally.seen += 1
        self._visit_children(node, value, sample)

    def _visit_children(self, node: Node, value: Any, sample: bytes) -> None:
        if type(value) is dict:
            if node.depth < MAX_DEPTH:
                steps = node.steps
                for key, each in value.items():
                    self._visit(steps.get(key) or self._child(node, key, sample), each, sample)
        elif type(value) is list and value and node.depth < MAX_DEPTH:
            if len(value) <= MAX_PLACES and _has_mixed_scalars(value):
                for place, each in enumerate(value):
                    self._visit(node.step(f"[{place}]", sample), each, sample)
                return
            below = node.step(EACH_ELEMENT, sample)
            for each in value:
                self._visit(below, each, sample)

    def _visit_volatile(self, node: Node, value: Any, volatile: PathTree, sample: bytes) -> None:
        if not volatile:
            tally = node.tallies.get(TYPES[type(value)])
            if tally is None:
                self._visit(node, value, sample)
            else:
                tally.opened += tally.last != self.number
                tally.last = self.number
                self._visit_children(node, value, sample)
        elif type(value) is list and EACH_ELEMENT in volatile:
            for each in value:
                self._visit_volatile(node.step(EACH_ELEMENT, sample), each, volatile[EACH_ELEMENT], sample)
        elif type(value) is dict:
            for key, each in value.items():
                step = volatile.get(key, volatile.get(EACH_VALUE))
                if step is not None:
                    self._visit_volatile(self._child(node, key, sample), each, step, sample)

    def _child(self, node: Node, key: str, sample: bytes) -> Node:
        """The path of a key: a path of its own, or that of `*`."""
        if len(key) > MAX_KEY_LENGTH or node.path in self.maps or _ID.fullmatch(key):
            return node.step(EACH_VALUE, sample)
        name = key if _PLAIN.fullmatch(key) else msgspec.json.encode(key).decode()
        if name not in node.steps:
            if len(node.steps) >= MAX_KEYS or self.named >= MAX_PATHS:
                return node.step(EACH_VALUE, sample)
            self.named += 1
        return node.step(name, sample)

    def rows(self) -> Iterator[Row]:
        """The rows that this run adds, without types that none of its inspected payloads could have had."""
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


def contract_paths(kind: Type, path: str = "") -> Iterator[tuple[str, Type]]:
    """The paths that a contract names, each with its type."""
    if isinstance(kind, UnionType):
        for one in kind.types:
            yield from contract_paths(one, path)
        return
    yield path, kind
    match kind:
        case StructType():
            for field in kind.fields:
                yield from contract_paths(field.type, f"{path}.{field.encode_name}" if path else field.encode_name)
        case ListType():
            yield from contract_paths(kind.item_type, path + EACH_ELEMENT)
        case DictType():
            yield from contract_paths(kind.value_type, f"{path}.{EACH_VALUE}")


def map_paths(kind: Type) -> Iterator[str]:
    """The paths at which a contract has a dict of objects or lists: its keys are data."""
    for path, there in contract_paths(kind):
        if isinstance(there, DictType) and isinstance(there.value_type, StructType | ListType):
            yield path


def _has_mixed_scalars(values: list[Any]) -> bool:
    """Whether all values are scalars or null, of more than one type."""
    kinds = {SCALARS.get(type(each)) for each in values if each is not None}
    return len(kinds) > 1 and None not in kinds
