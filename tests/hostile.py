"""The APIs that sources are read from, as they are on their worst days: real HTTP on loopback, every fault by a seed.

    Api: records and how they are listed ──answer──> Server: what becomes of it on the wire ──> a client

An Api holds one world of records, which a test may change at any time, also between two pages of one listing, and
pages them as the real one does. A Server sends its answers or, as its script says, something worse; it logs when each
request came and was answered. Belongs here: what a source may do. Not: what is expected of whoever asks.
"""

import base64
import hashlib
import json
import math
import random
import socket
import socketserver
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any, ClassVar
from urllib.parse import parse_qsl, quote, urlsplit

from pipelines import project

Record = dict[str, Any]


@dataclass
class Asked:
    """One request as it came, and what became of it. Times are time.monotonic(); `at` is the wall's."""

    number: int
    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    began: float
    at: datetime
    ended: float = 0.0
    status: int | None = None
    leave_alone_until: float = 0.0

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def arguments(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.target).query, keep_blank_values=True))


@dataclass(frozen=True)
class Answer:
    """What an API says, before anything goes wrong with it."""

    document: Any
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def body(self) -> bytes:
        return self.document if isinstance(self.document, bytes) else json.dumps(self.document).encode()


@dataclass(frozen=True)
class Fault:
    """What goes wrong with one answer: one of FAULTS. seconds: of latency, or to be left alone for."""

    name: str
    seconds: float = 1.0


FAULTS = (
    "latency",
    "429 for seconds",
    "429 until a date",
    "429",
    "500",
    "502",
    "503 for seconds",
    "reset",
    "reset amid the body",
    "cut short",
    "cut short, no length",
    "cut chunk",
    "length too long",
    "length too short",
    "half JSON",
    "HTML",
    "nothing",
    "an error with status 200",
)
LIMITS = {"429 for seconds", "429 until a date", "429", "503 for seconds"}
KEPT_OPEN = {"latency", "500", "502", "half JSON", "HTML", "nothing", "an error with status 200", "length too short"}
"""Faults that are answers, after which the connection may be used again."""
NO_LIMITS = tuple(name for name in FAULTS if name not in LIMITS and name != "latency")

Script = Callable[[Asked], Fault | None]


def nothing(_: Asked) -> None:
    """The script of a good day."""


def at(faults: Mapping[int, Fault]) -> Script:
    """A script by the number of the request, from 0."""
    return lambda asked: faults.get(asked.number)


def chance(seed: object, share: float, names: Iterable[str], seconds: float = 1.0) -> Script:
    """A script that lets a share of all requests go wrong; the same for the same seed."""
    chosen = sorted(names)

    def script(asked: Asked) -> Fault | None:
        draw = random.Random(f"{seed} {asked.number}")
        return Fault(draw.choice(chosen), seconds) if draw.random() < share else None

    return script


class Server:
    """Serves an API over HTTP/1.1 on loopback; a context manager.

    skew: how far the server's clock is ahead. before: is called with each request before it is answered, and may
    change the world.
    """

    def __init__(
        self,
        answer: Callable[[Asked], Answer],
        script: Script = nothing,
        *,
        skew: timedelta = timedelta(0),
        before: Callable[[Asked], object] = nothing,
    ) -> None:
        self.answer, self.script, self.skew, self.before = answer, script, skew, before
        self.log: list[Asked] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listening = _Listening(("127.0.0.1", 0), _handler(self))
        self.url = f"http://127.0.0.1:{self._listening.server_address[1]}"

    def __enter__(self) -> "Server":
        self._thread = threading.Thread(target=self._listening.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown()
        self._thread.join()
        with self._lock:
            for each in self._open:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._listening.server_close()

    def serve(self, connection: socket.socket, method: str, target: str, headers: dict[str, str], body: bytes) -> bool:
        """Answers one request; whether the connection may be used again."""
        with self._lock:
            asked = Asked(len(self.log), method, target, headers, body, time.monotonic(), datetime.now(UTC) + self.skew)
            self.log.append(asked)
        fault = self.script(asked)
        self.before(asked)
        return self._send(connection, asked, fault)

    def _send(self, connection: socket.socket, asked: Asked, fault: Fault | None) -> bool:
        name = fault.name if fault else ""
        if name == "reset":
            asked.ended = time.monotonic()
            return _reset(connection)
        if fault and name == "latency":
            time.sleep(fault.seconds)
        answer = self._limit(asked, fault) if fault and name in LIMITS else self._said(asked, name)
        asked.status = answer.status
        body = b"" if answer.status == 304 else answer.body
        length: int | None = len(body)
        if name in ("cut short", "reset amid the body", "cut chunk", "half JSON", "cut short, no length"):
            body = body[: len(body) // 2]
        if name == "half JSON":
            length = len(body)
        elif name == "length too long":
            length = len(body) + 7
        elif name == "length too short":
            length = len(body) // 2
        lines = [f"HTTP/1.1 {answer.status} X", f"Date: {_http_date(datetime.now(UTC) + self.skew)}"]
        lines += [f"{each}: {value}" for each, value in answer.headers.items()]
        if "Content-Type" not in answer.headers:
            lines.append("Content-Type: application/json; charset=utf-8")
        if name == "cut chunk":
            lines.append("Transfer-Encoding: chunked")
            body = f"{len(body) * 2:x}\r\n".encode() + body
        elif name == "cut short, no length":
            lines.append("Connection: close")
        else:
            lines.append(f"Content-Length: {length}")
        asked.ended = time.monotonic()
        connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        if name == "reset amid the body":
            return _reset(connection)
        return not name or name in LIMITS or name in KEPT_OPEN

    def _said(self, asked: Asked, name: str) -> Answer:
        """What is to be sent, as far as the answer itself is at fault."""
        if name in ("500", "502"):
            return Answer(b"<html>upstream</html>", int(name), {"Content-Type": "text/html"})
        if name == "HTML":
            return Answer(b"<!doctype html><title>We will be back soon</title>", 200, {"Content-Type": "text/html"})
        if name == "nothing":
            return Answer(b"")
        if name == "an error with status 200":
            return Answer({"error": "The database timed out running your query."})
        answer = self.answer(asked)
        etag = answer.headers.get("ETag")
        if etag and asked.headers.get("if-none-match") == etag:
            return Answer(b"", 304, answer.headers)
        return answer

    def _limit(self, asked: Asked, fault: Fault) -> Answer:
        """An answer that asks to be left alone; a date tells whole seconds, of the server's own clock."""
        status = int(fault.name[:3])
        headers = {"Content-Type": "text/plain"}
        if fault.name.endswith("for seconds"):
            headers["Retry-After"] = f"{fault.seconds:g}"
            asked.leave_alone_until = time.monotonic() + fault.seconds
        elif fault.name.endswith("until a date"):
            until = math.ceil(time.time() + fault.seconds)
            headers["Retry-After"] = _http_date(datetime.fromtimestamp(until, UTC) + self.skew)
            asked.leave_alone_until = time.monotonic() + until - time.time()
        return Answer(b"slow down", status, headers)

    def heard(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def hung_up(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.discard(connection)

    # What a log proves

    def hammered(self) -> list[Asked]:
        """Requests that came after the server had asked to be left alone, and before that time was over."""
        return [
            each for each in self.log if any(limit.ended < each.began < limit.leave_alone_until for limit in self.log)
        ]

    def faster_than(self, rate: float, tolerance_s: float = 0.02) -> list[tuple[Asked, Asked]]:
        """Requests with more in the window that they bound than the rate allows: one at once, then `rate` a second."""
        began = sorted(self.log, key=lambda each: each.began)
        return [
            (first, last)
            for start, first in enumerate(began)
            for more, last in enumerate(began[start + 1 :], 1)
            if last.began - first.began < more / rate - tolerance_s
        ]


class _Listening(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Whoever asked went away: nothing to tell."""


def _handler(server: Server) -> type[socketserver.StreamRequestHandler]:
    class Handler(socketserver.StreamRequestHandler):
        disable_nagle_algorithm = True

        def handle(self) -> None:
            server.heard(self.connection)
            try:
                with suppress(OSError):
                    while self._one():
                        pass
            finally:
                server.hung_up(self.connection)

        def _one(self) -> bool:
            line = self.rfile.readline()
            if not line:
                return False
            method, target, _ = line.decode("latin-1").split()
            headers = {}
            while line := self.rfile.readline().strip():
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.lower()] = value.strip()
            body = self.rfile.read(int(headers.get("content-length", 0)))
            return server.serve(self.connection, method, target, headers, body)

    return Handler


def _reset(connection: socket.socket) -> bool:
    """Closes with RST: the other side loses what it has not read yet."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    return False


def _http_date(moment: datetime) -> str:
    return format_datetime(moment, usegmt=True)


# The APIs


def iso(moment: datetime) -> str:
    """A time as APIs write it, in milliseconds."""
    return f"{moment.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


@dataclass
class Faithless:
    """What may be wrong with a listing itself, by the path it is at.

    repeats: from this page on, every page names itself as the next. endless: from this page on there are only empty
    pages, each with a new cursor. hollow: pages that are empty, and the next goes on where this one should have begun.
    """

    repeats: int | None = None
    endless: int | None = None
    hollow: frozenset[int] = frozenset()


class Api:
    """A world of records, by kind and id, and how it is asked for.

    size: how many records a page holds, by the limit that was asked for. number: of the last record made. validators:
    whether answers carry an ETag.
    """

    source: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]]

    def __init__(self, *, size: Callable[[int], int] = lambda limit: limit, validators: bool = False) -> None:
        self.records: dict[str, dict[str, Record]] = {kind: {} for kind in self.kinds}
        self.size, self.validators = size, validators
        self.faithless: dict[str, Faithless] = {}
        self.number = 1_000
        self._pages: dict[str, int] = {}
        self.lock = threading.RLock()

    def answer(self, asked: Asked) -> Answer:
        with self.lock:
            answer = self._answer(asked) or Answer({"error": "Not found"}, 404)
            if not self.validators or answer.status != 200:
                return answer
            digest = hashlib.sha256(answer.body + str(answer.headers).encode()).hexdigest()[:20]
            return Answer(answer.document, answer.status, {**answer.headers, "ETag": f'"{digest}"'})

    def _answer(self, asked: Asked) -> Answer | None:
        raise NotImplementedError

    # The world

    def make(self, kind: str, moment: datetime) -> str:
        """A new record, made or last changed at a moment; its id."""
        with self.lock:
            self.number += 1
            key, record = self._new(kind, self.number, moment)
            self.records[kind][key] = record | {"edition": 1}
            return key

    def change(self, kind: str, key: str, moment: datetime) -> None:
        """A record gets another edition, at a moment."""
        with self.lock:
            record = self.records[kind][key]
            self.records[kind][key] = record | {"edition": record["edition"] + 1} | self._changed(kind, record, moment)

    def lose_time(self, kind: str, key: str) -> None:
        """The time of a record's last change is absent, as if it had never been."""
        with self.lock:
            self.records[kind][key] = self.records[kind][key] | self._without_time(self.records[kind][key])

    def delete(self, kind: str, key: str) -> Record:
        with self.lock:
            return self.records[kind].pop(key)

    def restore(self, kind: str, key: str, record: Record) -> None:
        with self.lock:
            self.records[kind][key] = record

    def count(self, kind: str, key: str, counter: int) -> None:
        """A counter of a record changes, which is no change of the record."""
        with self.lock:
            self.records[kind][key] = self.records[kind][key] | self._counted(kind, counter)

    def _new(self, kind: str, number: int, moment: datetime) -> tuple[str, Record]:
        raise NotImplementedError

    def _changed(self, kind: str, record: Record, moment: datetime) -> Record:
        raise NotImplementedError

    def _counted(self, kind: str, counter: int) -> Record:
        raise NotImplementedError

    def _without_time(self, record: Record) -> Record:
        return {"updated_at": None}

    def load(self) -> None:
        """Fills the world with what the recordings of the source hold."""
        for path in sorted((project.SAMPLES / "catalog" / self.source).glob("*.json")):
            for exchange in json.loads(path.read_text())["exchanges"]:
                if exchange["status"] == 200:
                    self._load(exchange["request"], exchange["body"])

    def _load(self, request: str, body: Any) -> None:
        raise NotImplementedError

    def keep(self, kind: str, key: object, record: Record) -> None:
        self.records[kind][str(key)] = {"edition": 1} | record

    # Paging

    def _page(
        self, path: str, ordered: list[tuple[str, Record]], after: str | None, size: int, *, skips: bool = False
    ) -> tuple[list[Record], str | None]:
        """The records that come after a place, and the place of the next page; `ordered` pairs places and records.

        skips: leave out the record between this page and the next.
        """
        faults = self.faithless.get(path, Faithless())
        number = self._pages[path] = 0 if after is None else self._pages.get(path, 0) + 1
        place = (after or "").rstrip("~")
        rest = [pair for pair in ordered if not place or pair[0] < place]
        if faults.endless is not None and number >= faults.endless:
            return [], f"{place.partition('~')[0]}~{number}"
        if number in faults.hollow and rest:
            return [], f"{after or ''}~"
        page, beyond = rest[:size], rest[size:]
        if faults.repeats is not None and number >= faults.repeats:
            return [record for _, record in page], after or "again"
        if skips and len(beyond) > 1:
            return [record for _, record in page], beyond[0][0]
        return [record for _, record in page], page[-1][0] if beyond else None


def _places(records: Mapping[str, Record], place: Callable[[Record], str]) -> list[tuple[str, Record]]:
    """Records, the last place first."""
    return sorted(((place(record), record) for record in records.values()), key=lambda pair: pair[0], reverse=True)


class HuggingFace(Api):
    """Newest first by lastModified, then by `_id`; a keyset in the Link header."""

    source, kinds = "huggingface", ("models",)

    def _answer(self, asked: Asked) -> Answer | None:
        if asked.path != "/api/models":
            record = self.records["models"].get(asked.path.removeprefix("/api/models/"))
            return Answer(record) if record else None
        arguments = asked.arguments
        assert (arguments["sort"], arguments["direction"]) == ("lastModified", "-1"), arguments
        after = base64.b64decode(arguments["cursor"]).decode() if "cursor" in arguments else None
        ordered = _places(self.records["models"], lambda each: f"{each['lastModified'] or ''} {each['_id']}")
        page, following = self._page(asked.path, ordered, after, self.size(int(arguments["limit"])))
        if following is None:
            return Answer(page)
        arguments["cursor"] = base64.b64encode(following.encode()).decode()
        query = "&".join(f"{name}={quote(value)}" for name, value in arguments.items())
        return Answer(page, headers={"Link": f'<https://huggingface.co/api/models?{query}>; rel="next"'})

    def _new(self, kind: str, number: int, moment: datetime) -> tuple[str, Record]:
        key = f"lab/model-{number}"
        return key, {
            "_id": hashlib.md5(key.encode()).hexdigest()[:24],
            "id": key,
            "author": "lab",
            "lastModified": iso(moment),
            "createdAt": iso(moment),
            "sha": hashlib.sha1(key.encode()).hexdigest(),
            "downloads": 0,
            "likes": 0,
            "tags": ["safetensors", f"about-{number % 3}"],
            "pipeline_tag": "text-generation",
            "siblings": [{"rfilename": "model.safetensors"}],
        }

    def _changed(self, kind: str, record: Record, moment: datetime) -> Record:
        sha = hashlib.sha1(f"{record['sha']}".encode()).hexdigest()
        return {"lastModified": iso(moment), "sha": sha}

    def _counted(self, kind: str, counter: int) -> Record:
        return {"downloads": counter}

    def _without_time(self, record: Record) -> Record:
        return {"lastModified": None}

    def _load(self, request: str, body: Any) -> None:
        for each in body if isinstance(body, list) else [body]:
            self.keep("models", each["id"], each)


class CivitAI(Api):
    """Newest first by the last version published, images by creation; a cursor in a link to the next page.

    skips: leave out the record between two pages of models, as the real one has done.
    """

    source, kinds = "civitai", ("models", "images")
    skips = False

    def _answer(self, asked: Asked) -> Answer | None:
        _, _, _, kind, *key = asked.path.split("/")
        if key:
            record = self.records[kind].get(key[0]) if kind == "models" else None
            return Answer(record) if record else None
        arguments = asked.arguments
        if "imageId" in arguments:
            found = self.records["images"].get(arguments["imageId"])
            return Answer({"items": [found] if found else [], "metadata": {}})
        place = self._model_place if kind == "models" else self._image_place
        size = self.size(int(arguments["limit"]))
        skips = self.skips and kind == "models"
        page, following = self._page(
            asked.path, _places(self.records[kind], place), arguments.get("cursor"), size, skips=skips
        )
        metadata = {}
        if following is not None:
            query = "&".join(f"{name}={quote(value)}" for name, value in (arguments | {"cursor": following}).items())
            metadata = {"nextCursor": following, "nextPage": f"https://civitai.com{asked.path}?{query}"}
        return Answer({"items": page, "metadata": metadata})

    @staticmethod
    def _model_place(record: Record) -> str:
        times = [each.get("publishedAt") or each.get("createdAt") or "" for each in record["modelVersions"]]
        return f"{max(times, default='')}|{record['id']:012}"

    @staticmethod
    def _image_place(record: Record) -> str:
        return f"{record['createdAt']}|{record['id']:012}"

    def _new(self, kind: str, number: int, moment: datetime) -> tuple[str, Record]:
        if kind == "images":
            return str(number), {
                "id": number,
                "url": f"https://image.civitai.com/x/original=true/{number}.jpeg",
                "width": 832,
                "height": 480,
                "nsfwLevel": "None",
                "createdAt": iso(moment),
                "stats": {"likeCount": 0},
                "meta": {"prompt": "a lighthouse"},
            }
        return str(number), {
            "id": number,
            "name": f"Lighthouse {number}",
            "type": "LORA",
            "nsfw": False,
            "tags": ["coast", f"about {number % 3}"],
            "stats": {"downloadCount": 0},
            "modelVersions": [self._version(number, 1, moment)],
        }

    @staticmethod
    def _version(number: int, version: int, moment: datetime) -> Record:
        return {
            "id": number * 100 + version,
            "name": f"v{version}",
            "baseModel": "Flux.1 D",
            "publishedAt": iso(moment),
            "files": [],
            "images": [],
            "stats": {"downloadCount": 0},
        }

    def _changed(self, kind: str, record: Record, moment: datetime) -> Record:
        """Another version every other time; else an edit, which the order of the listing does not show."""
        if kind == "images" or record["edition"] % 2:
            return {}
        versions = record["modelVersions"]
        return {"modelVersions": [self._version(record["id"], len(versions) + 1, moment), *versions]}

    def _counted(self, kind: str, counter: int) -> Record:
        return {"stats": {"likeCount" if kind == "images" else "downloadCount": counter}}

    def _without_time(self, record: Record) -> Record:
        return {"modelVersions": [each | {"publishedAt": None} for each in record["modelVersions"]]}

    def _load(self, request: str, body: Any) -> None:
        if "items" in body:
            kind = "images" if "/images" in request else "models"
            for each in body["items"]:
                self.keep(kind, each["id"], each)


class Booru(Api):
    """What both boorus have in common: pages by number, or of what is below an id, in order of ids."""

    kinds = ("posts", "tags")
    seq = 5_000

    def _answer(self, asked: Asked) -> Answer | None:
        kind, _, key = asked.path.removeprefix("/").removesuffix(".json").partition("/")
        if key:
            record = self.records[kind].get(key)
            return Answer(self._one(kind, record)) if record else None
        arguments = asked.arguments
        size, page = self.size(int(arguments["limit"])), arguments.get("page", "1")
        records = list(self.records[kind].values())
        for word in arguments.get("tags", "").split():
            if word.startswith("date:"):
                first, dots, last = word.removeprefix("date:").partition("..")
                records = [
                    each
                    for each in records
                    if first <= each["created_at"][:10] <= (last or ("9999" if dots else first))
                ]
        if page.startswith("a"):
            records = sorted((each for each in records if each["id"] > int(page[1:])), key=lambda each: each["id"])
            return Answer(self._many(kind, records[:size][::-1]))
        if page.startswith("b"):
            records = [each for each in records if each["id"] < int(page[1:])]
            records.sort(key=lambda each: each["id"], reverse=True)
            return Answer(self._many(kind, records[:size]))
        records.sort(key=self._order, reverse=True)
        begin = size * (int(page) - 1)
        return Answer(self._many(kind, records[begin : begin + size]))

    @staticmethod
    def _order(record: Record) -> Any:
        raise NotImplementedError

    @staticmethod
    def _one(kind: str, record: Record) -> Any:
        return record

    @staticmethod
    def _many(kind: str, records: list[Record]) -> Any:
        return records

    def _new(self, kind: str, number: int, moment: datetime) -> tuple[str, Record]:
        common = {"id": number, "created_at": iso(moment), "updated_at": iso(moment)}
        if kind == "tags":
            return str(number), common | {"name": f"about_{number}", "category": number % 2, "post_count": 0}
        return str(number), common | self._post(number)

    def _post(self, number: int) -> Record:
        raise NotImplementedError

    def _changed(self, kind: str, record: Record, moment: datetime) -> Record:
        return {"updated_at": iso(moment)}

    def _load(self, request: str, body: Any) -> None:
        kind = "posts" if "/posts" in request else "tags"
        found: Any = body.get(kind, body.get("post", [body])) if isinstance(body, dict) else body
        for each in found if isinstance(found, list) else [found]:
            self.keep(kind, each["id"], each)


class Danbooru(Booru):
    """Changes are in order of updated_at."""

    source = "danbooru"

    @staticmethod
    def _order(record: Record) -> Any:
        return datetime.fromisoformat(record["updated_at"] or record["created_at"]), record["id"]

    def _post(self, number: int) -> Record:
        return {
            "rating": "g",
            "tag_string": f"sea sky about_{number % 3}",
            "tag_string_general": f"sea sky about_{number % 3}",
            "md5": hashlib.md5(str(number).encode()).hexdigest(),
            "score": 0,
            "image_width": 800,
            "image_height": 600,
        }

    def _counted(self, kind: str, counter: int) -> Record:
        return {"score": counter} if kind == "posts" else {"post_count": counter}


class E621(Booru):
    """Changes are in order of change_seq, posts come in an envelope, no tags are an object; a contact is asked for."""

    source = "e621"

    def answer(self, asked: Asked) -> Answer:
        if "(" not in asked.headers.get("user-agent", ""):
            return Answer({"success": False, "reason": "Access denied: User-Agent must be descriptive"}, 403)
        return super().answer(asked)

    @staticmethod
    def _order(record: Record) -> Any:
        return record["change_seq"]

    @staticmethod
    def _one(kind: str, record: Record) -> Any:
        return {"post": record} if kind == "posts" else record

    @staticmethod
    def _many(kind: str, records: list[Record]) -> Any:
        return {kind: records} if kind == "posts" or not records else records

    def _post(self, number: int) -> Record:
        self.seq += 1
        return {
            "change_seq": self.seq,
            "rating": "s",
            "tags": {"general": ["sea", f"about_{number % 3}"], "species": ["fox"], "meta": []},
            "file": {"width": 800, "height": 600, "md5": hashlib.md5(str(number).encode()).hexdigest(), "url": None},
            "score": {"up": 0, "down": 0, "total": 0},
            "fav_count": 0,
        }

    def _changed(self, kind: str, record: Record, moment: datetime) -> Record:
        self.seq += 1
        return {"updated_at": iso(moment)} | ({"change_seq": self.seq} if kind == "posts" else {})

    def _counted(self, kind: str, counter: int) -> Record:
        return {"fav_count": counter} if kind == "posts" else {"post_count": counter}


class Ollama(Api):
    """A server's list, what it shows of each model, and a document of the library, all on one host here."""

    source, kinds = "ollama", ("local", "shown", "library")
    LIBRARY = "/library.json"

    def _answer(self, asked: Asked) -> Answer | None:
        if asked.path == "/api/tags":
            return Answer({"models": list(self.records["local"].values())})
        if asked.path == "/api/show" and asked.method == "POST":
            name = json.loads(asked.body)["model"]
            shown = self.records["shown"].get(name)
            return Answer(shown) if shown else Answer({"error": f"model '{name}' not found"}, 404)
        if asked.path == self.LIBRARY:
            document = {"totalModels": len(self.records["library"]), "models": self.records["library"]}
            digest = hashlib.sha256(json.dumps(document).encode()).hexdigest()[:16]
            return Answer(document, headers={"ETag": f'"{digest}"', "Last-Modified": "Sun, 01 Nov 2026 04:10:53 GMT"})
        return None

    def _new(self, kind: str, number: int, moment: datetime) -> tuple[str, Record]:
        name = f"heron-{number}"
        if kind == "library":
            tags = {"latest": {"fullTag": f"{name}:latest", "size": "4.9GB", "capabilities": []}}
            return name, {"description": "A model.", "categories": [], "pullCount": "1.4M", "tags": tags}
        if kind == "shown":
            return f"{name}:latest", {
                "modelfile": f"FROM {name}",
                "details": {"family": "heron"},
                "capabilities": ["completion"],
            }
        return f"{name}:latest", {
            "name": f"{name}:latest",
            "model": f"{name}:latest",
            "modified_at": iso(moment),
            "size": number,
            "digest": hashlib.sha256(name.encode()).hexdigest(),
            "details": {"family": "heron"},
        }

    def _changed(self, kind: str, record: Record, moment: datetime) -> Record:
        return {"modified_at": iso(moment)} if kind == "local" else {}

    def _counted(self, kind: str, counter: int) -> Record:
        return {"pullCount": f"{counter}K"} if kind == "library" else {}

    def _load(self, request: str, body: Any) -> None:
        if request.startswith("POST /api/show"):
            name = json.loads(request.removeprefix("POST /api/show "))["model"]
            self.keep("shown", name, body)
        elif "/api/tags" in request:
            for each in body["models"]:
                self.keep("local", each["name"], each)
        else:
            for name, each in body["models"].items():
                self.keep("library", name, each)


APIS: dict[str, type[Api]] = {each.source: each for each in (CivitAI, Danbooru, E621, HuggingFace, Ollama)}


def environment(urls: Mapping[str, str]) -> dict[str, str]:
    """What points the sources at servers, by the URL of each."""
    names = {f"ATLAS_{source.upper()}_BASE_URL": url for source, url in urls.items()}
    if "ollama" in urls:
        names["ATLAS_OLLAMA_LIBRARY_BASE_URL"] = urls["ollama"] + Ollama.LIBRARY
    return names | {"ATLAS_CONTACT": "tests@atlas.example"}
