"""The texts of a PNG picture, found by seeking from chunk to chunk: no pixel is read, one text at a time is held.

    signature ── length, type, data, checksum ── length, type, … ── IEND        (w3.org/TR/png-3, sections 5 and 11.3.3)

By hand, since Pillow decodes texts where their bytes are wanted, unpacks no more than 1 MB of one, and reads the pixels
to reach a text behind them. Belongs here: chunks and texts. Not: what a text means.
"""

import struct
import zlib
from collections.abc import Collection, Iterator
from typing import BinaryIO

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LATIN, PACKED, INTERNATIONAL = b"tEXt", b"zTXt", b"iTXt"
LONGEST_KEYWORD = 79


class Unreadable(Exception):
    """Why the texts of a file cannot be told, in a few words."""


def texts(
    file: BinaryIO, keywords: Collection[str], most_bytes: int, private: Collection[bytes] = ()
) -> dict[str, bytes]:
    """The texts under some keywords, the last of each; read from the file's beginning up to its end chunk.

    most_bytes: of one text, packed and unpacked. private: types of chunks of a program's own that are made like tEXt.
    """
    signature = file.read(len(SIGNATURE))
    if not SIGNATURE.startswith(signature):
        raise Unreadable("no PNG")
    found = {}
    for kind, length in _chunks(file):
        if kind in {LATIN, PACKED, INTERNATIONAL, *private}:
            start = file.read(min(length, LONGEST_KEYWORD + 1))
            keyword = start.partition(b"\0")[0].decode("latin-1")
            if keyword in keywords:
                if length > most_bytes:
                    raise _too_large(most_bytes)
                data = start + file.read(length - len(start))
                _check(kind, data, file.read(4))
                found[keyword] = _text(kind, data, most_bytes)
    return found


def _chunks(file: BinaryIO) -> Iterator[tuple[bytes, int]]:
    """Type and length of each chunk before the last; the file stands at its data."""
    place = len(SIGNATURE)
    while True:
        file.seek(place)
        head = file.read(8)
        if len(head) < 8:
            raise Unreadable("cut PNG")
        length, kind = struct.unpack(">I4s", head)
        if not kind.isalpha():
            raise Unreadable("damaged PNG")
        if kind == b"IEND":
            return
        yield kind, length
        place += 8 + length + 4


def _check(kind: bytes, data: bytes, checksum: bytes) -> None:
    if len(checksum) < 4:
        raise Unreadable("cut PNG")
    if int.from_bytes(checksum) != zlib.crc32(data, zlib.crc32(kind)):
        raise Unreadable("PNG text with a wrong checksum")


def _text(kind: bytes, data: bytes, most_bytes: int) -> bytes:
    """A chunk's text as its exact bytes, unpacked; but one in Latin-1, as the standard has it, as UTF-8."""
    text = data.partition(b"\0")[2]
    if kind == INTERNATIONAL:
        packed, fields = text[:1] == b"\1", text[2:].split(b"\0", 2)  # language and translated keyword come first
        return _unpacked(fields[-1], most_bytes) if packed else fields[-1]
    if kind == PACKED:
        text = _unpacked(text[1:], most_bytes)
    try:
        text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1").encode()
    return text


def _unpacked(packed: bytes, most_bytes: int) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, most_bytes + 1)
    except zlib.error:
        raise Unreadable("PNG text that cannot be unpacked") from None
    if len(text) > most_bytes:
        raise _too_large(most_bytes)
    if not unpacker.eof:
        raise Unreadable("PNG text that cannot be unpacked")
    return text


def _too_large(most_bytes: int) -> Unreadable:
    return Unreadable(f"PNG text larger than {most_bytes // 1024**2} MB")
