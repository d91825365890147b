"""Runs `atlas` in a process of its own, forked from one that has the modules imported: a start takes no second.

Belongs here: what a process has of its own (arguments, environment, folder, standard streams, exit code), and words of
tests that read what it prints. Tests that are about processes (signals, kills, `atlas ui`) start
`python -m pipelines.cli.main` instead. The toy project is entered; another folder with a project of its own has its own
modules.
"""

import atexit
import importlib
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path

from tests import toy_project

TIMEOUT_S = 120
LIBRARIES = ["alembic.command", "dagster", "dagster_postgres", "httpx", "msgspec", "psycopg", "pydantic_settings"]
LIBRARIES += ["rich.console", "rich.table", "sqlalchemy.dialects.postgresql", "sqlglot", "stamina", "typer.main"]
LIBRARIES += ["certifi", "httpcore", "psycopg2.extras", "sqlglot.dialects.postgres", "typer.rich_utils", "upath"]
FORKSERVER = multiprocessing.get_context("forkserver")
MAIN = "pipelines.cli.main"
FORKSERVER.set_forkserver_preload([*LIBRARIES, MAIN, "pipelines.definitions", "pytest", "tests.launcher"])
HERE = Path(__file__).resolve().parent.parent

DONE, FAILED, USAGE, PARTIAL = 0, 1, 2, 3

Atlas = Callable[..., "subprocess.CompletedProcess[str]"]


def words(text: str) -> str:
    """What was said, without the line breaks of its display."""
    return " ".join(text.split())


def run(
    *arguments: object, folder: Path, environment: Mapping[str, str], typed: str = ""
) -> "subprocess.CompletedProcess[str]":
    """What `atlas` does with these arguments: exit code, and what it prints to files. Raises TimeoutExpired."""
    command = [str(each) for each in arguments]
    with tempfile.TemporaryDirectory() as made:
        streams = [Path(made, name) for name in ("stdin", "stdout", "stderr")]
        for stream in streams:
            stream.write_text(typed if stream.name == "stdin" else "")
        process = FORKSERVER.Process(target=_atlas, args=(command, folder, dict(environment), streams))
        process.start()
        process.join(TIMEOUT_S)
        if process.is_alive():
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, TIMEOUT_S)
        assert process.exitcode is not None
        return subprocess.CompletedProcess(command, process.exitcode, *(each.read_text() for each in streams[1:]))


def _atlas(command: list[str], folder: Path, environment: dict[str, str], streams: list[Path]) -> None:
    for number, path in enumerate(streams):
        file = os.open(path, os.O_RDWR)
        os.dup2(file, number)
        os.close(file)
    sys.stdin = os.fdopen(0, closefd=False)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[1:] = command
    sys.path[:0] = [str(folder), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    if folder not in (HERE, toy_project.TOY) and (folder / "assets").is_dir():
        for name in [name for name in sys.modules if name.partition(".")[0] in {"pipelines", "assets"}]:
            del sys.modules[name]
    try:
        with toy_project.enter() if folder == toy_project.TOY else nullcontext():
            importlib.import_module(MAIN).main()
    finally:
        atexit._run_exitfuncs()  # a forked process ends without them
