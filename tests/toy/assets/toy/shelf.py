"""A shelf: a folder of JSON files, each with any authors, books and covers, also those of another file, or with words.

folder/*.json ──> one payload a file ──> authors, books, covers, notes
"""

from collections.abc import Iterator
from pathlib import Path

from pipelines.source import Item, Window, source

from ._files import START, Anything, get_record, payloads


@source(contract=Anything, kind="folder", base_url="shelf", start_date=START, get_record=get_record)
def fetch(folder: Path, window: Window) -> Iterator[Item]:
    """One payload a file, by its path."""
    yield from payloads(folder)
