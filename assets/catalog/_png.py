"""Reads the texts of a PNG picture by seeking from chunk to chunk: no pixel is read, one text at a time is in memory.

    signature ── length, type, data, checksum ── length, type, … ── IEND        (w3.org/TR/png-3, sections 5 and 11.3.3)

Pillow does not fit: it decodes texts whose bytes are needed, unpacks at most 1 MB of a text, and reads the pixels to
reach a text behind them. Belongs here: chunks and texts. Not here: the meaning of a text.
"""

import struct
import zlib
from collections.abc import Collection, Iterator
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LATIN, COMPRESSED, INTERNATIONAL = b"tEXt", b"zTXt", b"iTXt"
MAX_KEYWORD_BYTES = 79


class Unreadable(Exception):
    """Why the texts of a file cannot be read, in a few words."""


def texts(
    file: BinaryIO, keywords: Collection[str], max_bytes: int, private: Collection[bytes] = ()
) -> dict[str, bytes]:
    """Returns the last text of each keyword that the file holds. Raises Unreadable for a damaged file.

    max_bytes: of one text, compressed and decompressed. private: private chunk types with the layout of tEXt.
    """
    signature = file.read(len(SIGNATURE))
    if not SIGNATURE.startswith(signature):
        raise Unreadable("not a PNG")
    found = {}
    for kind, length in _chunks(file):
        if kind in {LATIN, COMPRESSED, INTERNATIONAL, *private}:
            start = file.read(min(length, MAX_KEYWORD_BYTES + 1))
            keyword = start.partition(b"\0")[0].decode("latin-1")
            if keyword in keywords:
                if length > max_bytes:
                    raise _too_large(max_bytes)
                data = start + file.read(length - len(start))
                _check(kind, data, file.read(4))
                found[keyword] = _text(kind, data, max_bytes)
    return found


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Type and length of each chunk before the last; the file is positioned at its data."""
    offset = len(SIGNATURE)
    while True:
        file.seek(offset)
        head = file.read(8)
        if len(head) < 8:
            raise Unreadable("truncated PNG")
        length, kind = struct.unpack(">I4s", head)
        if not kind.isalpha():
            raise Unreadable("damaged PNG")
        if kind == b"IEND":
            return
        yield kind, length
        offset += 8 + length + 4


def _check(kind: bytes, data: bytes, checksum: bytes) -> None:
    if len(checksum) < 4:
        raise Unreadable("truncated PNG")
    if int.from_bytes(checksum) != zlib.crc32(data, zlib.crc32(kind)):
        raise Unreadable("PNG text with a wrong checksum")


def _text(kind: bytes, data: bytes, max_bytes: int) -> bytes:
    """The text of a chunk, decompressed: its exact bytes where they are UTF-8, else converted from Latin-1."""
    text = data.partition(b"\0")[2]
    if kind == INTERNATIONAL:
        compressed, fields = text[:1] == b"\1", text[2:].split(b"\0", 2)  # language and translated keyword come first
        return _decompressed(fields[-1], max_bytes) if compressed else fields[-1]
    if kind == COMPRESSED:
        text = _decompressed(text[1:], max_bytes)
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1").encode()
    return text


def _decompressed(data: bytes, max_bytes: int) -> bytes:
    decompressor = zlib.decompressobj()
    try:
        text = decompressor.decompress(data, max_bytes + 1)
    except zlib.error:
        raise Unreadable("PNG text that cannot be decompressed") from None
    if len(text) > max_bytes:
        raise _too_large(max_bytes)
    if not decompressor.eof:
        raise Unreadable("PNG text that cannot be decompressed")
    return text


def _too_large(max_bytes: int) -> Unreadable:
    return Unreadable(f"PNG text larger than {max_bytes // 1024**2} MB")
