"""ComfyUI: workflow graphs in a folder of .json files, its sub-folders included.

    folder/**/*.json ──a graph?──> one payload a file ──> workflows, prompts
                        └── no: skipped, counted

Both formats are graphs: the editor's (a `nodes` list; docs.comfy.org/specs/workflow_json) and the API's (numbered
nodes with a `class_type`). A record is a file, by its path in the folder. A snapshot of the folder as it is now. A file
that is no JSON is landed as it is, so that it ends in quarantine with its bytes; a folder that cannot be read fails
the run.
"""

from collections.abc import Iterator
from datetime import date
from pathlib import Path

import msgspec

from pipelines.source import Contract, Item, Payload, Skipped, Window, source


class Graph(Contract):
    """Nothing is required: which of the two formats a graph has is told by what it holds."""

    nodes: list[msgspec.Raw] | None = None
    links: list[msgspec.Raw] | None = None
    definitions: dict[str, msgspec.Raw] | None = None


class Node(msgspec.Struct):
    class_type: str


@source(contract=Graph, kind="folder", base_url="workflows", since=date(2026, 11, 1))
def fetch(folder: Path, window: Window) -> Iterator[Item]:
    """One payload a graph, by path; everything else that ends in .json is skipped."""
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        body = path.read_bytes()
        if is_graph(body):
            yield Payload(body, name, external_id=name)
        else:
            yield Skipped(name, "no workflow graph")


def is_graph(body: bytes) -> bool:
    """Whether a file is to be landed: a graph of either format, or something that cannot be read as JSON."""
    try:
        document = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except msgspec.ValidationError:
        return False
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    if "nodes" in document:
        return bytes(document["nodes"]).startswith(b"[")
    return any(_is_node(value) for value in document.values())


def _is_node(value: msgspec.Raw) -> bool:
    try:
        msgspec.json.decode(value, type=Node)
    except msgspec.ValidationError:
        return False
    return True
