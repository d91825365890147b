"""A mail server: users with keys of its own, folders and posts.

folder/*.json ──> one payload a file ──> users, folders, posts
"""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

from pipelines.connectors.local_files import candidates, name_of
from pipelines.source import Contract, FullScan, Item, Payload, Window, source


class Anything(Contract):
    """Nothing is required."""


@source(contract=Anything, kind="folder", base_url="mail", start_date=date(2026, 11, 1))
def fetch(folder: Path, window: Window) -> Iterator[Item]:
    """One payload a file, by its path."""
    for path in candidates(folder, (".json",)):
        yield Payload(path.read_bytes(), name_of(path, folder), name_of(path, folder))
    yield FullScan("", responses=1)
