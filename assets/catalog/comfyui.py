"""ComfyUI: workflow graphs in a folder and its sub-folders, in .json files and in the texts of .png pictures.

    folder/**/*.json ──a graph?─────────────────────> one payload a file ─┬─> workflows, prompts
    folder/**/*.png ──texts `workflow`, `prompt`?──> one payload a text ──┘
                        └── no, or not now: skipped, counted by its reason

A graph has the format of the editor (a `nodes` list; docs.comfy.org/specs/workflow_json), as a picture's `workflow`
has, or that of the API (numbered nodes with a `class_type`), as its `prompt` has. A record is a file by its path, or a
picture's text: `path#workflow`. No pages, no rate: every run reads the whole folder, and looks once more for each file
that was not in it before its records are gone. A renamed file is a record that is gone and a new one with the same
digest; the engine links the two.

On a bad day a file that is being written, damaged, unreadable or too large is skipped, and its records stay as they
are. A picture may have any size: only its texts are read. Links out of the folder are not followed, and files of an
operating system (`._pier.json`) are skipped. A .json file that is not JSON is landed, and ends in quarantine with its
bytes. A folder that cannot be listed fails the run.
"""

import json
import os
import stat
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import BinaryIO

import msgspec

from assets.catalog import _png
from pipelines.connectors.local_files import candidates, name_of, path_of, skip_reason, state_of
from pipelines.source import Contract, FullScan, Item, Payload, Skipped, Window, source

SUFFIXES = (".json", ".png")
TEXTS = ("workflow", "prompt")
ANIMATION = b"comf"  # the private chunk type that holds the texts of an animated picture
MAX_BYTES = 64 * 1024**2
AT_REST_S = 10  # a file not written to for longer is complete
WRITING = "being written, left for the next run"


class Graph(Contract):
    """Nothing is required: the two formats have no field in common."""

    nodes: list[msgspec.Raw] | None = None
    links: list[msgspec.Raw] | None = None
    definitions: dict[str, msgspec.Raw] | None = None


class Unread(Exception):
    """Why a file is skipped and its records stay as they are."""


def change_token(folder: Path, kind: str) -> str:
    """A digest of names, sizes and modification times."""
    return state_of(folder, SUFFIXES)


def get_record(folder: Path, kind: str, external_id: str) -> Payload | Skipped | None:
    """A graph as its file has it now; None where the file is gone, or has no such graph."""
    for name in (external_id, external_id.rpartition("#")[0]):
        if name and (path := path_of(name, folder)):
            return next((each for each in records(path, folder) if each.external_id == external_id), None)
    return None


@source(
    contract=Graph,
    kind="folder",
    base_url="workflows",
    start_date=date(2026, 11, 1),
    get_record=get_record,
    change_token=change_token,
)
def fetch(folder: Path, window: Window) -> Iterator[Item]:
    """One payload a graph, by path; for a skipped file, the records that stay."""
    for path in candidates(folder, SUFFIXES):
        yield from records(path, folder)
    yield FullScan("", responses=1)


def records(path: Path, folder: Path) -> list[Payload | Skipped]:
    """What a file holds."""
    name = name_of(path, folder)
    try:
        reason = skip_reason(path, folder)
        return [Skipped(name, reason)] if reason else graphs(path, name)
    except (Unread, OSError) as error:
        why = str(error) if isinstance(error, Unread) else "cannot be read"
        return [
            Skipped(each, why, each) for each in ([f"{name}#{text}" for text in TEXTS] if is_picture(name) else [name])
        ]


def is_picture(name: str) -> bool:
    return name.lower().endswith(".png")


def graphs(path: Path, name: str) -> list[Payload | Skipped]:
    """The graphs of a file. Raises Unread where it changed while it was read, or is incomplete and not at rest."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise Unread("not a regular file")
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        at_rest = abs(time.time() - before.st_mtime) > AT_REST_S
        try:
            bodies = picture_texts(file, name) if is_picture(name) else {name: file_text(file, before.st_size)}
        except _png.Unreadable as error:
            raise Unread(str(error) if at_rest else WRITING) from None
        after = os.fstat(file.fileno())
    are_graphs = {record: is_graph(body) for record, body in bodies.items()}
    changed = (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
    if changed or (None in are_graphs.values() and not at_rest):
        raise Unread(WRITING)
    if not bodies:
        return [Skipped(name, "picture without a workflow")]
    return [
        Skipped(record, "no workflow graph") if are_graphs[record] is False else Payload(body, record, record)
        for record, body in bodies.items()
    ]


def picture_texts(file: BinaryIO, name: str) -> dict[str, bytes]:
    """The texts of a picture by record; a text that is not a JSON object was written by another program."""
    texts = _png.texts(file, TEXTS, MAX_BYTES, {ANIMATION})
    return {f"{name}#{text}": body for text, body in texts.items() if body.lstrip().startswith(b"{")}


def file_text(file: BinaryIO, size: int) -> bytes:
    if size > MAX_BYTES:
        raise Unread("larger than 64 MB")
    return file.read(size)


def is_graph(body: bytes) -> bool | None:
    """Whether a text is a graph of either format; None where it is not JSON. NaN passes: ComfyUI writes it."""
    try:
        document = json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return False
    if "nodes" in document:
        return isinstance(document["nodes"], list)
    return any(isinstance(node, dict) and "class_type" in node for node in document.values())
