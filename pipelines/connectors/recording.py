"""Recordings: the responses of a source on one day, replayed through the real connectors.

    samples/<domain>/<source>/<day>.json ──> RecordedTransport ──> Client

The file holds the exchanges of an HTTP source, or names the folder of a Python package for a folder source. The day is
part of the file name, so a replay always gives the same partition. Belongs here: reading recordings. Not here: making
clients from them (`landing.extract`).
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
    """One request, as `GET /path?query` or `POST /path {"body": 1}`, and its response, byte for byte."""

    request: str
    status: int
    headers: dict[str, str]
    body: msgspec.Raw


class Recording(msgspec.Struct, forbid_unknown_fields=True):
    """One day of a source: exchanges of an HTTP source, or package and folder of a folder source."""

    exchanges: list[Exchange] = []
    package: str | None = None
    folder: str = "."

    def transport(self) -> "RecordedTransport":
        return RecordedTransport(self)

    def path(self) -> Path:
        """The folder of a folder source. Raises AtlasError where the package is not installed."""
        spec = importlib.util.find_spec(self.package) if self.package else None
        if spec is None or spec.origin is None:
            raise AtlasError(f"The package {self.package!r} of a recording is not installed. Run: make install")
        return Path(spec.origin).parent / self.folder


class RecordedTransport(httpx.BaseTransport):
    """Answers requests from a recording. Raises NotRecorded for a request that it does not hold."""

    def __init__(self, recording: Recording) -> None:
        self._exchanges = {exchange.request: exchange for exchange in recording.exchanges}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        wanted = f"{request.method} {request.url.raw_path.decode()} {request.read().decode()}".rstrip()
        exchange = self._exchanges.get(wanted)
        if exchange is None:
            near = ", ".join(get_close_matches(wanted, self._exchanges, cutoff=0)) or "nothing"
            raise NotRecorded(f"The recording holds no response to {wanted}. The most similar request is: {near}.")
        return httpx.Response(exchange.status, headers=exchange.headers, content=bytes(exchange.body), request=request)


def _folder(source: Source) -> Path:
    return project.SAMPLES / source.name


def days(source: Source) -> list[date]:
    """The days of the recordings of a source, sorted."""
    return sorted(_day(path) for path in _folder(source).glob("*.json"))


def _day(path: Path) -> date:
    try:
        day = date.fromisoformat(path.stem)
    except ValueError:
        day = None
    if day is None or day.isoformat() != path.stem:
        raise AtlasError(f"{path.relative_to(project.ROOT)} is not a recording of a day. Name it YYYY-MM-DD.json.")
    return day


def read(source: Source, day: date) -> Recording:
    """The recording of a day. Raises AtlasError where there is none or it cannot be decoded."""
    path = _folder(source) / f"{day}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=Recording)
    except FileNotFoundError:
        existing = ", ".join(map(str, days(source))) or "none"
        raise AtlasError(
            f"There is no recording of {source.name} for {day} (recorded days: {existing}). "
            "Choose one of these days, or read the source itself with --live or ATLAS_MODE=live."
        ) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AtlasError(
            f"{path.relative_to(project.ROOT)} is not a valid recording: {error}. Fix it and run the command again."
        ) from None
