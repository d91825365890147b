"""The JSON paths of a stream that its SELECTs and its contract read, and what payloads have at them.

    paths that are read ──> Tree ──walk through each payload──> types at each path, keys that nobody reads

A path is `modelVersions[*].files[*].sizeKB`; keys that are not plain words are quoted, the payload itself is `$`. `[*]`
stands for the elements of an array, `*` for every key of an object, `~regex` for those that match. A null is no value.
Belongs here: paths in memory. Not here: the table of paths (`schema_drift`), the SELECTs (`columns`).
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec.inspect import DictType, ListType, StructType, Type, UnionType

EACH_ELEMENT, EACH_VALUE = "[*]", "*"
MAX_KEYS, MAX_KEY_LENGTH = 64, 64
"""Keys of one object that are kept as unread, and their length. Where an object has more, its keys are data."""

Steps = tuple[str | int, ...]

TYPES = {dict: "object", list: "array", str: "string", int: "number", float: "number", bool: "boolean"}

_ID = re.compile(r"[0-9][0-9.:_-]*|(?=.*[0-9])[0-9A-Fa-f-]{16,}")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*|\*")


def path_text(steps: Steps) -> str:
    """A path as `ops.schema_drift` has it."""
    text = ""
    for step in steps:
        if isinstance(step, int):
            text += f"[{step}]"
        elif step == EACH_ELEMENT:
            text += step
        else:
            text += f".{step if _PLAIN.fullmatch(step) else msgspec.json.encode(step).decode()}"
    return text.removeprefix(".") or "$"


def contract_paths(kind: Type, steps: Steps = ()) -> Iterator[Steps]:
    """The paths that a contract names."""
    match kind:
        case UnionType():
            for one in kind.types:
                yield from contract_paths(one, steps)
            return
        case StructType():
            for field in kind.fields:
                yield from contract_paths(field.type, (*steps, field.encode_name))
        case ListType():
            yield from contract_paths(kind.item_type, (*steps, EACH_ELEMENT))
        case DictType():
            yield from contract_paths(kind.value_type, (*steps, EACH_VALUE))
    yield steps


class Node:
    """A path that is read, and those below it by their next step."""

    def __init__(self, steps: Steps) -> None:
        self.steps, self.path = steps, path_text(steps)
        self.below: dict[str | int, Node] = {}
        self.patterns: list[tuple[re.Pattern[str], Node]] = []

    def step(self, step: str | int) -> "Node":
        """The path below, added if it is new."""
        if step not in self.below:
            self.below[step] = Node((*self.steps, step))
            if isinstance(step, str) and step.startswith("~"):
                self.patterns.append((re.compile(step[1:]), self.below[step]))
        return self.below[step]

    def of_key(self, key: str) -> "list[Node]":
        """The paths that read a key of the object here: by its name, by a pattern, as any key."""
        found = [self.below[step] for step in (key, EACH_VALUE) if step in self.below]
        return found + [node for pattern, node in self.patterns if pattern.search(key)]

    def of_element(self, place: int) -> "list[Node]":
        """The paths that read an element of the array here."""
        return [self.below[step] for step in (place, EACH_ELEMENT, EACH_VALUE) if step in self.below]

    def under(self, kind: str) -> "list[Node]":
        """The paths that an object or an array here could have."""
        elements = kind == "array"
        return [
            node
            for step, node in self.below.items()
            if step == EACH_VALUE or (isinstance(step, int) or step == EACH_ELEMENT) == elements
        ]


class Tree:
    """The paths that are read in one stream, and what the payloads that it walked through have at them.

    payloads: how many have a path with a type. samples: the digest of one of these. of_payloads: how many have the
    object or array around a path. around: the path of that. unread: the keys of an object that nobody reads, as paths,
    with the digest of a payload.
    """

    def __init__(self, paths: Iterable[Steps]) -> None:
        self.root = Node(())
        for steps in paths:
            node = self.root
            for step in steps:
                node = node.step(step)
        self.payloads: Counter[tuple[str, str]] = Counter()
        self.of_payloads: Counter[str] = Counter()
        self.around: dict[str, str] = {}
        self.samples: dict[tuple[str, str], bytes] = {}
        self.unread: dict[str, dict[str, bytes]] = {}
        self._had: set[tuple[str, str]] = set()
        self._could: set[str] = set()

    def walk(self, value: Any, digest: bytes) -> None:
        """Counts what a payload has at the paths."""
        self._had, self._could = set(), {self.root.path}
        self._visit(self.root, value, digest)
        self.payloads.update(self._had)
        self.of_payloads.update(self._could)
        for each in self._had - self.samples.keys():
            self.samples[each] = digest

    def _visit(self, node: Node, value: Any, digest: bytes) -> None:
        kind = TYPES.get(type(value))
        if kind is None:
            return
        self._had.add((node.path, kind))
        if kind not in ("object", "array") or not node.below:
            return
        for each in node.under(kind):
            self._could.add(each.path)
            self.around[each.path] = node.path
        if kind == "array":
            for place, element in enumerate(value):
                for below in node.of_element(place) or [node]:  # a lax path steps into arrays by itself
                    self._visit(below, element, digest)
            return
        for key, each in value.items():
            found = node.of_key(key)
            for below in found:
                self._visit(below, each, digest)
            if not found and each is not None and len(key) <= MAX_KEY_LENGTH and not _ID.fullmatch(key):
                self.unread.setdefault(node.path, {}).setdefault(path_text((*node.steps, key)), digest)


def decoded(body: bytes | str) -> Any:
    """The value of a JSON text, large numbers as floats; None, if it is not JSON or is nested too deep."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        try:
            return json.loads(body, parse_int=float)
        except (ValueError, RecursionError):
            return None
