"""ComfyUI: workflow graphs in a folder and its sub-folders, in .json files and in the texts of .png pictures.

    folder/**/*.json ──a graph?─────────────────────> one payload a file ─┬─> workflows, prompts
    folder/**/*.png ──texts `workflow`, `prompt`?──> one payload a text ──┘
                        └── no, or not now: skipped, counted by its reason

A graph has the editor's format (a `nodes` list; docs.comfy.org/specs/workflow_json), a picture's `workflow`, or the
API's (numbered nodes with a `class_type`), its `prompt`. A record is a file by its path, or a picture's text:
`path#workflow`. No pages, no rate: one walk tells all there is, so a record that it does not tell is gone. A renamed
file is one record gone and a new one with its digest, by which the engine knows it again and its history goes on.

On a bad day a file that is being written, too large (a picture may have any size: only its texts are read), damaged or
unreadable is left, its records stay as they were. No link is followed out of the folder. What should be JSON and is
not is landed, to end in quarantine with its bytes. A folder that cannot be listed fails the run.
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
from pipelines.connectors.local_files import astray, candidates, name_of, state_of
from pipelines.source import Contract, FullScan, Item, Payload, Skipped, Window, source

SUFFIXES = (".json", ".png")
TEXTS = ("workflow", "prompt")
ANIMATION = b"comf"  # the chunk of ComfyUI's own that holds the texts of an animated picture
MOST_BYTES = 64 * 1024**2
REST_S = 10  # so long nobody wrote to a file that is at rest
WRITING = "being written, left for the next run"


class Graph(Contract):
    """Nothing is required: which of the two formats a graph has is told by what it holds."""

    nodes: list[msgspec.Raw] | None = None
    links: list[msgspec.Raw] | None = None
    definitions: dict[str, msgspec.Raw] | None = None


class Left(Exception):
    """Why a file is left as it was."""


def change_token(folder: Path) -> str:
    """What the folder holds, by names, sizes and times."""
    return state_of(folder, SUFFIXES)


@source(contract=Graph, kind="folder", base_url="workflows", start_date=date(2026, 11, 1), change_token=change_token)
def fetch(folder: Path, window: Window) -> Iterator[Item]:
    """One payload a graph, by path; of a file that is left, the records that stay."""
    for path in candidates(folder, SUFFIXES):
        name = name_of(path, folder)
        try:
            where = astray(path, folder)
            yield from [Skipped(name, where)] if where else graphs(path, name)
        except (Left, OSError) as fault:
            for record in [f"{name}#{text}" for text in TEXTS] if is_picture(name) else [name]:
                yield Skipped(record, str(fault) if isinstance(fault, Left) else "cannot be read", record)
    yield FullScan("", answers=1)


def is_picture(name: str) -> bool:
    return name.lower().endswith(".png")


def graphs(path: Path, name: str) -> list[Item]:
    """The graphs of a file, if it did not change while it was read and is whole or at rest."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise Left("no regular file")
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        at_rest = abs(time.time() - before.st_mtime) > REST_S
        try:
            bodies = pictured(file, name) if is_picture(name) else {name: written(file, before.st_size)}
        except _png.Unreadable as fault:
            raise Left(str(fault) if at_rest else WRITING) from None
        after = os.fstat(file.fileno())
    verdicts = {record: is_graph(body) for record, body in bodies.items()}
    changed = (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns)
    if changed or (None in verdicts.values() and not at_rest):
        raise Left(WRITING)
    if not bodies:
        return [Skipped(name, "picture without a workflow")]
    return [
        Skipped(record, "no workflow graph") if verdicts[record] is False else Payload(body, record, record)
        for record, body in bodies.items()
    ]


def pictured(file: BinaryIO, name: str) -> dict[str, bytes]:
    """A picture's texts by record; a prompt in plain words is another program's."""
    texts = _png.texts(file, TEXTS, MOST_BYTES, {ANIMATION})
    return {f"{name}#{text}": body for text, body in texts.items() if body.lstrip().startswith(b"{")}


def written(file: BinaryIO, size: int) -> bytes:
    if size > MOST_BYTES:
        raise Left("larger than 64 MB")
    return file.read(size)


def is_graph(body: bytes) -> bool | None:
    """Whether a text is a graph of either format; None where it is no JSON. NaN passes: ComfyUI writes it."""
    try:
        document = json.loads(body.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(document, dict):
        return False
    if "nodes" in document:
        return isinstance(document["nodes"], list)
    return any(isinstance(node, dict) and "class_type" in node for node in document.values())
