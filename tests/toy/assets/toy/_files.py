"""What the sources have in common that are folders of files."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

from pipelines.connectors.local_files import candidates, name_of, path_of, skip_reason
from pipelines.source import Contract, FullScan, Item, Payload, Skipped

START = date(2026, 11, 1)


class Anything(Contract):
    """Nothing is required."""


def get_record(folder: Path, kind: str, external_id: str) -> Payload | None:
    """The payload of a file; None where it is gone."""
    path = path_of(external_id, folder)
    return Payload(path.read_bytes(), external_id, external_id) if path else None


def payloads(folder: Path) -> Iterator[Item]:
    """One payload a file, by its path."""
    for path in candidates(folder, (".json",)):
        name, reason = name_of(path, folder), skip_reason(path, folder)
        yield Skipped(name, reason) if reason else Payload(path.read_bytes(), name, name)
    yield FullScan("", responses=1)
