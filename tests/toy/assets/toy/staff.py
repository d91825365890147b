"""A list of staff: users with a UUID of their own, with secrets that are stored as keyed hashes.

folder/*.json ──> one payload a file ──> users, secrets
"""

from collections.abc import Iterator
from pathlib import Path

from pipelines.source import Item, Window, source

from ._files import START, Anything, get_record, payloads


class Staff(Anything):
    redacted = ("users[*].password_hash", "users[*].tokens[*].value")


@source(contract=Staff, kind="folder", base_url="staff", start_date=START, get_record=get_record)
def fetch(folder: Path, window: Window) -> Iterator[Item]:
    """One payload a file, by its path."""
    yield from payloads(folder)
