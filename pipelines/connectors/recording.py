"""Recordings: the responses of a source on one day, replayed through the real connectors.

    live source ──Recorder──> samples/<domain>/<source>/<day>.json ──RecordedTransport──> Client

The file holds the exchanges of an HTTP source, or names the folder of a folder source: one beside it, or one in a
Python package. The day is part of the file name, so a replay always gives the same partition. Belongs here: the format
of recordings. Not here: making clients (`landing.extract`), what is taken out of them (`redaction`).
"""

import importlib.util
import shutil
from collections.abc import Iterable
from datetime import date
from difflib import get_close_matches
from pathlib import Path

import httpx
import msgspec

from pipelines import project
from pipelines.connectors.http import Keep
from pipelines.connectors.redaction import Redactor, without_secrets_in_urls
from pipelines.errors import AtlasError, NotRecorded
from pipelines.source import Item, Payload, Source, Window

HEADERS = ("content-type", "etag", "last-modified", "link")
"""The headers that are kept: no cookie, and nothing else that is the caller's own."""


class Exchange(msgspec.Struct):
    """One request, as `GET /path?query` or `POST /path {"body": 1}`, and its response, byte for byte."""

    request: str
    status: int
    headers: dict[str, str]
    body: msgspec.Raw


class Recording(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One day of a source: exchanges of an HTTP source, or the folder of a folder source.

    folder: beside the recording, or in a package. limit: the most pages of a listing and records of a page, where not
    all were kept; then nothing that is missing counts as deleted. past: whether the day was over when it was recorded.
    """

    exchanges: list[Exchange] = []
    package: str | None = None
    folder: str = "."
    limit: int | None = None
    past: bool = False

    def path(self, source: Source) -> Path:
        """The folder of a folder source. Raises AtlasError where the package is not installed."""
        if self.package is None:
            return project.SAMPLES / source.name / self.folder
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            raise AtlasError(f"The package {self.package!r} of a recording is not installed. Run: make install")
        return Path(spec.origin).parent / self.folder

    def window(self, source: Source, day: date) -> Window:
        """What a replay reads: everything that was recorded."""
        full_refresh = not source.supports_backfill
        return Window(day, current=not self.past, full_refresh=full_refresh, limit=self.limit)


class RecordedTransport(httpx.BaseTransport):
    """Answers requests from a recording. Raises NotRecorded for a request that it does not hold."""

    def __init__(self, recording: Recording) -> None:
        self._exchanges = {exchange.request: exchange for exchange in recording.exchanges}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        wanted = _line(request)
        exchange = self._exchanges.get(wanted)
        if exchange is None:
            near = ", ".join(get_close_matches(wanted, self._exchanges, cutoff=0)) or "nothing"
            raise NotRecorded(f"The recording holds no response to {wanted}. The most similar request is: {near}.")
        return httpx.Response(exchange.status, headers=exchange.headers, content=bytes(exchange.body), request=request)


class Recorder:
    """Keeps what a live source answers, without secrets.

    limit: as in Recording. past: whether the day is over. left_out: names of files that seem to hold a secret,
    or cannot be read.
    """

    def __init__(self, limit: int | None, *, past: bool) -> None:
        self.limit, self._past, self._redactor = limit, past, Redactor()
        self.exchanges: dict[str, Exchange] = {}
        self.files: dict[str, bytes] = {}
        self.left_out: list[str] = []

    def keep(self, base_url: str, replay_url: str) -> Keep:
        """What a client of a base URL calls with each response; replay_url: the base URL of the client that replays."""
        replay = httpx.Client(base_url=replay_url)
        places = (base_url.rstrip("/"), replay_url.rstrip("/"))

        def keep(target: str, body: bytes | None, response: httpx.Response, records: list[msgspec.Raw]) -> None:
            request = replay.build_request("GET" if body is None else "POST", target or replay_url, content=body)
            line = self._redactor.text(_line(request))
            kept = {name: response.headers[name] for name in HEADERS if name in response.headers}
            headers = {name: self._redactor.text(value.replace(*places)) for name, value in kept.items()}
            content = self._cut(response.content, records).decode(errors="surrogateescape").replace(*places)
            raw = self._redactor.document(content).encode(errors="surrogateescape")
            self.exchanges[line] = Exchange(line, response.status_code, headers, _raw(raw))

        return keep

    def keep_files(self, folder: Path, items: Iterable[Item]) -> None:
        """Keeps the files that payloads were read from, byte for byte where they hold no secret."""
        bodies: dict[str, list[bytes]] = {}
        for each in items:
            if isinstance(each, Payload):
                name = each.request if (folder / each.request).is_file() else each.request.rpartition("#")[0]
                bodies.setdefault(name, []).append(each.body)
        for name in list(bodies)[: self.limit]:
            try:
                content = (folder / name).read_bytes()
                self.files[name] = self._redactor.document(content.decode()).encode()
            except UnicodeDecodeError:
                texts = [body.decode(errors="replace") for body in (content, *bodies[name])]
                if any(self._redactor.document(text) != text for text in texts):
                    self.left_out.append(name)
                else:
                    self.files[name] = content
            except OSError:  # its name is not UTF-8
                self.left_out.append(name)

    def recording(self, folder: str = ".") -> Recording:
        """What was kept. folder: where the files are."""
        return Recording(list(self.exchanges.values()), folder=folder, limit=self.limit, past=self._past)

    def _cut(self, content: bytes, records: list[msgspec.Raw]) -> bytes:
        """A page without the records beyond the limit: without what is between the last that stays and the last."""
        if self.limit is None or len(records) <= self.limit:
            return content
        ends, end = [0], 0
        for record in map(bytes, records):
            end = content.index(record, end) + len(record)
            ends.append(end)
        return content[: ends[self.limit]] + content[end:]


def _raw(body: bytes) -> msgspec.Raw:
    """A body as JSON; null where it is none, as of a page that says that a record is gone."""
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        body = b"null"
    return msgspec.Raw(body)


def _line(request: httpx.Request) -> str:
    """A request as recordings have it."""
    target = without_secrets_in_urls(request.url.raw_path.decode())
    return f"{request.method} {target} {request.read().decode()}".rstrip()


def file_of(source: Source, day: date) -> Path:
    """The recording of a day."""
    return project.SAMPLES / source.name / f"{day}.json"


def days(source: Source) -> list[date]:
    """The days of the recordings of a source, sorted."""
    return sorted(_day(path) for path in (project.SAMPLES / source.name).glob("*.json"))


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
    path = file_of(source, day)
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


def write(path: Path, recorder: Recorder) -> None:
    """Writes a recording, an exchange a line, and files into a folder of its name."""
    folder = path.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    recorded = recorder.recording(folder.name if recorder.files else ".")
    exchanges = b",\n".join(map(msgspec.json.encode, recorded.exchanges))
    rest = msgspec.json.encode(msgspec.structs.replace(recorded, exchanges=[]))[1:-1]
    parts = [b'"exchanges":[\n' + exchanges + b"\n]"] if exchanges else []
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"{" + b",\n".join([*parts, rest] if rest else parts) + b"}\n")
    for name, content in recorder.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
