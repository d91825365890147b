"""The connection for tests: a proxy before the server that counts what a process sends, and strikes at the n-th.

    process under test ──Unix socket──> Proxy ──> the server
                          n-th statement ──> before it is sent · midway · after it was executed, its answer held back
                                               └──> kill -9 of the process · both ends closed · Ctrl-C to the process

It speaks PostgreSQL's protocol, so that it sees what every driver sends: BEGIN and COMMIT too, COPY block by block, and
connecting itself, which is statement 0 of a connection. Several threads of a process send in no certain order; a
statement is therefore addressed by the number of its connection and its own number within it, which are certain.
Belongs here: messages, and how a fault strikes. Not here: which faults there are (`faults`), processes (`runner`).
"""

import os
import select
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy import URL

from tests.crashes.faults import Address, Fault, Moment, Statement

SSL, GSS, CANCEL = 80877103, 80877104, 80877102
PATIENCE_S = 0.15
"""How long a statement is held for the cancel request that Ctrl-C makes a driver send; a thread that waits for another
one sends none."""

CANCELED = "do $$ begin raise query_canceled using message = 'canceling statement due to user request'; end $$"
"""What the server executes instead of a statement that is cancelled before it did anything."""

COPY_FAIL = b"f" + (5).to_bytes(4) + b"\0"
FAILED = b"Z" + (5).to_bytes(4) + b"E"
"""ReadyForQuery in a transaction that has failed."""


class Gone(Exception):
    """The connection is closed by a fault."""


@dataclass
class Proxy:
    """A proxy before the server of a URL; it serves one process at a time."""

    server: URL
    statements: list[Statement] = field(default_factory=list)
    fault: Fault | None = None
    struck: bool = False

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="atlas-proxy-", dir="/tmp"))
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.folder / ".s.PGSQL.5432"))
        self.listener.listen(100)
        self.sessions: list[_Session] = []
        self.pid = threading.Event()
        self.process = 0
        self.connections = 0
        self.lock = threading.Lock()
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, database: str) -> str:
        """Where a process reaches a database through the proxy."""
        through = self.server.set(
            drivername="postgresql", host=None, port=None, database=database, query={"host": str(self.folder)}
        )
        return through.render_as_string(hide_password=False)

    def begin(self, fault: Fault | None = None) -> None:
        """Forgets the process before, and prepares for one that a fault strikes; its statements are recorded."""
        self.join()
        self.statements, self.sessions, self.connections = [], [], 0
        self.fault, self.struck = fault, False
        self.pid.clear()

    def serve(self, process: int) -> None:
        """Names the process; until then its connections wait."""
        self.process = process
        self.pid.set()

    def join(self) -> None:
        """Waits until the connections of the process are closed."""
        for each in self.sessions:
            each.join(20)
            assert not each.is_alive(), "a connection outlives its process"

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        shutil.rmtree(self.folder)

    def connect(self) -> socket.socket:
        """A connection to the server itself."""
        folder = self.server.query.get("host")
        if folder or not self.server.host:
            made = socket.socket(socket.AF_UNIX)
            made.connect(f"{folder or '/tmp'}/.s.PGSQL.{self.server.query.get('port') or self.server.port or 5432}")
            return made
        return socket.create_connection((self.server.host, self.server.port or 5432))

    def new_connection(self) -> int:
        with self.lock:
            self.connections += 1
            return self.connections

    def cancel(self, request: bytes) -> None:
        """A driver asks to cancel what a connection executes: that connection's fault waits for it, or the server."""
        for each in self.sessions:
            if each.key == request[8:] and each.held.is_set():
                each.cancelled.set()
                return
        with self.connect() as server:
            server.sendall(request)
            server.recv(1)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            session = _Session(self, client)
            self.sessions.append(session)
            session.start()


class _Session(threading.Thread):
    """One connection of the process."""

    def __init__(self, proxy: Proxy, client: socket.socket) -> None:
        super().__init__(daemon=True)
        self.proxy, self.client = proxy, client
        self.key = b""
        self.held, self.cancelled = threading.Event(), threading.Event()
        self.named: dict[bytes, str] = {}
        self.open = self.copying = self.dropping = False
        self.idle = True
        self.executed = 0
        self.kept = b""
        self.swallow = 0

    def run(self) -> None:
        with self.client:
            try:
                startup = self._startup()
                if startup:
                    with self.proxy.connect() as self.server:
                        self._relay(startup)
            except (OSError, Gone):
                pass

    def _startup(self) -> bytes:
        """The first message of a connection; nothing for one that only cancels."""
        while True:
            head = self._exactly(4)
            message = head + self._exactly(int.from_bytes(head) - 4)
            code = int.from_bytes(message[4:8])
            if code not in (SSL, GSS):
                break
            self.client.sendall(b"N")
        if code == CANCEL:
            self.proxy.cancel(message)
            return b""
        return message

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = self.client.recv(size - len(data))
            if not more:
                raise Gone
            data += more
        return data

    def _relay(self, startup: bytes) -> None:
        self.proxy.pid.wait()
        self.number = self.proxy.new_connection()
        self.current = Statement(Address(self.number, 0), "connect")
        self.proxy.statements.append(self.current)
        self._strikes("before")
        self.server.sendall(startup)
        buffers = {self.client: bytearray(), self.server: bytearray()}
        takes = {self.client: self._from_client, self.server: self._from_server}
        while True:
            readable, _, _ = select.select([self.server, self.client], [], [])
            for side in readable:
                data = side.recv(1 << 16)
                if not data:
                    return
                buffers[side] += data
                for message in _messages(buffers[side]):
                    takes[side](message)

    def _from_client(self, message: bytes) -> None:
        kind = message[:1]
        if kind in b"QPBDECF" and not self.open:
            self._begin(message)
        elif kind in b"PB" and self.executed == 1:
            self._midway()
        self.executed += kind == b"E"
        self.open = self.open and kind not in b"QS"
        if self.dropping:
            if not self.open:
                self.dropping = False
                self._send(CANCELED)
            return
        self.server.sendall(message)
        if kind == b"d" and self.copying:
            self.copying = False
            if self._midway():
                self.server.sendall(COPY_FAIL)

    def _begin(self, message: bytes) -> None:
        """Counts a statement."""
        self.open, self.executed = True, 0
        at = Address(self.number, self.current.at.statement + 1)
        text = " ".join(self._text(message).split())
        self.current = Statement(at, text, lasting=self.idle or text.lower().startswith("commit"))
        self.proxy.statements.append(self.current)
        # The server never refuses a ROLLBACK because it was cancelled.
        if self._strikes("before") and not self.current.text.lower().startswith("rollback"):
            self.dropping = True

    def _text(self, message: bytes) -> str:
        kind, parts = message[:1], message[5:].split(b"\0")
        if kind == b"P":
            self.named[parts[0]] = parts[1].decode()
            return parts[1].decode()
        if kind == b"B":
            return self.named.get(parts[1], "")
        return parts[0].decode() if kind == b"Q" else kind.decode()

    def _midway(self) -> bool:
        self.current.blocks = True
        return self._strikes("midway")

    def _from_server(self, message: bytes) -> None:
        kind = message[:1]
        if self.swallow:
            self.swallow -= 1
            return
        if kind == b"Z":
            self.idle = message[5:] == b"I"
        if kind == b"K":
            self.key = message[5:]
        if kind == b"G":
            self.copying = True
        if message == FAILED and self.cancelled.is_set() and self.current.text.lower().startswith("commit"):
            self.swallow = 1  # the CommandComplete of a ROLLBACK: a COMMIT that fails leaves no transaction
            self._send("rollback")
            return
        if self._is_at("after") and kind in b"CEIZ":
            self.kept += message
            if kind != b"Z":
                return
            self._strikes("after")
            message, self.kept = self.kept, b""
        self.client.sendall(message)
        if kind == b"d" and not self.current.blocks:
            self._midway()

    def _send(self, statement: str) -> None:
        text = statement.encode() + b"\0"
        self.server.sendall(b"Q" + (len(text) + 4).to_bytes(4) + text)

    def _is_at(self, moment: Moment) -> bool:
        fault = self.proxy.fault
        return bool(fault and not self.proxy.struck and fault.moment == moment and fault.at == self.current.at)

    def _strikes(self, moment: Moment) -> bool:
        """Strikes, if this is the moment; whether the driver has asked to cancel what it waits for."""
        if not self._is_at(moment):
            return False
        self.proxy.struck = True
        assert self.proxy.fault
        match self.proxy.fault.kind:
            case "kill":
                os.kill(self.proxy.process, signal.SIGKILL)
                raise Gone
            case "cut":
                raise Gone
            case "cancel":
                self.held.set()
                os.kill(self.proxy.process, signal.SIGINT)
                cancelled = self.cancelled.wait(PATIENCE_S)
                self.held.clear()
                return cancelled


def _messages(buffer: bytearray) -> Iterator[bytes]:
    """Takes the complete messages out of a buffer."""
    while len(buffer) >= 5 and len(buffer) > (size := int.from_bytes(buffer[1:5])):
        yield bytes(buffer[: size + 1])
        del buffer[: size + 1]
