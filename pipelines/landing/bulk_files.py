"""Reads payloads from local files: NDJSON (a payload a line) or JSON (a payload, a list, a page), also compressed."""

import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec
from backports import zstd

from pipelines.errors import AtlasError
from pipelines.landing.intake import Intake
from pipelines.source import Item, Payload, Skipped, Source, Window

COMPRESSIONS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".zst": zstd.open}
LINES, DOCUMENT = {".ndjson", ".jsonl"}, {".json"}


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
        items = iter([Payload(path.read_bytes(), path.name, path.name)])
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
    if suffix is None:
        yield Skipped(name, "not a JSON file by its name")
        return
    with _open(path) as file:
        if suffix in DOCUMENT:
            yield from _documents(source.contracts[kind].envelope, kind, file.read(), name)
            return
        for number, line in enumerate(file, 1):
            if body := line.strip(b" \t\r\n"):
                yield Payload(body, f"{name}:{number}", kind=kind)


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        if path.suffix in COMPRESSIONS and path.is_file() and path.stat().st_size == 0:
            raise EOFError("it is empty")
        with COMPRESSIONS.get(path.suffix, open)(path, "rb") as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
        raise AtlasError(f"{path.name} cannot be decompressed: {error}. Nothing of it is published.") from None


def _documents(envelope: str | None, kind: str, body: bytes, name: str) -> Iterator[Payload]:
    """A payload for each record of a page, or for each element of a list; else the document itself."""
    shape: Any = dict[str, msgspec.Raw] | list[msgspec.Raw] if envelope else list[msgspec.Raw]
    try:
        document = msgspec.json.decode(body, type=shape)
        if isinstance(document, dict):
            document = msgspec.json.decode(document[envelope], type=shape)
    except (KeyError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        yield Payload(body, name, kind=kind)
        return
    for key, element in document.items() if isinstance(document, dict) else enumerate(document):
        external_id = key if isinstance(key, str) else None
        yield Payload(bytes(element), f"{name}[{key}]", external_id, kind=kind)
