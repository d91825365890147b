"""Payloads of files that somebody brings: NDJSON (a payload a line) and JSON (a payload, a list, a page), packed too.

Belongs here: reading files. Not: what a source answers (`fetching`), not what becomes of it (`landing`).
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
from backports import zstd

from pipelines.errors import AtlasError
from pipelines.landing.land import Intake
from pipelines.source import Item, Payload, Skipped, Source, Window

COMPRESSIONS = {".gz", ".zst"}
LINES, DOCUMENT = {".ndjson", ".jsonl"}, {".json"}


def intake(source: Source, kind: str, path: Path, window: Window | None) -> Intake:
    """The payloads of a file or a folder, of one kind of a source.

    With a window they count as received at its end, so that landing them again gives the same versions.
    """
    at = min(window.last, datetime.now(UTC)) if window else None
    if not path.exists():
        raise AtlasError(f"There is no file or folder {path}.", usage=True)
    items: Iterator[Item]
    if source.kind == "folder" and path.is_dir():
        items = source.fetch(path, window or Window(datetime.now(UTC).date()))
    elif source.kind == "folder":
        items = iter([Payload(path.read_bytes(), path.name, path.name)])
    elif not path.is_dir() and not _format(path):
        known = ", ".join(sorted(LINES | DOCUMENT))
        raise AtlasError(
            f"{path.name} is no file of payloads: its name should end in {known}, .gz or .zst after it.", usage=True
        )
    elif path.is_dir() and not any(map(_format, path.rglob("*"))):
        raise AtlasError(f"There is no JSON or NDJSON file in the folder {path}.", usage=True)
    else:
        items = _files(source, kind, path)
    return Intake(lambda _: items, "brought", at)


def _format(path: Path) -> str | None:
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSIONS]
    return suffixes[-1] if suffixes and suffixes[-1] in LINES | DOCUMENT else None


def _files(source: Source, kind: str, path: Path) -> Iterator[Item]:
    paths = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    for each in paths:
        name = each.relative_to(path if path.is_dir() else path.parent).as_posix()
        suffix = _format(each)
        if suffix is None:
            yield Skipped(name, "not JSON by its name")
        elif suffix in LINES:
            with _open(each) as lines:
                for number, body in enumerate(map(_stripped, lines), 1):
                    if body:
                        yield Payload(body, f"{name}:{number}", kind=kind)
        else:
            with _open(each) as document:
                yield from _documents(source.contracts[kind].envelope, kind, document.read(), name)


def _stripped(line: bytes) -> bytes:
    return line.strip(b" \t\r\n")


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        if path.suffix in COMPRESSIONS and path.is_file() and path.stat().st_size == 0:
            raise EOFError("it is empty")
        if path.suffix == ".gz":
            with gzip.open(path) as unpacked:
                yield unpacked  # type: ignore[misc]
        elif path.suffix == ".zst":
            with zstd.open(path) as unpacked:
                yield unpacked  # type: ignore[misc]
        else:
            with path.open("rb") as file:
                yield file
    except (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        raise AtlasError(f"{path.name} cannot be unpacked: {error}. Nothing of it is published.") from None


def _documents(envelope: str | None, kind: str, body: bytes, name: str) -> Iterator[Payload]:
    """A page's records, by their names where it names them; a list's elements; or the document itself."""
    shape: Any = dict[str, msgspec.Raw] | list[msgspec.Raw] if envelope else list[msgspec.Raw]
    try:
        document: dict[str, msgspec.Raw] | list[msgspec.Raw] | None = msgspec.json.decode(body, type=shape)
        named = isinstance(document, dict) and envelope in document
        if isinstance(document, dict) and envelope in document:
            document = msgspec.json.decode(document[envelope], type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document, named = None, False
    if isinstance(document, list):
        for number, element in enumerate(document):
            yield Payload(bytes(element), f"{name}[{number}]", kind=kind)
    elif document is not None and named:
        for key, element in document.items():
            yield Payload(bytes(element), f"{name}[{key}]", external_id=key, kind=kind)
    else:
        yield Payload(body, name, kind=kind)
