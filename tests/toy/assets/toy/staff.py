"""A list of staff: users with a UUID of their own, and nothing else.

folder/*.json ──> one payload a file ──> users
"""

from collections.abc import Iterator
from pathlib import Path

from pipelines.source import Item, Window, source

from ._files import START, Anything, get_record, payloads


@source(contract=Anything, kind="folder", base_url="staff", start_date=START, get_record=get_record)
def fetch(folder: Path, window: Window) -> Iterator[Item]:
    """One payload a file, by its path."""
    yield from payloads(folder)
