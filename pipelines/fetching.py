"""Where a landing's items come from: a recording, the live source, or files that somebody brings.

Belongs here: choosing and opening. Not: what a source answers (`assets`), not what becomes of it (`landing`).
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
from backports import zstd

from pipelines import recording, settings
from pipelines.errors import AtlasError
from pipelines.http import Client
from pipelines.settings import Mode
from pipelines.source import Item, Payload, Skipped, Source, Window

COMPRESSIONS = {".gz", ".zst"}
LINES, DOCUMENT = {".ndjson", ".jsonl"}, {".json"}


@dataclass(frozen=True)
class Fetched:
    """Items on their way, and when they were received where that is not now."""

    items: Iterator[Item]
    at: datetime | None = None


def fetched(source: Source, window: Window, mode: Mode) -> Fetched:
    """What a source says about a day: as recorded, or live. Nothing is opened before the first item is asked for."""
    if mode == "recorded":
        return Fetched(_recorded(source, window), window.start)
    return Fetched(_live(source, window))


def _recorded(source: Source, window: Window) -> Iterator[Item]:
    recorded = recording.read(source, window.day)
    if source.kind == "folder":
        yield from source.fetch(recorded.path(), window)
    else:
        with Client(source.name, source.base_url, transport=recorded.transport()) as client:
            yield from source.fetch(client, window)


def _live(source: Source, window: Window) -> Iterator[Item]:
    if window.day != datetime.now(UTC).date():
        raise AtlasError(
            f"{source.name} tells only how it is now: {window.key} cannot be fetched any more. "
            "What was fetched that day is re-derived with: "
            f"atlas transform {source.name} --partition {window.key} --full"
        )
    base_url = settings.base_url(source.stem) or source.base_url
    if source.kind == "folder":
        yield from source.fetch(_folder(source, base_url), window)
    else:
        with Client(source.name, base_url, token=settings.token(source.stem)) as client:
            yield from source.fetch(client, window)


def brought(source: Source, path: Path, window: Window | None) -> Fetched:
    """The payloads of files: NDJSON (a payload a line) and JSON (a payload, a list, a page), .gz and .zst too.

    With a window they count as received at its end, so that landing them again gives the same versions.
    """
    at = min(window.last, datetime.now(UTC)) if window else None
    if not path.exists():
        raise AtlasError(f"There is no file or folder {path}.", usage=True)
    if source.kind == "folder" and path.is_dir():
        return Fetched(source.fetch(path, window or Window(datetime.now(UTC).date())), at)
    if source.kind == "folder":
        return Fetched(iter([Payload(path.read_bytes(), path.name, path.name)]), at)
    if path.is_file() and not _format(path):
        known = ", ".join(sorted(LINES | DOCUMENT))
        raise AtlasError(
            f"{path.name} is no file of payloads: its name should end in {known}, .gz or .zst after it.", usage=True
        )
    return Fetched(_files(source, path), at)


def _folder(source: Source, name: str) -> Path:
    folder = Path(name.removeprefix("file://")).expanduser()
    if not folder.is_dir():
        raise AtlasError(
            f"{source.name} reads a folder, and {str(folder)!r} is none. "
            f"Name the folder in ATLAS_{source.stem.upper()}_BASE_URL."
        )
    return folder


def _format(path: Path) -> str | None:
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSIONS]
    return suffixes[-1] if suffixes and suffixes[-1] in LINES | DOCUMENT else None


def _files(source: Source, path: Path) -> Iterator[Item]:
    paths = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    for each in paths:
        name = each.relative_to(path if path.is_dir() else path.parent).as_posix()
        kind = _format(each)
        if kind is None:
            yield Skipped(name, "not JSON by its name")
        elif kind in LINES:
            with _open(each) as lines:
                for number, line in enumerate(lines, 1):
                    if body := line.strip(b" \t\r\n"):
                        yield Payload(body, f"{name}:{number}")
        else:
            with _open(each) as document:
                yield from _documents(source, document.read(), name)


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


def _documents(source: Source, body: bytes, name: str) -> Iterator[Payload]:
    """A page's records, a list's elements, or the document itself."""
    try:
        document: Any = msgspec.json.decode(body, type=dict[str, msgspec.Raw] | list[msgspec.Raw])
        if isinstance(document, dict) and source.envelope in document:
            document = msgspec.json.decode(document[source.envelope], type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    if isinstance(document, list):
        for number, element in enumerate(document):
            yield Payload(bytes(element), f"{name}[{number}]")
    else:
        yield Payload(body, name)
