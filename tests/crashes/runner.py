"""Runs `atlas` commands, each in a fork of a process that has imported everything: a tenth of a second each.

    {"arguments", "environment", "output", "harm"} on stdin ──fork──> pid, then exit code on stdout

The command `extract STREAM DAY`, which only tests have, does what a Dagster run does to land a source, without the
seconds that Dagster takes to begin. Belongs here: starting and ending processes. Not here: who strikes them (`proxy`).
"""

import gc
import json
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from pipelines import project
from tests.crashes.scenarios import PEOPLE, SOURCES


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    said: str


class Runner:
    """The process that forks, in the project that is entered."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.crashes.runner"],
            cwd=project.ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self,
        arguments: list[str],
        environment: dict[str, str],
        *,
        harm: str | None = None,
        begun: Callable[[int], None] = lambda pid: None,
    ) -> Ended:
        """Runs a command to its end.

        harm: a function of `harm` that changes the product. begun: called with the pid.
        """
        request = {"arguments": arguments, "environment": environment, "output": str(self.output), "harm": harm}
        assert self.process.stdin and self.process.stdout
        print(json.dumps(request), file=self.process.stdin, flush=True)
        begun(int(self.process.stdout.readline()))
        return Ended(int(self.process.stdout.readline()), self.output.read_text())

    def close(self) -> None:
        self.process.communicate()


def main() -> None:
    _import_everything()
    for line in sys.stdin:
        request = json.loads(line)
        pid = os.fork()
        if not pid:
            _command(**request)
        print(pid, flush=True)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def _import_everything() -> None:
    """Imports and reads what a command needs; the project has no sources and tables but those of scenarios."""
    import certifi  # noqa: F401
    import typer

    from pipelines.cli import main as cli
    from pipelines.landing import extract  # noqa: F401
    from pipelines.schema.declare import metadata

    cli.app.command("extract")(_extract)
    cli.app = typer.main.get_command(cli.app)  # type: ignore[assignment]
    project.load_tables()
    for name in project.sources().keys() - {*SOURCES, *PEOPLE, "catalog/civitai"}:
        del project.sources()[name]
    kept = {select.table for name in project.sources() for select in project.selects(name)}
    for table in reversed(metadata.sorted_tables):  # children before what they refer to
        if table in kept or table.schema not in project.domains() or table.info["kind"] == "application":
            kept |= {each.column.table for each in table.foreign_keys}
        else:
            metadata.remove(table)
    gc.collect()
    gc.freeze()


def _extract(stream: str, day: str, mode: str = "recorded") -> None:
    from pipelines.cli import context
    from pipelines.landing import extract, land
    from pipelines.source import Window

    found, _ = project.find_stream(stream)
    with context.warehouse() as warehouse:
        intake = extract.open_intake(warehouse, found, Window.of(day), "live" if mode == "live" else "recorded")
        context.end([land.land_intake(warehouse, found, day, intake)])


def _command(arguments: list[str], environment: dict[str, str], output: str, harm: str | None) -> NoReturn:
    """What the fork does."""
    code: object = 1
    try:
        os.environ.update(environment)
        out = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        null = os.open(os.devnull, os.O_RDONLY)
        for number, standard in ((null, 0), (out, 1), (out, 2)):
            os.dup2(number, standard)
        from pipelines.cli import main as cli
        from tests.crashes import harm as harms

        if harm:
            getattr(harms, harm)()
        sys.argv = ["atlas", *arguments]
        cli.main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(bool(end.code))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main()
