"""ComfyUI: a folder with all that may lie in one, and every graph counted independently, in both formats."""

import errno
import importlib.util
import json
import os
import socket
import struct
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from assets.catalog import _png
from pipelines.errors import AtlasError
from pipelines.ledger import Run
from pipelines.source import FullScan, Item, Payload, Skipped, Source, Window
from pipelines.warehouse.database import Warehouse
from tests.runs import land_items, land_listing, transform

pytestmark = pytest.mark.emptied

DAY = "2026-11-01"
API = b'{"6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a quiet harbour"}}}'
UI = b'{"nodes": [{"id": 1, "type": "CLIPTextEncode", "widgets_values": ["a quiet harbour"]}], "links": []}'
LARGE_BYTES = 300 * 1024**2
WRITING = "being written, left for the next run"


def take(warehouse: Warehouse, source: Source, *items: Item) -> Run:
    land_items(warehouse, source, DAY, items, received_at=Window.of(DAY).start)
    return transform(warehouse, source, DAY)


def column(warehouse: Warehouse, name: str) -> dict[str, Any]:
    """A column of the workflows by their id."""
    with warehouse.connect() as connection:
        rows = connection.execute("select * from catalog.workflows").fetchall()
    return {row["external_id"]: row[name] for row in rows}


def prompts(warehouse: Warehouse) -> list[str]:
    with warehouse.connect() as connection:
        return [row["text"] for row in connection.execute("select text from catalog.prompts order by text")]


def graph(*texts: str) -> dict[str, Any]:
    return {
        "nodes": [{"id": each, "type": "CLIPTextEncode", "widgets_values": [text]} for each, text in enumerate(texts)]
    }


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))


def text(keyword: bytes, body: bytes) -> bytes:
    return chunk(b"tEXt", keyword + b"\0" + body)


def picture(*chunks: bytes) -> bytes:
    return b"".join([_png.SIGNATURE, chunk(b"IHDR", bytes(13)), *chunks, chunk(b"IDAT"), chunk(b"IEND")])


def put(path: Path, body: bytes, *, age_s: float = 60) -> Path:
    """Writes a file that was last written to some time ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    os.utime(path, (time.time() - age_s,) * 2)
    return path


def read(source: Source, folder: Path) -> list[Payload | Skipped]:
    """What a walk tells, less that it told everything."""
    *items, last = source.fetch(folder, Window.of(DAY))
    assert last == FullScan("", responses=1)
    return [item for item in items if isinstance(item, Payload | Skipped)]


def taken(name: str, body: bytes) -> Payload:
    return Payload(body, name, external_id=name)


def left(reason: str, *records: str) -> list[Skipped]:
    return [Skipped(each, reason, external_id=each) for each in records]


# What is a graph


def test_files_and_texts_of_pictures_are_told_in_order_with_their_exact_bytes(comfyui: Source, tmp_path: Path) -> None:
    put(tmp_path / "b.json", b"\xef\xbb\xbf" + UI + b"\n")
    put(tmp_path / "B.JSON", API)
    put(tmp_path / "a" / "both.png", picture(text(b"prompt", API), text(b"workflow", UI)))
    put(tmp_path / "a" / "one.PNG", picture(text(b"workflow", b" " + UI), text(b"parameters", b"a cat, Steps: 20")))
    put(tmp_path / "a" / "notes.txt", UI)
    assert read(comfyui, tmp_path) == [
        taken("B.JSON", API),
        taken("a/both.png#prompt", API),
        taken("a/both.png#workflow", UI),
        taken("a/one.PNG#workflow", b" " + UI),
        taken("b.json", b"\xef\xbb\xbf" + UI + b"\n"),
    ]


@pytest.mark.parametrize(
    "made",
    [
        chunk(b"comf", b"prompt\0" + API),
        chunk(b"zTXt", b"prompt\0\0" + zlib.compress(API)),
        chunk(b"iTXt", b"prompt\0\0\0\0\0" + API),
        chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(API)),
    ],
    ids=["an animation's chunk", "zTXt", "iTXt", "packed iTXt"],
)
def test_a_text_of_any_kind_is_told(comfyui: Source, tmp_path: Path, made: bytes) -> None:
    put(tmp_path / "x.png", picture(made))
    assert read(comfyui, tmp_path) == [taken("x.png#prompt", API)]


@pytest.mark.parametrize(
    "body", [b"{}", b"[]", b"null", b"42", b'{"nodes": {}}', b'{"3": {"inputs": {}}}', b'{"a": NaN}']
)
def test_json_that_is_no_graph_is_skipped_and_its_record_may_go(comfyui: Source, tmp_path: Path, body: bytes) -> None:
    put(tmp_path / "x.json", body, age_s=0)
    assert read(comfyui, tmp_path) == [Skipped("x.json", "no workflow graph")]


def test_a_text_that_is_no_graph_is_skipped(comfyui: Source, tmp_path: Path) -> None:
    put(tmp_path / "x.png", picture(text(b"prompt", API), text(b"workflow", b'{"version": 1}')), age_s=0)
    assert read(comfyui, tmp_path) == [
        taken("x.png#prompt", API),
        Skipped("x.png#workflow", "no workflow graph"),
    ]


@pytest.mark.parametrize("chunks", [[], [text(b"parameters", b"a cat")], [text(b"prompt", b"a cat")]])
def test_a_picture_without_a_graph_is_skipped(comfyui: Source, tmp_path: Path, chunks: Sequence[bytes]) -> None:
    """Other programs write a prompt in plain words."""
    put(tmp_path / "x.png", picture(*chunks), age_s=0)
    assert read(comfyui, tmp_path) == [Skipped("x.png", "picture without a workflow")]


@pytest.mark.parametrize("body", [b"", b"{", UI[:-1], b"no JSON", UI.decode().encode("utf-16"), b"[" * 100_000])
def test_what_should_be_json_and_is_not_is_told_for_quarantine(comfyui: Source, tmp_path: Path, body: bytes) -> None:
    put(tmp_path / "x.json", body)
    assert read(comfyui, tmp_path) == [taken("x.json", body)]


def test_a_text_cut_by_who_wrote_it_is_told_for_quarantine(comfyui: Source, tmp_path: Path) -> None:
    put(tmp_path / "x.png", picture(text(b"prompt", API[:-1])))
    assert read(comfyui, tmp_path) == [taken("x.png#prompt", API[:-1])]


def test_a_renamed_file_tells_the_same_bytes_under_another_id(comfyui: Source, tmp_path: Path) -> None:
    put(tmp_path / "a.json", UI)
    put(tmp_path / "a.png", picture(text(b"prompt", API), text(b"workflow", UI)))
    before = read(comfyui, tmp_path)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.json").rename(tmp_path / "sub" / "z.json")
    (tmp_path / "a.png").rename(tmp_path / "sub" / "z.png")
    after = read(comfyui, tmp_path)
    assert before == [taken("a.json", UI), taken("a.png#prompt", API), taken("a.png#workflow", UI)]
    assert after == [taken("sub/z.json", UI), taken("sub/z.png#prompt", API), taken("sub/z.png#workflow", UI)]


# What is left for another run, and its records stay


def sparse(path: Path, before: bytes, after: bytes = b"") -> None:
    """A file with a hole of 300 MB, which takes no room on the disk."""
    with path.open("wb") as file:
        file.write(before)
        file.truncate(len(before) + LARGE_BYTES)
        file.seek(0, os.SEEK_END)
        file.write(after)


def test_a_file_of_300_mb_is_left_unread(comfyui: Source, tmp_path: Path) -> None:
    sparse(tmp_path / "x.json", UI)
    assert read(comfyui, tmp_path) == left("larger than 64 MB", "x.json")


def test_a_picture_of_300_mb_is_told_by_its_texts_alone(comfyui: Source, tmp_path: Path) -> None:
    head = _png.SIGNATURE + chunk(b"IHDR", bytes(13)) + struct.pack(">I4s", LARGE_BYTES, b"IDAT")
    sparse(tmp_path / "x.png", head, bytes(4) + text(b"workflow", UI) + chunk(b"IEND"))
    tracemalloc.start()
    assert read(comfyui, tmp_path) == [taken("x.png#workflow", UI)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1024**2


WHOLE = picture(text(b"prompt", API), text(b"workflow", UI))


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"GIF89a", "not a PNG"),
        (b"", "truncated PNG"),
        (WHOLE[:-20], "truncated PNG"),
        (WHOLE[:60], "truncated PNG"),
        (WHOLE.replace(b"quiet", b"quite"), "PNG text with a wrong checksum"),
        (picture(chunk(b"zTXt", b"prompt\0\0rubbish")), "PNG text that cannot be decompressed"),
        (picture(chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(64 * 1024**2 + 1)))), "PNG text larger than 64 MB"),
    ],
)
def test_a_damaged_picture_is_left_whole(comfyui: Source, tmp_path: Path, body: bytes, reason: str) -> None:
    """Nothing of it is used, even what may be right."""
    path = put(tmp_path / "x.png", body)
    assert read(comfyui, tmp_path) == left(reason, "x.png#workflow", "x.png#prompt")
    os.utime(path)
    assert read(comfyui, tmp_path) == left(WRITING, "x.png#workflow", "x.png#prompt")


def test_a_file_cut_just_now_is_left_until_it_is_whole(comfyui: Source, tmp_path: Path) -> None:
    path = put(tmp_path / "x.json", UI[:50], age_s=2)
    assert read(comfyui, tmp_path) == left(WRITING, "x.json")
    put(path, UI, age_s=0)
    assert read(comfyui, tmp_path) == [taken("x.json", UI)]


def test_a_clock_that_is_far_ahead_keeps_no_file_waiting(comfyui: Source, tmp_path: Path) -> None:
    put(tmp_path / "x.json", b"no JSON", age_s=-3600)
    assert read(comfyui, tmp_path) == [taken("x.json", b"no JSON")]


@pytest.mark.parametrize(
    ("name", "body", "records"),
    [
        ("x.json", UI + b" " * 30_000_000, ["x.json"]),
        ("x.png", picture(text(b"workflow", UI + b" " * 30_000_000)), ["x.png#workflow", "x.png#prompt"]),
    ],
)
def test_a_file_that_grows_while_it_is_read_is_left(
    comfyui: Source, tmp_path: Path, name: str, body: bytes, records: list[str]
) -> None:
    """Even where what was read is a graph: who knows what comes next."""
    path = put(tmp_path / name, body)
    started, ended = threading.Event(), threading.Event()

    def write() -> None:
        with path.open("ab", buffering=0) as file:
            while not ended.is_set():
                file.write(b" ")
                started.set()

    writer = threading.Thread(target=write)
    writer.start()
    started.wait()
    try:
        assert read(comfyui, tmp_path) == left(WRITING, *records)
    finally:
        ended.set()
        writer.join()
    if name == "x.json":
        assert [type(each) for each in read(comfyui, tmp_path)] == [Payload]


def test_a_file_that_cannot_be_read_is_left(comfyui: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything, so the system's refusal is played."""
    put(tmp_path / "a.json", UI)
    put(tmp_path / "b.json", UI)
    put(tmp_path / "c.png", WHOLE)
    really: Callable[..., Any] = Path.open

    def refuse(path: Path, *arguments: str) -> Any:
        if path.name != "b.json":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return really(path, *arguments)

    monkeypatch.setattr(Path, "open", refuse)
    assert read(comfyui, tmp_path) == [
        *left("cannot be read", "a.json"),
        taken("b.json", UI),
        *left("cannot be read", "c.png#workflow", "c.png#prompt"),
    ]


def test_a_file_that_goes_between_listing_and_reading_stays_for_this_run(comfyui: Source, tmp_path: Path) -> None:
    """It may have been renamed to a place that was listed before."""
    for name in ("a.json", "b.json"):
        put(tmp_path / name, UI)
    items = comfyui.fetch(tmp_path, Window.of(DAY))
    assert next(items) == taken("a.json", UI)
    (tmp_path / "b.json").rename(tmp_path / "0.json")
    assert list(items) == [*left("cannot be read", "b.json"), FullScan("", responses=1)]
    assert read(comfyui, tmp_path) == [taken("0.json", UI), taken("a.json", UI)]


# What else lies in a folder


def test_what_is_no_regular_file_is_left(comfyui: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "folder.json" / "inside.json", UI)
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.json")
    monkeypatch.chdir(tmp_path)  # a socket's path may not be long
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.png")
        assert read(comfyui, tmp_path) == [
            *left("not a regular file", "folder.json"),
            taken("folder.json/inside.json", UI),
            *left("not a regular file", "folder.png#workflow", "folder.png#prompt", "pipe.json"),
            *left("not a regular file", "socket.png#workflow", "socket.png#prompt"),
        ]


def test_links_are_followed_to_files_of_the_folder_and_no_further(comfyui: Source, tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    put(outside / "secret.json", UI)
    put(folder / "sub" / "a.json", UI)
    put(tmp_path / "folder and more" / "b.json", UI)
    links = {
        "1 file of the folder.json": "sub/a.json",
        "2 file out of it.json": "../outside/secret.json",
        "3 absolute.png": str(outside / "secret.json"),
        "4 out by a detour.json": "5 folder out of it/secret.json",
        "5 folder out of it": "../outside",
        "6 folder of a like name": "../folder and more",
        "7 above": "..",
        "8 folder of the folder": "sub",
        "9 itself": ".",
        "broken.json": "nowhere.json",
        "loop.json": "loop.png",
        "loop.png": "loop.json",
        "no folder.json": "sub/a.json/b.json",
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    out, nowhere = "symbolic link out of the folder", "symbolic link without a target"
    expected = [
        taken("1 file of the folder.json", UI),
        Skipped("2 file out of it.json", out),
        Skipped("3 absolute.png", out),
        Skipped("4 out by a detour.json", out),
        Skipped("5 folder out of it", out),
        Skipped("6 folder of a like name", out),
        Skipped("7 above", out),
        *left("not a regular file", "8 folder of the folder", "9 itself"),
        Skipped("broken.json", nowhere),
        Skipped("loop.json", nowhere),
        Skipped("loop.png", nowhere),
        Skipped("no folder.json", nowhere),
        taken("sub/a.json", UI),
    ]
    assert read(comfyui, folder) == expected
    (tmp_path / "link").symlink_to(folder)
    assert read(comfyui, tmp_path / "link") == expected


def test_a_name_that_is_no_utf_8_is_written_with_escapes(comfyui: Source, tmp_path: Path) -> None:
    for name in (b"caf\xe9.json", "café.json".encode(), b"new\nline.json", b"d\xffr/x.json"):
        put(Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))), UI)
    assert {each.request for each in read(comfyui, tmp_path)} == {
        r"caf\xe9.json",
        "café.json",
        "new\nline.json",
        r"d\xffr/x.json",
    }


def test_an_empty_folder_tells_that_there_is_nothing(comfyui: Source, tmp_path: Path) -> None:
    assert read(comfyui, tmp_path) == []


def test_a_folder_that_cannot_be_listed_fails_the_run_in_words(
    comfyui: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(AtlasError, match=r"cannot be listed: .*No such file"):
        list(comfyui.fetch(tmp_path / "gone", Window.of(DAY)))
    put(tmp_path / "a.json", UI)
    put(tmp_path / "sub" / "b.json", UI)
    really: Callable[..., Any] = os.scandir

    def refuse(path: str) -> Any:
        if path.endswith("sub"):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return really(path)

    monkeypatch.setattr(os, "scandir", refuse)
    items = comfyui.fetch(tmp_path, Window.of(DAY))
    with pytest.raises(AtlasError, match="Nothing of this run is published"):
        next(items)


# News


def test_a_graph_is_there_as_long_as_its_file_has_it(comfyui: Source, tmp_path: Path) -> None:
    assert comfyui.get_record
    look = partial(comfyui.get_record, tmp_path, "")
    put(tmp_path / "sub" / "a.json", UI)
    put(tmp_path / "x#1.png", picture(text(b"workflow", UI)))
    assert look("sub/a.json") == taken("sub/a.json", UI)
    assert look("x#1.png#workflow") == taken("x#1.png#workflow", UI)
    assert [look(each) for each in ("x#1.png#prompt", "b.json", "sub/b.json", "no/a.json", "y.png#prompt")] == [
        None
    ] * 5
    put(tmp_path / "sub" / "a.json", b"{}")
    put(tmp_path / "x#1.png", picture()[:-20])
    assert look("sub/a.json") is None
    assert isinstance(cut := look("x#1.png#workflow"), Skipped) and cut.external_id == "x#1.png#workflow"
    other = put(tmp_path / "other" / "sub" / "b.json", UI)
    (tmp_path / "link").symlink_to(other.parent)
    assert look("link/b.json") is None, "no walk goes there"


def test_the_change_token_changes_with_whatever_a_walk_may_tell(comfyui: Source, tmp_path: Path) -> None:
    change_token = comfyui.change_token
    assert change_token
    told = [change_token(tmp_path, "")]

    def changes() -> bool:
        told.append(change_token(tmp_path, ""))
        return told[-1] not in told[:-1]

    path = put(tmp_path / "sub" / "a.json", UI)
    assert changes()
    assert not changes(), "nothing was done"
    told.pop()
    put(tmp_path / "notes.txt", b"no candidate")
    assert not changes()
    told.pop()
    path.write_bytes(UI + b" ")
    assert changes()
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
    assert changes()
    path.rename(path.with_name("b.json"))
    assert changes()
    put(tmp_path / "x.png", WHOLE)
    assert changes()
    (tmp_path / "link").symlink_to(tmp_path)
    assert changes()


def test_the_change_token_opens_no_file(comfyui: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert comfyui.change_token
    put(tmp_path / "a.json", UI)
    (tmp_path / "broken.json").symlink_to("nowhere")
    monkeypatch.delattr(Path, "open")
    assert comfyui.change_token(tmp_path, "") == comfyui.change_token(tmp_path, "")


# Rows


@pytest.mark.long("loads the recordings of all sources")
def test_every_graph_of_the_package_is_there_once_with_its_nodes_counted(
    with_recordings: tuple[Warehouse, str],
) -> None:
    warehouse, _ = with_recordings
    spec = importlib.util.find_spec("comfyui_workflow_templates_json")
    assert spec is not None and spec.origin is not None
    expected: dict[str, int] = {}
    skipped = 0
    for path in Path(spec.origin).parent.glob("templates/*.json"):
        document = json.loads(path.read_bytes())
        if isinstance(document, dict) and isinstance(document.get("nodes"), list):
            expected[path.name] = len(document["nodes"])
        else:
            skipped += 1

    assert column(warehouse, "nodes_count") == expected
    assert len(expected) > 600
    with warehouse.connect() as connection:
        runs = connection.execute("select kind, status, stats from ops.fetch_runs where stream = 'catalog/comfyui'")
        by_kind = {run["kind"]: run for run in runs}
    assert {run["status"] for run in by_kind.values()} == {"completed"}
    assert by_kind["land"]["stats"]["skipped"] == {"no workflow graph": skipped}


def test_a_graph_in_the_apis_format_counts_its_numbered_nodes(warehouse: Warehouse, comfyui: Source) -> None:
    body = {
        "3": {"class_type": "KSampler", "inputs": {"positive": ["6", 0], "negative": ["7", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a quiet harbour"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "people"}},
    }
    take(warehouse, comfyui, Payload(json.dumps(body).encode(), "api.json", "api.json"))
    assert column(warehouse, "nodes_count") == {"api.json": 3}
    assert prompts(warehouse) == ["a quiet harbour", "people"]


def test_a_prompt_inside_a_subgraph_is_found_and_a_blank_one_is_none(warehouse: Warehouse, comfyui: Source) -> None:
    body = graph("on top", "  ") | {"definitions": {"subgraphs": [{"id": "s", "name": "inner"} | graph("inside")]}}
    take(warehouse, comfyui, Payload(json.dumps(body).encode(), "sub.json", "sub.json"))
    assert column(warehouse, "nodes_count") == {"sub.json": 2}
    assert prompts(warehouse) == ["inside", "on top"]


@pytest.mark.parametrize("field", ["prompt_raw", "workflow_raw"])
def test_graphs_of_real_pictures_land_in_both_formats(
    warehouse: Warehouse, comfyui: Source, shared_data: Path, field: str
) -> None:
    lines = (shared_data / "comfyui" / "png_api_prompts.ndjson").read_text().splitlines()
    found = {line["file"]: line[field] for line in map(json.loads, lines) if line.get(field)}
    run = take(warehouse, comfyui, *(Payload(text.encode(), name, name) for name, text in found.items()))
    assert run.counts.quarantined == 0
    expected = {}
    for name, text in found.items():
        document = json.loads(text)
        expected[name] = len(document["nodes"] if field == "workflow_raw" else document)
    assert column(warehouse, "nodes_count") == expected
    assert prompts(warehouse)


def test_graphs_of_a_folder_of_real_pictures_land_with_their_titles(
    warehouse: Warehouse, comfyui: Source, shared_data: Path
) -> None:
    folder = shared_data / "comfyui" / "png"
    names = sorted(path.name for path in folder.glob("*.png"))
    assert names
    items = read(comfyui, folder)
    assert [item.request for item in items] == [f"{name}#{each}" for name in names for each in ("prompt", "workflow")]
    run = take(warehouse, comfyui, *items)
    assert run.counts.quarantined == 0
    titles = column(warehouse, "title")
    assert titles == {f"{name}#{each}": name.removesuffix(".png") for name in names for each in ("prompt", "workflow")}


def test_a_renamed_graph_keeps_the_keys_of_its_rows(warehouse: Warehouse, comfyui: Source, tmp_path: Path) -> None:
    """A file, and a picture with two graphs; read as a live folder is."""
    put(tmp_path / "a.json", UI.replace(b"quiet", b"loud"))
    put(tmp_path / "a.png", picture(text(b"workflow", UI), text(b"prompt", API)))
    before = load(warehouse, comfyui, tmp_path, 0)
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.json").rename(tmp_path / "sub" / "z.json")
    (tmp_path / "a.png").rename(tmp_path / "z.png")
    after = load(warehouse, comfyui, tmp_path, 1)
    assert list(after) == ["sub/z.json", "z.png#prompt", "z.png#workflow"]
    assert list(after.values()) == list(before.values())
    put(tmp_path / "a.json", UI)
    assert len(set(load(warehouse, comfyui, tmp_path, 2).values())) == 4


def load(warehouse: Warehouse, comfyui: Source, folder: Path, day: int) -> dict[str, tuple[Any, Any]]:
    """Lands and transforms a folder; the keys of each workflow and of its first prompt, by the name of its record."""
    window = Window(Window.of(DAY).day + timedelta(days=day))
    look = partial(comfyui.get_record, folder) if comfyui.get_record else None
    land_listing(warehouse, comfyui, window.key, comfyui.fetch(folder, window), window.start, get_record=look)
    assert transform(warehouse, comfyui, window.key).counts.quarantined == 0
    query = """
        select w.external_id, w.workflow_id, min(p.prompt_id::text) as prompt_id
        from catalog.workflows w left join catalog.prompts p using (workflow_id) group by 1, 2 order by 1
    """
    with warehouse.connect() as connection:
        rows = connection.execute(query).fetchall()
    return {row["external_id"]: (row["workflow_id"], row["prompt_id"]) for row in rows}


def test_a_title_is_a_files_name_without_what_it_is(warehouse: Warehouse, comfyui: Source, tmp_path: Path) -> None:
    put(tmp_path / "some.json" / "a.b.JSON", UI)
    put(tmp_path / "x.png" / "c #prompt.PNG", picture(text(b"workflow", UI)))
    take(warehouse, comfyui, *read(comfyui, tmp_path))
    assert column(warehouse, "title") == {"some.json/a.b.JSON": "a.b", "x.png/c #prompt.PNG#workflow": "c #prompt"}


def test_a_prompt_with_nan_lands_repaired_and_its_original_is_kept(
    warehouse: Warehouse, comfyui: Source, shared_data: Path, tmp_path: Path
) -> None:
    """ComfyUI writes it for a node that is to run each time."""
    lines = (shared_data / "comfyui" / "png_api_prompts.ndjson").read_text().splitlines()
    prompt = json.loads(
        next(line["prompt_raw"] for line in map(json.loads, lines) if "is_changed" in line["prompt_raw"])
    )
    for node in prompt.values():
        if "is_changed" in node:
            node["is_changed"] = [float("nan")]
    body = json.dumps(prompt).encode()
    assert b'"is_changed": [NaN]' in body
    put(tmp_path / "x.png", picture(text(b"prompt", body)), age_s=0)
    items = read(comfyui, tmp_path)
    assert items == [taken("x.png#prompt", body)]
    assert take(warehouse, comfyui, *items).counts.quarantined == 0
    assert column(warehouse, "nodes_count") == {"x.png#prompt": len(prompt)}
    with warehouse.connect() as connection:
        kept = connection.execute("select original, repairs from staging.payloads").fetchall()
        entries = connection.execute("select * from staging.quarantine").fetchall()
    assert [(row["original"], row["repairs"]) for row in kept] == [(body, ["NaN is not a JSON number: kept as text"])]
    assert entries == []
