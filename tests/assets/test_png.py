"""Texts of PNG pictures: exact bytes, whatever chunk they are in, and never more read than they need."""

import io
import json
import struct
import tracemalloc
import zlib
from pathlib import Path

import pytest

from assets.catalog import _png

MOST_BYTES = 1024**2
SPARSE_BYTES = 300 * 1024**2


def chunk(kind: bytes, data: bytes = b"") -> bytes:
    return struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data))


def picture(*chunks: bytes) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"\0\0"))
    return b"".join([_png.SIGNATURE, head, *chunks, pixels, chunk(b"IEND")])


def texts(body: bytes) -> dict[str, bytes]:
    return _png.texts(io.BytesIO(body), ("workflow", "prompt"), MOST_BYTES, {b"comf"})


@pytest.mark.parametrize(
    "made",
    [
        chunk(b"tEXt", b"prompt\0{}"),
        chunk(b"comf", b"prompt\0{}"),
        chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"{}")),
        chunk(b"iTXt", b"prompt\0\0\0de\0Aufforderung\0{}"),
        chunk(b"iTXt", b"prompt\0\1\0\0\0" + zlib.compress(b"{}")),
    ],
    ids=["tEXt", "private", "zTXt", "iTXt", "packed iTXt"],
)
def test_a_text_is_found_in_each_kind_of_chunk(made: bytes) -> None:
    assert texts(picture(made)) == {"prompt": b"{}"}


@pytest.mark.parametrize("text", [b'{"a": "caf\xc3\xa9 \xe2\x80\x94"}', b'{"a": "\\u00e9"}', b' {"a": NaN}\n', b""])
@pytest.mark.parametrize("kind", [b"tEXt", b"zTXt", b"iTXt"])
def test_a_text_is_its_exact_bytes(kind: bytes, text: bytes) -> None:
    before = {b"tEXt": b"", b"zTXt": b"\0", b"iTXt": b"\0\0\0\0"}[kind]
    stored = zlib.compress(text) if kind == b"zTXt" else text
    assert texts(picture(chunk(kind, b"prompt\0" + before + stored))) == {"prompt": text}


def test_latin_1_that_is_no_utf_8_is_read_as_the_standard_has_it() -> None:
    made = picture(
        chunk(b"tEXt", b"prompt\0" + "café".encode("latin-1")),
        chunk(b"zTXt", b"workflow\0\0" + zlib.compress("café".encode("latin-1"))),
    )
    assert texts(made) == {"prompt": "café".encode(), "workflow": "café".encode()}


def test_an_international_text_is_utf_8_and_kept_as_it_is() -> None:
    assert texts(picture(chunk(b"iTXt", b"prompt\0\0\0\0\0caf\xe9"))) == {"prompt": b"caf\xe9"}


def test_other_texts_are_not_told_and_a_picture_may_have_none() -> None:
    assert texts(picture()) == {}
    assert texts(picture(chunk(b"tEXt", b"parameters\0a cat"), chunk(b"tEXt", b"Prompt\0{}"))) == {}
    assert texts(picture(chunk(b"tEXt"), chunk(b"tEXt", b"prompt"), chunk(b"iTXt", b"x" * 100))) == {"prompt": b""}


def test_of_two_texts_under_one_keyword_the_last_counts() -> None:
    """As in ComfyUI's editor."""
    assert texts(picture(chunk(b"tEXt", b"prompt\0first"), chunk(b"iTXt", b"prompt\0\0\0\0\0last"))) == {
        "prompt": b"last"
    }


def test_what_follows_the_end_of_a_picture_is_not_read() -> None:
    assert texts(picture() + chunk(b"tEXt", b"prompt\0{}") + b"rubbish") == {}


TEXT = chunk(b"tEXt", b"prompt\0{}")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"GIF89a.....", "not a PNG"),
        (b"\x89PNG\n\x1a\n the line ends were changed", "not a PNG"),
        (b"", "truncated PNG"),
        (_png.SIGNATURE[:5], "truncated PNG"),
        (_png.SIGNATURE, "truncated PNG"),
        (_png.SIGNATURE + bytes(100), "damaged PNG"),
        (picture(TEXT[:-1] + b"!"), "PNG text with a wrong checksum"),
        (picture(TEXT.replace(b"{}", b"[]")), "PNG text with a wrong checksum"),
        (picture(chunk(b"zTXt", b"prompt\0\0no zlib")), "PNG text that cannot be decompressed"),
        (picture(chunk(b"zTXt", b"prompt\0\0" + zlib.compress(b"{}")[:-2])), "PNG text that cannot be decompressed"),
        (picture(chunk(b"zTXt", b"prompt")), "PNG text that cannot be decompressed"),
        (picture(chunk(b"iTXt", b"prompt\0\1\0\0\0no zlib")), "PNG text that cannot be decompressed"),
        (picture(chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(MOST_BYTES + 1)))), "PNG text larger than 1 MB"),
        (picture(chunk(b"tEXt", b"prompt\0" + bytes(MOST_BYTES))), "PNG text larger than 1 MB"),
    ],
)
def test_a_file_that_cannot_be_told_says_why(body: bytes, reason: str) -> None:
    with pytest.raises(_png.Unreadable, match=f"^{reason}$"):
        texts(body)


def test_a_picture_cut_anywhere_is_told_and_a_text_is_whole_or_not_there() -> None:
    whole = picture(TEXT, chunk(b"zTXt", b"workflow\0\0" + zlib.compress(b"{}")))
    for length in range(len(whole) - 4):
        with pytest.raises(_png.Unreadable, match=r"^truncated PNG$"):
            texts(whole[:length])


def test_any_byte_may_be_wrong_and_no_text_is() -> None:
    """A wrong keyword or type is another text; but what is told is what was written."""
    whole = picture(TEXT, chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b'{"nodes": []}')))
    right = texts(whole)
    for place in range(len(whole)):
        for flip in (0x01, 0x20, 0xFF):
            body = bytearray(whole)
            body[place] ^= flip
            try:
                found = texts(bytes(body))
            except _png.Unreadable:
                continue
            assert found.items() <= right.items(), (place, flip)


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    """A picture of 300 MB with a text behind its pixels, which take no room on the disk."""
    path = tmp_path / "large.png"
    with path.open("wb") as file:
        file.write(_png.SIGNATURE + chunk(b"IHDR", bytes(13)) + struct.pack(">I4s", SPARSE_BYTES, b"IDAT"))
        file.seek(SPARSE_BYTES + 4, io.SEEK_CUR)
        file.write(chunk(b"zTXt", b"workflow\0\0" + zlib.compress(bytes(MOST_BYTES))) + chunk(b"IEND"))
    return path


def test_a_large_picture_is_passed_over_to_its_text_and_takes_no_memory(sparse: Path) -> None:
    assert sparse.stat().st_size > SPARSE_BYTES
    tracemalloc.start()
    with sparse.open("rb") as file:
        assert _png.texts(file, ("workflow",), MOST_BYTES) == {"workflow": bytes(MOST_BYTES)}
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MOST_BYTES


def test_a_text_that_would_fill_the_memory_is_not_unpacked() -> None:
    bomb = picture(chunk(b"zTXt", b"prompt\0\0" + zlib.compress(bytes(100 * MOST_BYTES))))
    tracemalloc.start()
    with pytest.raises(_png.Unreadable, match="larger than 1 MB"):
        texts(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * MOST_BYTES


def test_texts_of_real_pictures_are_those_that_were_read_from_them(shared_data: Path) -> None:
    lines = (shared_data / "comfyui" / "png_api_prompts.ndjson").read_text().splitlines()
    expected = {line["file"].replace("/", "__"): line for line in map(json.loads, lines)}
    paths = sorted((shared_data / "comfyui" / "png").glob("*.png"))
    assert paths
    for path in paths:
        with path.open("rb") as file:
            found = _png.texts(file, ("workflow", "prompt"), MOST_BYTES)
        line = expected[path.name]
        assert found == {"workflow": line["workflow_raw"].encode(), "prompt": line["prompt_raw"].encode()}
