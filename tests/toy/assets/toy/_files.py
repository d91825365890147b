"""What the sources have in common that are folders of files."""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

from pipelines.connectors.local_files import candidates, name_of
from pipelines.source import Contract, FullScan, Item, Payload

START = date(2026, 11, 1)


class Anything(Contract):
    """Nothing is required."""


def payloads(folder: Path) -> Iterator[Item]:
    """One payload a file, by its path."""
    for path in candidates(folder, (".json",)):
        yield Payload(path.read_bytes(), name_of(path, folder), name_of(path, folder))
    yield FullScan("", responses=1)
