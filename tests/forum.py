"""Payloads of the toy domain's forum and mail, and what their tests share.

Belongs here: users, posts and events. Not here: authors and books (tests/library.py).
"""

from collections.abc import Callable
from typing import Any

from pipelines.lineage import rebuild
from pipelines.warehouse.database import Warehouse
from tests.library import Json, Recorder

Write = Callable[..., Any]
"""Executes a statement as an application; returns the first value of the first row."""


def bring(recorder: Recorder, name: str, **body: Any) -> None:
    """Lands a record and transforms what is pending."""
    recorder.land(name, body)
    recorder.transform()


def user(number: int, name: str, email: str | None = None) -> Json:
    return {"id": number, "username": name, "email": email}


def post(number: int, writer: Any, place: int | None = None, **more: Any) -> Json:
    """A post. place: its number among those of the writer, if not its own."""
    return {"id": number, "user": writer, "number": place or number, **more}


def folder(number: int, owner: Any, **more: Any) -> Json:
    return {"id": number, "user": owner, "name": f"folder {number}", **more}


def assert_derived(warehouse: Warehouse) -> None:
    assert [each for each in rebuild.check(warehouse, "toy") if not each["same"]] == []


def event(number: int, who: Any, at: str, **more: Any) -> Json:
    return {"id": number, "user": who, "at": at, **more}
