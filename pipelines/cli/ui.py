"""`atlas ui`: runs Dagster's webserver and daemon over the warehouse, on 127.0.0.1, until Ctrl-C.

This process keeps the embedded server up while they run, and stops it last. Its children are killed when it dies
(PR_SET_PDEATHSIG). A shell that starts it in the background lets it inherit an ignored SIGINT, so it sets a handler.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from pipelines import ledger, project
from pipelines.cli import context, show
from pipelines.errors import AtlasError
from pipelines.schema import migrate
from pipelines.schema.privileges import LOADER
from pipelines.warehouse import database, locks

Process = subprocess.Popen[bytes]
PATIENCE_S = 60
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def ui(port: Annotated[int, typer.Option(min=1, max=65535, help="Port on 127.0.0.1.")] = 3000) -> None:
    """Open the Dagster UI over the warehouse; Ctrl-C ends it."""
    with socket.socket() as client:
        if client.connect_ex(("127.0.0.1", port)) == 0:
            raise AtlasError(f"Port {port} is already in use. Choose another: make ui PORT={port + 1}")

    context.warn_unknown_variables()
    from pipelines.orchestration import resources  # Dagster takes seconds to import

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with database.open_warehouse(context.current_settings()) as warehouse:
        migrate.ensure(warehouse, project.objects())
        with (
            closing(warehouse.as_role(LOADER)) as loading,
            resources.instance(warehouse, context.current_settings().home) as instance,
        ):
            ledger.close_dead_runs(loading)
            resources.report_dead_runs(loading, instance)
        os.environ |= context.current_settings().environment() | {"DATABASE_URL": warehouse.conninfo}
        with warehouse.connect() as connection:
            locks.acquire_shared(connection, locks.DAGSTER_SERVICES)  # shows other processes that Dagster runs here
            _serve(port)


def _serve(port: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # runs outlive their code server, and become our children
    children = {
        "dagster-webserver": _start("dagster-webserver", "--host", "127.0.0.1", "--port", str(port)),
        "dagster-daemon": _start("dagster-daemon", "run"),
    }
    try:
        _wait_for(port, children)
        show.say(f"The Dagster UI is at http://127.0.0.1:{port} (Ctrl-C ends it)")
        while True:
            _require_running(children)
            time.sleep(0.5)
    except KeyboardInterrupt:
        show.say("Stopping.")
    finally:
        _end(list(children.values()))


def _end(children: list[Process]) -> None:
    """Sends SIGINT to each child's process group, with its code servers and runs; then SIGTERM and SIGKILL."""
    for number, patience_s in ((signal.SIGINT, 10), (signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        left = [child for child in children if _signalled(child, number)]
        deadline = time.monotonic() + patience_s
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            left = [child for child in left if _signalled(child, 0)]


def _signalled(child: Process, number: int) -> bool:
    """Sends a signal to a child's process group; whether the group has a process."""
    if child.poll() is not None:
        with suppress(ChildProcessError):
            while os.waitpid(-child.pid, os.WNOHANG)[0]:
                pass
    try:
        os.killpg(child.pid, number)
    except ProcessLookupError:
        return False
    return True


def _start(program: str, *options: str) -> Process:
    """A child in a process group of its own: Ctrl-C in the terminal reaches only this process, which passes it on."""
    # A code server that is replaced logs a warning each minute, which says nothing.
    options += ("--workspace", "workspace.yaml", "--code-server-log-level", "error")
    command = [str(Path(sys.executable).with_name(program)), *options]
    return subprocess.Popen(command, cwd=project.ROOT, preexec_fn=_die_with_parent, start_new_session=True)


def _die_with_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _wait_for(port: int, children: dict[str, Process]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        _require_running(children)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=1):
                return
        except OSError:
            time.sleep(0.3)
    raise AtlasError(f"The webserver has not answered on port {port} for {PATIENCE_S} s. See its lines above.")


def _require_running(children: dict[str, Process]) -> None:
    for name, child in children.items():
        if child.poll() is not None:
            raise AtlasError(f"{name} ended with code {child.returncode}. See its lines above; is the port free?")
