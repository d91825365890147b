"""A mail server: users with keys of its own, folders, posts and events.

folder/*.json ──> one payload a file ──> users, folders, posts, events
"""

from collections.abc import Iterator
from pathlib import Path

from pipelines.source import Item, Window, source

from ._files import START, Anything, get_record, payloads


@source(contract=Anything, kind="folder", base_url="mail", start_date=START, get_record=get_record)
def fetch(folder: Path, window: Window) -> Iterator[Item]:
    """One payload a file, by its path."""
    yield from payloads(folder)
