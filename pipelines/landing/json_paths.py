"""The JSON paths of a stream that its SELECTs and its contract read, and what payloads have at them.

    paths that are read ──> Tree ──walk through each payload──> types at each path, keys that nobody reads

A path is `modelVersions[*].files[*].sizeKB`; keys that are not plain words are quoted, the payload itself is `$`. `[*]`
stands for the elements of an array, `*` for every key of an object, `~regex` for those that match. A null is no value.
"""

import json
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from pipelines.connectors.json_values import EACH_ELEMENT, EACH_VALUE

MAX_KEY_LENGTH = 64  # a longer key is data, as one that looks like an id is

Steps = tuple[str | int, ...]
Readers = dict[str, dict[str, bool]]
"""By SELECT file, the columns that depend on a path; True for one that is NULL without it."""

TYPES = {dict: "object", list: "array", str: "string", int: "number", float: "number", bool: "boolean"}
_ID = re.compile(r"[0-9][0-9.:_-]*|(?=.*[0-9])[0-9A-Fa-f-]{16,}")
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")


def quoted_key(key: str) -> str:
    """A key as it stands in a path: quoted where it is no plain word."""
    text = key if _PLAIN.fullmatch(key) else json.dumps(key, ensure_ascii=False)
    return text.encode(errors="backslashreplace").decode()  # lone surrogates


class Node:
    """A path that is read: what reads it, and the paths below by their next step."""

    def __init__(self, path: str = "$") -> None:
        self.path = path
        self.readers: Readers = {}
        self.below: dict[str | int, Node] = {}
        self.patterns: dict[str, Node] = {}
        self._reading: dict[str | int, list[Node]] = {}

    def path_below(self, step: str | int) -> str:
        above = "" if self.path == "$" else self.path
        if isinstance(step, int) or step == EACH_ELEMENT:
            return f"{above}[{step}]" if isinstance(step, int) else above + step
        name = step if step == EACH_VALUE else quoted_key(step)
        return f"{above}.{name}" if above else name

    def at(self, steps: Steps) -> "Node":
        """The path some steps below, added if it is new."""
        if not steps:
            return self
        if steps[0] not in self.below:
            self.below[steps[0]] = Node(self.path_below(steps[0]))
            if str(steps[0]).startswith("~"):
                self.patterns[str(steps[0])[1:]] = self.below[steps[0]]
        return self.below[steps[0]].at(steps[1:])

    def reading(self, step: str | int) -> "list[Node]":
        """The paths below that read a key of an object, or the element of an array at a place."""
        if step not in self._reading:
            found = [self.below[each] for each in (step, EACH_VALUE) if each in self.below]
            if isinstance(step, int):
                found += [self.below[EACH_ELEMENT]] if EACH_ELEMENT in self.below else []
            else:
                found += [node for pattern, node in self.patterns.items() if re.search(pattern, step)]
            self._reading[step] = found
        return self._reading[step]

    def nodes(self) -> Iterator["Node"]:
        yield self
        for below in self.below.values():
            yield from below.nodes()


class Tree:
    """The paths that are read in one stream, and what the payloads that it walked through have at them."""

    def __init__(self, root: Node | None = None) -> None:
        self.root = root or Node()
        self.payloads: Counter[tuple[str, str]] = Counter()  # how many have a path with a type
        self.samples: dict[tuple[str, str], bytes] = {}  # the digest of one of these
        self.of_payloads: Counter[str] = Counter()  # how many have the object or array around a path
        self._unread: dict[Node, dict[str, bytes]] = {}

    @property
    def unread(self) -> dict[str, dict[str, bytes]]:
        """The keys of each object that nobody reads, as paths, with the digest of a payload."""
        return {
            node.path: {node.path_below(key): digest for key, digest in keys.items()}
            for node, keys in self._unread.items()
        }

    def walk(self, value: Any, digest: bytes) -> None:
        """Counts what a payload has at the paths."""
        had, could = set[tuple[str, str]](), {self.root.path}
        self._visit(self.root, value, digest, had, could)
        self.payloads.update(had)
        self.of_payloads.update(could)
        self.samples = dict.fromkeys(had, digest) | self.samples

    def _visit(self, node: Node, value: Any, digest: bytes, had: set[tuple[str, str]], could: set[str]) -> None:
        if value is None:
            return
        kind = TYPES[type(value)]
        if (node.path, kind) not in had:
            had.add((node.path, kind))
            for step, below in node.below.items():
                if step == EACH_VALUE or (isinstance(step, int) or step == EACH_ELEMENT) == (kind == "array"):
                    could.add(below.path)
        if isinstance(value, list) and node.below:
            for place, element in enumerate(value):
                lax = [node] if isinstance(element, dict) else []  # such a path steps into arrays by itself
                for below in node.reading(place) or lax:
                    self._visit(below, element, digest, had, could)
        elif isinstance(value, dict) and node.below:
            for key, each in value.items():
                found = node.reading(key)
                for below in found:
                    self._visit(below, each, digest, had, could)
                if found or each is None or key in self._unread.get(node, ()):
                    continue
                if len(key) <= MAX_KEY_LENGTH and not _ID.fullmatch(key):
                    self._unread.setdefault(node, {})[key] = digest
