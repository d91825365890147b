"""Recordings: what a source answered on a day, replayed through the real connectors.

`samples/<domain>/<source>/<day>.json` holds the exchanges of an HTTP source, or names the folder of a Python package
that stands for a folder source. A recording carries its own day, so a replay always gives the same partitions.
Belongs here: reading recordings. Not: what is done with the answers.
"""

import importlib.util
from datetime import date
from difflib import get_close_matches
from pathlib import Path

import httpx
import msgspec

from pipelines import project
from pipelines.errors import AtlasError, NotRecorded
from pipelines.source import Source


class Exchange(msgspec.Struct):
    """One request, as `GET /path?query` or `POST /path {"body": 1}`, and its answer, kept byte for byte."""

    request: str
    status: int
    headers: dict[str, str]
    body: msgspec.Raw


class Recording(msgspec.Struct, forbid_unknown_fields=True):
    """A source's answers on one day: exchanges of an HTTP source, or package and folder of a folder source."""

    exchanges: list[Exchange] = []
    package: str | None = None
    folder: str = "."

    def transport(self) -> "RecordedTransport":
        return RecordedTransport(self)

    def path(self) -> Path:
        """The folder that stands for a folder source."""
        spec = importlib.util.find_spec(self.package) if self.package else None
        if spec is None or spec.origin is None:
            raise AtlasError(f"The package {self.package!r} of a recording is not installed. Run: make install")
        return Path(spec.origin).parent / self.folder


class RecordedTransport(httpx.BaseTransport):
    """Answers requests from a recording."""

    def __init__(self, recording: Recording) -> None:
        self._answers = {exchange.request: exchange for exchange in recording.exchanges}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        wanted = f"{request.method} {request.url.raw_path.decode()} {request.read().decode()}".rstrip()
        exchange = self._answers.get(wanted)
        if exchange is None:
            near = ", ".join(get_close_matches(wanted, self._answers, cutoff=0)) or "nothing"
            raise NotRecorded(f"The recording holds no answer to {wanted}. Nearest to it is: {near}.")
        return httpx.Response(exchange.status, headers=exchange.headers, content=bytes(exchange.body), request=request)


def _folder(source: Source) -> Path:
    return project.SAMPLES / source.name


def days(source: Source) -> list[date]:
    """The days that a source has recordings of."""
    return sorted(_day(path) for path in _folder(source).glob("*.json"))


def _day(path: Path) -> date:
    try:
        day = date.fromisoformat(path.stem)
    except ValueError:
        day = None
    if day is None or day.isoformat() != path.stem:
        raise AtlasError(f"{path.relative_to(project.ROOT)} is no recording of a day. Call it YYYY-MM-DD.json.")
    return day


def read(source: Source, day: date) -> Recording:
    path = _folder(source) / f"{day}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recording)
    except FileNotFoundError:
        there = ", ".join(map(str, days(source))) or "none"
        raise AtlasError(
            f"There is no recording of {source.name} for {day} (there are: {there}). "
            "Choose one of these days, or ask the source itself with --live or ATLAS_MODE=live."
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AtlasError(f"{path.relative_to(project.ROOT)} is no recording: {error}. Mend it and try again.") from None
