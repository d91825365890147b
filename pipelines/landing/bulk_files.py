"""Reads payloads from local files: NDJSON (a payload a line) or JSON (a payload, a list, a page), also compressed.

    file ──json_records──> the records of a list or a page, each as it was received ──> Payload

A JSON file may have a document a line, a list or a page that is cut, or broken records: what is whole lands.
A byte-order mark belongs to the file. Text in UTF-16 or UTF-32 is one payload, which cannot land, and the ledger says
what to do. Files of an operating system are skipped.
"""

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import IO, Any

import msgspec
from backports import zstd

from pipelines.connectors import json_records
from pipelines.connectors.json_keys import UNDECODABLE, is_json, keys_of
from pipelines.connectors.json_records import Record, Records
from pipelines.connectors.local_files import OF_THE_SYSTEM, is_of_the_system
from pipelines.errors import AtlasError
from pipelines.landing.intake import Intake
from pipelines.source import Item, Payload, Skipped, Source, Window

COMPRESSIONS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".zst": zstd.open}
LINES, DOCUMENT = {".ndjson", ".jsonl"}, {".json"}
NOT_UTF8 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # UTF-32, little end first, begins as UTF-16


def intake(source: Source, kind: str, path: Path, received_at: datetime | None) -> Intake:
    """The payloads of a file or a folder, all of one kind of a source. Raises AtlasError if there is none to read.

    received_at: when they were received, if not now.
    """
    if not path.exists():
        raise AtlasError(f"There is no file or folder {path}.", usage=True)
    items: Iterator[Item]
    if source.kind == "folder" and path.is_dir():
        items = source.fetch(path, Window(datetime.now(UTC).date(), kind))
    elif source.kind == "folder":
        reason = OF_THE_SYSTEM if is_of_the_system(path.name) else None
        items = iter([Skipped(path.name, reason) if reason else Payload(path.read_bytes(), path.name, path.name)])
    else:
        folder = path if path.is_dir() else path.parent
        files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        if not any(map(_format, files)):
            raise AtlasError(
                f"{path.name} {'has no file' if path.is_dir() else 'is no file'} of payloads: its name should end in "
                f"{', '.join(sorted(LINES | DOCUMENT))}, or in these and .gz or .zst.",
                usage=True,
            )
        items = (item for each in files for item in _payloads(source, kind, each, each.relative_to(folder).as_posix()))
    return Intake(lambda _: items, "files", received_at)


def _format(path: Path) -> str | None:
    suffixes = [suffix for suffix in path.suffixes if suffix not in COMPRESSIONS]
    return suffixes[-1] if suffixes and suffixes[-1] in LINES | DOCUMENT else None


def _payloads(source: Source, kind: str, path: Path, name: str) -> Iterator[Item]:
    suffix = _format(path)
    if is_of_the_system(name):
        yield Skipped(name, OF_THE_SYSTEM)
        return
    if suffix is None:
        yield Skipped(name, "not a JSON file by its name")
        return
    with _open(path) as file:
        first = file.readline()
        if first.startswith(NOT_UTF8):
            yield Skipped(name, "text in UTF-16 or UTF-32: convert it to UTF-8")
            yield Payload(first + file.read(), name, kind=kind)
        elif suffix in LINES:
            yield from _lines(chain([first], file), kind, name)
        else:
            envelope, body = source.contracts[kind].envelope, first + file.read()
            lines = [] if is_json(body) else list(_lines(BytesIO(body), kind, name))
            documents = lines if _are_documents(lines) else [Payload(body, name)]
            for each in documents:
                yield from _document(envelope, kind, each.body, each.request)


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        if path.suffix in COMPRESSIONS and path.is_file() and path.stat().st_size == 0:
            raise EOFError("it is empty")
        with COMPRESSIONS.get(path.suffix, open)(path, "rb") as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        raise AtlasError(f"{path.name} cannot be decompressed: {error}. Nothing of it is published.") from None


def _lines(lines: Iterable[bytes], kind: str, name: str) -> Iterator[Payload]:
    for number, line in enumerate(lines, 1):
        if body := (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip(b" \t\r\n"):
            yield Payload(body, f"{name}:{number}", kind=kind)


def _are_documents(lines: list[Payload]) -> bool:
    """Whether there are several lines, and at least half of them are an object each."""
    return len(lines) > 1 and 2 * sum(bool(keys_of(line.body)) for line in lines) >= len(lines)


def _document(envelope: str | None, kind: str, body: bytes, name: str) -> Iterator[Item]:
    """A payload for each record of a page, or for each element of a list; else the document itself."""
    records = _records(body, envelope)
    if records is None and not is_json(body):
        cut = _records(body, envelope, may_be_cut=True) or []
        if any(keys_of(each.body) for each in cut):
            yield Skipped(name, f"the end of {name} is broken: only the records before it are read", name, kind)
            records = cut
    if records is None:
        yield Payload(body, name, kind=kind)
        return
    for number, record in enumerate(records):
        key = number if record.name is None else record.name
        yield Payload(record.body, f"{name}[{key}]", record.name, kind=kind)


def _records(body: bytes, envelope: str | None, *, may_be_cut: bool = False) -> list[Record] | None:
    """The records of a list, or of a page under its envelope; None where the document is neither, or is cut."""
    shape: Any = dict[str, msgspec.Raw] | list[msgspec.Raw] if envelope else list[msgspec.Raw]

    def found(document: Any) -> Records:
        if isinstance(document, dict):
            return msgspec.json.decode(document[envelope], type=shape | None)  # type: ignore[no-any-return]
        return document  # type: ignore[no-any-return]

    try:
        return json_records.decode_page(body, shape, found, may_be_cut=may_be_cut)[1]
    except (KeyError, *UNDECODABLE):
        return None
