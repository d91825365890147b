"""`atlas ui`: Dagster's webserver and daemon over the warehouse, on this machine alone, until Ctrl-C.

The launcher keeps the embedded server for as long as they run and stops it last. Its children die with it, however it
dies (PR_SET_PDEATHSIG); a shell that starts it in the background hands down an ignored SIGINT, so it sets its own.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from pipelines import ledger, project
from pipelines.cli import context, show
from pipelines.errors import AtlasError
from pipelines.warehouse import database, migrate

PATIENCE_S = 60
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SERVING = ("--workspace", "workspace.yaml", "--code-server-log-level", "error")
"""A code server that makes room for its successor warns of it each minute: that is no news."""


def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 3000) -> None:
    """Open the Dagster UI over the warehouse; Ctrl-C ends it."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise AtlasError(f"Something answers on port {port} already. Choose another: make ui PORT={port + 1}")

    context.name_strangers()
    from pipelines.orchestration import resources  # Dagster takes seconds to import

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    with database.open_warehouse(context.in_force()) as warehouse:
        migrate.ensure(warehouse, project.objects())
        ledger.reap(warehouse)
        with resources.instance(warehouse, context.in_force().home) as instance:
            resources.report_dead_runs(warehouse, instance)
        os.environ |= context.in_force().environment() | {"DATABASE_URL": warehouse.conninfo}
        with resources.alive(warehouse):
            _serve(port)


def _stop(number: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt


def _serve(port: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # runs outlive their code server, and come to us
    programs = Path(sys.executable).parent
    children = [
        _start(
            [
                programs / "dagster-webserver",
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                *SERVING,
            ]
        ),
        _start([programs / "dagster-daemon", "run", *SERVING]),
    ]
    try:
        _wait_for(port, children)
        show.out.print(f"The Dagster UI is at http://127.0.0.1:{port} (Ctrl-C ends it)", highlight=False)
        while all(child.poll() is None for child in children):
            time.sleep(0.5)
        raise AtlasError(_ended(children))
    except KeyboardInterrupt:
        show.out.print("Stopping.")
    finally:
        _end(children)


def _end(children: list[subprocess.Popen[bytes]]) -> None:
    """Ctrl-C for each child's group, where its code servers and runs are too; what stays is ended the hard way."""
    for number, patience_s in ((signal.SIGINT, 10), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        left = [child for child in children if _signalled(child, number)]
        deadline = time.monotonic() + patience_s
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = [child for child in left if _signalled(child, 0)]


def _signalled(child: subprocess.Popen[bytes], number: int) -> bool:
    """Whether anybody of a child's group was there to get a signal."""
    if child.poll() is not None:
        with suppress(ChildProcessError):
            while os.waitpid(-child.pid, os.WNOHANG)[0]:
                pass
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return False
    return True


def _start(command: list[str | Path]) -> subprocess.Popen[bytes]:
    """A child in a process group of its own: Ctrl-C reaches it once, through the launcher."""
    return subprocess.Popen(command, cwd=project.ROOT, preexec_fn=_die_with_parent, start_new_session=True)


def _die_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_for(port: int, children: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if any(child.poll() is not None for child in children):
            raise AtlasError(_ended(children))
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=1):
                return
        except OSError:
            time.sleep(0.3)
    raise AtlasError(f"The webserver has not answered on port {port} for {PATIENCE_S} s. See its lines above.")


def _ended(children: list[subprocess.Popen[bytes]]) -> str:
    dead = next(child for child in children if child.poll() is not None)
    name = Path(str(dead.args[0])).name if isinstance(dead.args, list) else str(dead.args)
    return f"{name} ended with code {dead.returncode}. See its lines above; is the port free?"
