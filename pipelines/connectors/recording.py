"""Recordings: the responses of a source on one day, without secrets, replayed through the real connectors.

    live source ──Recorder──> samples/<domain>/<source>/<day>.json ──RecordedTransport──> Client

The day is part of the file name, so a replay always gives the same partition. Not here: clients (`landing.extract`).
"""

import importlib.util
import json
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from datetime import date
from difflib import get_close_matches
from pathlib import Path

import httpx
import msgspec

from pipelines import project
from pipelines.connectors.http import Keep
from pipelines.connectors.urls import without_secrets_in_urls
from pipelines.errors import AtlasError, NotRecorded
from pipelines.source import Item, Kind, Payload, Source, Window

HEADERS = ("content-type", "etag", "last-modified", "link")  # no cookie, and nothing else that is the caller's own
REDACTED = "REDACTED"
STRING = r'"(?:[^"\\]|\\.)*"'
MEMBER = re.compile(rf"({STRING})(\s*:\s*)({STRING})|{STRING}", re.DOTALL)  # a string with a name, or by itself
NO_SECRET = r"(?i:page|next|prev|previous|continuation|resumption|bos|eos|pad|unk|sep|cls|mask)[_-]?(?i:token)$"
"""Positions in listings, and words of tokenizers."""
WORD = r"(?:^|[\W_]|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]))"
"""Where a word of a name begins: api_token, api-token, apiToken, APIToken."""
SECRET_WORDS = (
    "(?:api|access|private|secret)[_-]?key|(?:api|access|auth|refresh)?token|(?:client)?secret|pass|passw(?:or)?d"
    "|auth|authorization|cookie"
)
SECRET_FIELD = re.compile(rf"^(?!.*{NO_SECRET}).*{WORD}(?i:{SECRET_WORDS})$")
SECRET_PARAMETER = re.compile(rf"{SECRET_FIELD.pattern}|{WORD}(?i:sig|signature|login)$|^(?i:key)$")
"""Names of fields, and of parameters of URLs, that are secrets by their last word."""
CREDENTIALS = re.compile(
    r"\b(?:hf|gh[a-z]|sk|pk|xox[a-z]|glpat|github_pat)[-_][\w-]{16,}|\bAKIA[0-9A-Z]{16}\b|\beyJ[\w-]+\.eyJ[\w.-]+"
    r"|(?<=\bbearer )[\w.~+/=-]+|(?<=\bbasic )[\w+/=]{8,}",
    re.IGNORECASE,
)
EMAIL = re.compile(r"(?<![\w.%+\\-])[\w.%+-]+(?:@|%40)(?:[a-z0-9-]+\.)+[a-z]{2,}\b", re.IGNORECASE)


class Exchange(msgspec.Struct):
    """One request, as `GET /path?query` or `POST /path {"body": 1}`, and its response, byte for byte."""

    request: str
    status: int
    headers: dict[str, str]
    body: msgspec.Raw


class Recording(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """One day of a source: exchanges of an HTTP source, or the folder of a folder source."""

    exchanges: list[Exchange] = []
    package: str | None = None
    folder: str = "."  # next to the recording, or in the package
    limit: int | None = None
    """The most pages of a listing and records of a page, where not all were kept: then nothing counts as deleted."""
    past: bool = False  # the day was over when it was recorded

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
        return Window(day, current=not self.past, full_refresh=not source.supports_backfill, limit=self.limit)


class RecordedTransport(httpx.BaseTransport):
    """Answers requests from a recording. Raises NotRecorded for a request that it does not hold."""

    def __init__(self, recording: Recording) -> None:
        self._exchanges = {exchange.request: exchange for exchange in recording.exchanges}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        wanted = _line(request)
        exchange = self._exchanges.get(wanted)
        if exchange is None:
            near = ", ".join(get_close_matches(wanted, self._exchanges, cutoff=0)) or "nothing"
            raise NotRecorded(
                f"The recording holds no response to {wanted}. The most similar request is: {near}.",
                "the recording has no answer",
            )
        return httpx.Response(exchange.status, headers=exchange.headers, content=bytes(exchange.body), request=request)


class SecretRemover:
    """Replaces secrets, and the token of the source: `login:key` as a whole, and both of its halves."""

    def __init__(self, token: str | None = None) -> None:
        self._people: dict[str, str] = {}  # the placeholder of each address
        own = sorted(filter(None, {token, *(token or "").split(":")}), key=len, reverse=True)
        self._own = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, own)) or '(?!)'})(?!\w)")

    def document(self, text: str) -> str:
        """A JSON document without secrets; of any other text, its quoted strings."""
        return MEMBER.sub(self._member, text)

    def text(self, text: str) -> str:
        """A text without secrets; it may hold JSON."""
        clean = without_secrets_in_urls(self.document(text), SECRET_PARAMETER)
        clean = CREDENTIALS.sub(REDACTED, self._own.sub(REDACTED, clean))
        return EMAIL.sub(self._person, clean)

    def _member(self, match: re.Match[str]) -> str:
        name, colon, value = match.groups()
        if name is None:
            return self._literal(match[0])
        secret = SECRET_FIELD.search(name[1:-1])
        return self._literal(name) + colon + (f'"{REDACTED}"' if secret else self._literal(value))

    def _literal(self, literal: str) -> str:
        """A string in quotes; as it is where it holds nothing to replace."""
        try:
            text = json.loads(literal, strict=False)
        except ValueError:
            return literal
        clean = self.text(text)
        return literal if clean == text else json.dumps(clean, ensure_ascii=False)

    def _person(self, match: re.Match[str]) -> str:
        if match[0] in self._people.values():
            return match[0]
        return self._people.setdefault(match[0].lower(), f"person{len(self._people) + 1}@example.org")


class Recorder:
    """Keeps what a live source answers, without secrets. limit, past: as in Recording. token: as in SecretRemover."""

    def __init__(self, limit: int | None, *, past: bool, token: str | None = None) -> None:
        self.limit, self._past, self._remover = limit, past, SecretRemover(token)
        self.exchanges: dict[str, Exchange] = {}
        self._requests: dict[str, str] = {}
        self._places: list[tuple[str, str]] = []
        self.files: dict[str, bytes] = {}
        self.left_out: list[str] = []  # names of files that seem to hold a secret, or cannot be read

    def keep(self, base_url: str, replay_url: str) -> Keep:
        """What a client of a base URL calls with each response; replay_url: the base URL of the client that replays.

        It raises AtlasError where two requests differ only in hosts or secrets.
        """
        replay = httpx.Client(base_url=replay_url)
        self._places.append((base_url.rstrip("/"), replay_url.rstrip("/")))

        def keep(target: str, body: bytes | None, response: httpx.Response, records: list[bytes]) -> None:
            request = replay.build_request("GET" if body is None else "POST", target or replay_url, content=body)
            line = self._remover.text(_line(request))
            sent = f"{request.url} {request.read().decode()}"
            if self._requests.setdefault(line, sent) != sent:
                raise AtlasError(
                    f"Two requests would be one in the recording: {line}. "
                    "They differ only in their hosts, or in what is left out as a secret, so they cannot be recorded."
                )
            kept = {name: response.headers[name] for name in HEADERS if name in response.headers}
            headers = {name: self._remover.text(self._replayed(value)) for name, value in kept.items()}
            content = self._cut(line, response.content, records) if response.is_success else b"null"
            self.exchanges[line] = Exchange(line, response.status_code, headers, msgspec.Raw(self.clean(content)))

        return keep

    def clean(self, content: bytes) -> bytes:
        """A page, or a record of it, as a replay has it."""
        text = self._remover.document(self._replayed(content.decode(errors="surrogateescape")))
        return text.encode(errors="surrogateescape")

    def _replayed(self, text: str) -> str:
        for place in self._places:
            text = text.replace(*place)
        return text

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
                self.files[name] = self._remover.document(content.decode()).encode()
            except UnicodeDecodeError:
                texts = [body.decode(errors="replace") for body in (content, *bodies[name])]
                if any(self._remover.document(text) != text for text in texts):
                    self.left_out.append(name)
                else:
                    self.files[name] = content
            except OSError:  # its name is not UTF-8
                self.left_out.append(name)

    def recording(self, folder: str = ".") -> Recording:
        """What was kept. folder: where the files are."""
        return Recording(list(self.exchanges.values()), folder=folder, limit=self.limit, past=self._past)

    def _cut(self, line: str, content: bytes, records: list[bytes]) -> bytes:
        """A page without the records beyond the limit: without what is between the last that stays and the last."""
        if self.limit is None or len(records) <= self.limit:
            return content
        ends, end = [0], 0
        for record in records:
            begin = content.find(record, end)
            if begin < 0:
                raise AtlasError(
                    f"The response to {line} cannot be cut: it does not hold the bytes of its records in their order. "
                    "Record without --limit, or let `records` of the connector return them as msgspec.Raw."
                )
            end = begin + len(record)
            ends.append(end)
        return content[: ends[self.limit]] + content[end:]


def _line(request: httpx.Request) -> str:
    """A request as recordings have it."""
    target = without_secrets_in_urls(request.url.raw_path.decode(), SECRET_PARAMETER)
    return f"{request.method} {target} {request.read().decode()}".rstrip()


def file_of(source: Source, day: date) -> Path:
    """The recording of a day."""
    return project.SAMPLES / source.name / f"{day}.json"


def days(source: Source) -> list[date]:
    """The days of the recordings of a source, sorted."""
    return sorted(_day(path) for path in (project.SAMPLES / source.name).glob("*.json"))


def _day(path: Path) -> date:
    with suppress(ValueError):
        if str(day := date.fromisoformat(path.stem)) == path.stem:
            return day
    raise AtlasError(f"{path.relative_to(project.ROOT)} is not a recording of a day. Name it YYYY-MM-DD.json.")


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


def write(path: Path, recorder: Recorder, kind: Kind) -> None:
    """Writes a recording, an exchange a line, and the files of a folder source into a folder of its name."""
    folder = path.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    recorded = recorder.recording(folder.name if kind == "folder" else ".")
    exchanges = b",\n".join(map(msgspec.json.encode, recorded.exchanges))
    rest = msgspec.json.encode(msgspec.structs.replace(recorded, exchanges=[]))[1:-1]
    (folder if kind == "folder" else path.parent).mkdir(parents=True, exist_ok=True)
    path.write_bytes(b'{"exchanges":[\n' + exchanges + b"\n]" + (rest and b",\n" + rest) + b"}\n")
    for name, content in recorder.files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
