"""Splits a list or an object that strict JSON refuses into its elements, and puts placeholders for the broken ones.

    [{"id": 1}, {"id": NaN}, {"id": 3}]  ──>  [{"id": 1}, "broken record 0", {"id": 3}]

An element ends where its brackets and strings do and a separator follows. Where they do not fit, the next one begins at
an object with the keys that the records share. A document that is cut at its end, or is no list or object, is not
split; nor is an object of records with a brace too many or too few, since that may be a cut one. A file that stays cut
is split all the same, and its last element is broken.
"""

import codecs
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from itertools import chain

import msgspec

from pipelines.connectors.json_keys import UNDECODABLE, has_key_twice, is_json, keys_of

STRING = rb'"(?:[^"\\]++|\\.)*+"'
SPACE = rb"[ \t\r\n]*+"
SPACES = re.compile(SPACE)
VALUE = re.compile(STRING + rb"|[-+.\w]+", re.DOTALL)
TOKEN = re.compile(STRING + rb'|[\[\]{}"]', re.DOTALL)  # a quote alone begins a string without an end
KEY = re.compile(b"(" + STRING + b")" + SPACE + b":" + SPACE, re.DOTALL)
INNER = b":" + SPACE + rb"(?=[\[{])"  # before a container that is the value of a member
NEXT_OBJECT = re.compile(rb"[,}\]]" + SPACE + rb"(?=(?:\xef\xbb\xbf)?\{)|" + INNER)
NEXT_MEMBER = re.compile(rb"[,}\]]" + SPACE + b"(?=" + STRING + SPACE + b":)|" + INNER, re.DOTALL)
OPENING = re.compile(rb"[\[{]")
CLOSING = {b"[": b"]", b"{": b"}"}
MAX_DEPTH = 200  # a record that is deeper counts as broken, since a scan from each of its brackets would take long
MAX_UNFIT = 100  # so many inner containers are tried, one in the other, that do not fit


class NotSplit(Exception):
    """The document is cut, or is not a list or an object."""


class Splitter:
    """A document that strict JSON refuses. broken: what was received, by its placeholder."""

    def __init__(self, body: bytes, *, may_be_cut: bool = False) -> None:
        self.body, self.may_be_cut, self.broken = body, may_be_cut, dict[bytes, bytes]()
        self.start = self.skip_spaces(len(codecs.BOM_UTF8) if body.startswith(codecs.BOM_UTF8) else 0)

    def mended(self) -> bytes:
        """The document with placeholders. Raises NotSplit, and DecodeError where a key hides a part of it."""
        if self.body[self.start : self.start + 1] not in CLOSING:
            raise NotSplit
        if not self.may_be_cut and self.is_cut(self.start):
            raise NotSplit
        mended, end = _Container(self, self.start).mended()
        if self.skip_spaces(end) != len(self.body):
            raise NotSplit
        return mended

    def placeholder(self, original: bytes, *, is_member: bool = False) -> bytes:
        """A string that the document does not hold, or a member of two, for a part of it."""
        text = b'"broken record %d"' % len(self.broken)
        while text in self.body:
            text = text[:-1] + b'_"'
        member = text + b":" + text
        self.broken |= {member: original, text: original} if is_member else {text: original}
        return member if is_member else text

    def skip_spaces(self, at: int) -> int:
        match = SPACES.match(self.body, at)
        assert match
        return match.end()

    def is_cut(self, start: int) -> bool:
        """Whether the value at a place has no end, although its strings and brackets fit."""
        end, is_whole = self._scan(start)
        return end is not None and not is_whole

    def value_end(self, start: int) -> int | None:
        """Where the value at a place ends: with the document where that is cut; None where its strings or brackets do
        not fit.
        """
        return self._scan(start)[0]

    def _scan(self, start: int) -> tuple[int | None, bool]:
        """Where the value at a place ends, as `value_end` says, and whether it is whole."""
        start += len(codecs.BOM_UTF8) * self.body.startswith(codecs.BOM_UTF8, start)
        if self.body[start : start + 1] not in CLOSING:
            match = VALUE.match(self.body, start)
            return (match.end() if match else None), True
        opened: list[bytes] = []
        end = start
        for token in TOKEN.finditer(self.body, start):
            text, between, end = token[0], self.body[end : token.start()], token.end()
            if text in CLOSING:
                if opened and opened[-1] == b"}" and not between.rstrip().endswith(b":"):
                    return None, False  # no key is before it
                opened.append(CLOSING[text])
                if len(opened) > MAX_DEPTH:
                    return None, False
            elif text in b"]}":
                if opened.pop() != text:
                    return None, False
                if not opened:
                    return end, True
            elif text == b'"' and self.may_be_cut:
                break
            elif text == b'"' or self.following(end) not in b",:]}":
                return None, False  # a quote is missing, or is one too many
        return len(self.body), False

    def following(self, at: int) -> bytes:
        """The byte after a place and the spaces there; nothing at the end."""
        at = self.skip_spaces(at)
        return self.body[at : at + 1]

    def ends_after(self, at: int) -> bool:
        """Whether only other members of the document, and its end or its cut, follow a place."""
        while self.following(at) == b",":
            key = KEY.match(self.body, self.skip_spaces(self.skip_spaces(at) + 1))
            end = self.value_end(key.end()) if key else None
            if end is None:
                return self.may_be_cut and not OPENING.search(self.body, at)
            at = end
        if self.may_be_cut and self.skip_spaces(at) == len(self.body):
            return True
        return self.following(at) == b"}" and not self.following(self.skip_spaces(at) + 1)


class _Container:
    """A list or an object of the document: the outermost one, or the value of one of its members."""

    def __init__(self, page: Splitter, start: int, *, outermost: bool = True) -> None:
        self.page, self.body, self.start, self.outermost = page, page.body, start, outermost
        self.opening = page.body[start : start + 1]
        self.closing = CLOSING[self.opening]
        self.is_object = self.opening == b"{"
        self.next = NEXT_MEMBER if self.is_object else NEXT_OBJECT
        self.inner: dict[int, bool] = {}  # by the place of an element
        self.names: dict[str, bool] = {}  # of the members so far; whether the value is a list or an object

    def mended(self) -> tuple[bytes, int]:
        """The container with placeholders for what is broken, and where it ends. Raises NotSplit."""
        parts, end = [self.opening], self.start + 1
        at = self.page.skip_spaces(end)
        while not self._is_end(at):
            if at == len(self.body):
                if not self.page.may_be_cut:
                    raise NotSplit
                return b"".join([*parts, self.closing]), at
            if self.body[at : at + 1] == b",":
                at += 1
            else:
                parts.append(self._gap(end, at, commas=int(len(parts) > 1)))
                element, end = self._element(at)
                parts.append(element)
                at = end
            at = self.page.skip_spaces(at)
        return b"".join([*parts, self._gap(end, at, commas=0), self.closing]), at + 1

    def _gap(self, start: int, end: int, commas: int) -> bytes:
        """What is between two elements, or that many commas where others are there."""
        gap = self.body[start:end]
        return gap if gap.count(b",") == commas else b"," * commas

    def _element(self, start: int) -> tuple[bytes, int]:
        """The element at a place, or what takes its place, and where it ends."""
        key, value = self._key(start)
        if key:
            name = msgspec.json.decode(key.rstrip(b": \t\r\n"), type=str)
            is_container = self.body[value : value + 1] in CLOSING
            if self.outermost and (is_container or self.names.get(name)) and name in self.names:
                raise msgspec.DecodeError(f"it has the key {name} twice")
            key = b"" if name in self.names and not self.outermost else key
            self.names[name] = is_container
        end = self._whole_end(value)
        if end is not None and (key or not self.is_object) and is_json(self.body[value:end]):
            has_broken_members = key and self.outermost and has_key_twice(self.body[value:end])
            if not has_broken_members:
                return key + self.body[value:end], end
        if key and self.outermost and self.body[value : value + 1] in CLOSING:
            mended, end = _Container(self.page, value, outermost=False).mended()
            return key + mended, end
        if end is None:
            end = self._broken_end(value)
            if end < len(self.body):
                end = value + len(self.body[value:end].rstrip())
        if self.is_object and not key:
            return self.page.placeholder(self.body[start:end], is_member=True), end
        return key + self.page.placeholder(self.body[value:end]), end

    def _key(self, start: int) -> tuple[bytes, int]:
        """The key of a member with its colon, nothing where it cannot be read; and where the value begins."""
        match = KEY.match(self.body, start) if self.is_object else None
        if match is None:
            return b"", start
        try:
            msgspec.json.decode(match[1], type=str)
        except UNDECODABLE:
            return b"", match.end()
        return match[0], match.end()

    def _is_end(self, at: int) -> bool:
        """Whether the container ends at a place, so that the rest of the document is what follows."""
        if self.body[at : at + 1] != self.closing:
            return False
        return not self.page.following(at + 1) if self.outermost else self.page.ends_after(at + 1)

    def _whole_end(self, start: int) -> int | None:
        """Where a value ends, if a comma, the next element or the end of the container follows."""
        end = self.page.value_end(start)
        if end is None:
            return None
        at = self.page.skip_spaces(end)
        if self.body[at : at + 1] == b"," or self._is_end(at):
            return end
        return end if self.body[end - 1 : end] in (b"}", b"]") and self._is_next(at) else None

    def _is_next(self, start: int) -> bool:
        """Whether an element like the others begins at a place."""
        found = self._keys_at(start)
        return found is not None and self.shared_keys <= found[0] and not self._is_inner(start)

    def _is_inner(self, start: int) -> bool:
        """Whether the elements from a place on are those of an inner container: they end with it."""
        at, passed = start, []
        while at not in self.inner:
            passed.append(at)
            found = self._keys_at(at)
            after = self.page.skip_spaces(found[1]) if found else at
            if found is None or self.body[after : after + 1] == self.closing:
                self.inner[at] = found is not None and not self._is_end(after)
            else:
                at = self.page.skip_spaces(after + 1)
        self.inner |= dict.fromkeys(passed, self.inner[at])
        return self.inner[at]

    def _keys_at(self, start: int) -> tuple[frozenset[str], int] | None:
        """The keys of the element at a place, and where it ends; None where there is no element."""
        key, value = self._key(start)
        if self.is_object and not key:
            return None
        end = self.page.value_end(value)
        if end is None or self.page.following(end) not in (b",", self.closing):
            return None
        keys = keys_of(self.body[value:end])
        return None if keys is None else (keys, end)

    @cached_property
    def shared_keys(self) -> frozenset[str]:
        """The keys that the records of the container share: records are most of its bytes, and alike in most keys."""
        if self.is_object and self.outermost:
            return frozenset()  # its members are not records
        sizes = Counter[frozenset[str]]()
        first, end = self.page.skip_spaces(self.start + 1), self.start + 1
        for at in (first, *(match.end() for match in self._places(first))):
            if at >= end and (found := self._keys_at(at)) and not self._is_inner(at):
                sizes[found[0]] += found[1] - at
                end = found[1]
        usual = max(sizes, key=lambda keys: sizes[keys], default=frozenset())
        return usual.intersection(*(keys for keys in sizes if 2 * len(keys & usual) > len(keys)))

    def _places(self, at: int) -> Iterator[re.Match[bytes]]:
        """What is before each place at or after another where an element may begin; none is in an inner container."""
        unfit = 0
        while match := self.next.search(self.body, at):
            at = match.end()
            if match[0][:1] != b":":
                yield match
                unfit = 0
            elif unfit < MAX_UNFIT:
                end = self.page.value_end(at)
                if end is not None and is_json(self.body[at:end]):
                    at = end
                else:
                    unfit += 1

    def _broken_end(self, value: int) -> int:
        """Where an element ends whose strings or brackets do not fit: before the next element, or with the container.

        Raises NotSplit where the document is cut.
        """
        if self.page.may_be_cut and self.page.value_end(value) == len(self.body):
            return len(self.body)
        is_cut = self.page.is_cut(value)
        at = value
        for match in chain(self._places(value), [None]):
            stop = match.start() + 1 if match else len(self.body)
            while not is_cut and (end := self.body.find(self.closing, at, stop)) >= 0:
                if self._is_end(end):
                    return end
                at = end + 1
            if match and self._is_next(match.end()):
                return match.start() + (match[0][:1] != b",")
            at = stop
        if self.page.may_be_cut:
            return len(self.body)
        raise NotSplit
