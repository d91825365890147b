"""How commands print: tables and sentences for people, one JSON document for programs, a line for each run.

A command prints its result in both forms, and `--json` decides which of them appears on standard output. Messages and
errors go to standard error, and the lines of runs too where standard output has the document.
"""

import base64
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from decimal import Decimal
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.status import Status
from rich.table import Table

from pipelines.ledger import Counts, Run

LONGEST_CELL = 300
SHORT_CELL = 16
PIPE_WIDTH = 160
ID_LENGTH = 18
"""How many characters of a run's id are shown: they begin with the time, and are unique in practice."""
DONE = {"land": "landed", "transform": "transformed", "rebuild": "rebuilt", "prune": "pruned", "erase": "erased"}

out = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(width=None if sys.stderr.isatty() else PIPE_WIDTH, stderr=True)
wants_json = False
"""Whether the command was given `--json`."""


def with_json(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the option `--json`."""

    @wraps(command)
    def chosen(*, json: bool, **options: Any) -> None:
        global wants_json
        wants_json = json
        command(**options)

    option = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
    own = signature(command).parameters.values()
    json_parameter = Parameter("json", Parameter.KEYWORD_ONLY, default=False, annotation=option)
    chosen.__signature__ = Signature([*own, json_parameter])  # type: ignore[attr-defined]
    return chosen


def result(value: Any) -> None:
    """Prints one JSON document, with `--json`."""
    if wants_json:
        sys.stdout.write(document(value) + "\n")


def table(title: str, rows: Sequence[Mapping[str, Any]], *, width: int | None = None) -> None:
    """Prints rows as a table, without `--json`; numbers are right-aligned, long texts shortened.

    width: the most, in which long cells are folded.
    """
    if wants_json:
        return
    names = list(rows[0]) if rows else []
    out.print(title, style="bold", markup=False, highlight=False)
    shown = Table(header_style="bold", pad_edge=False, box=None)
    for name in names:
        number = any(isinstance(row[name], int | float | Decimal) and not isinstance(row[name], bool) for row in rows)
        longest = max(len(_cell(row[name])) for row in rows)
        shown.add_column(
            name.replace("_", " "),
            justify="right" if number else "left",
            no_wrap=longest <= SHORT_CELL,
            overflow="fold" if width else "ellipsis",
        )
    for row in rows:
        shown.add_row(*(_cell(row[name]) for name in names))
    out.print(shown if rows else "  nothing", width=width)
    out.print()


def fields(values: Mapping[str, Any]) -> None:
    """Prints names with their values, one a line, without `--json`; none for a value that is None."""
    shown = {name: value for name, value in values.items() if value is not None}
    widest = max(map(len, shown))
    for name, value in shown.items():
        say(f"{name:>{widest}}  {value}")


def say(sentence: str) -> None:
    """Prints a result in words, without `--json`."""
    if not wants_json:
        out.print(sentence, highlight=False, markup=False, soft_wrap=True)


def note(sentence: str) -> None:
    """Prints what is not a result, on standard error."""
    err.print(sentence, highlight=False, markup=False)


def error(message: str) -> None:
    err.print(f"[bold red]error:[/] {escape(message)}", highlight=False)


def document(value: Any) -> str:
    """A value as JSON text; bytes in base64."""
    return json.dumps(value, default=_plain, indent=2, ensure_ascii=False)


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes | memoryview):
        return base64.b64encode(value).decode()
    return str(value)


def visible(exact: bytes) -> str:
    """Bytes as text without control characters, which a terminal would obey."""
    text = exact.decode(errors="backslashreplace")
    return "".join(each if each.isprintable() or each in "\n\t" else repr(each)[1:-1] for each in text)


def number_of(number: int, plural: str) -> str:
    """A number with what it counts: `1 row`, `2,000 rows`, `1 quarantine entry`."""
    singular = f"{plural[:-3]}y" if plural.endswith("ies") else plural.removesuffix("s")
    return f"{number:,} {singular if number == 1 else plural}"


def short(value: Any) -> str:
    """A value as one line, shortened where it is long."""
    text = " ".join((value if isinstance(value, str) else document(value)).split())
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return escape(short(str(value)))


def run_as_dict(run: Run) -> dict[str, Any]:
    """A run as JSON shows it."""
    return {
        "fetch_run_id": str(run.id),
        "stream": run.stream,
        "kind": run.kind,
        "partition_key": run.partition,
        "status": run.status,
        **asdict(run.counts),
        "stats": run.stats,
        "error_text": run.error,
    }


def counts(row: Mapping[str, int], stats: Mapping[str, Any]) -> str:
    """The counts of a run in words; of those that are zero only the main ones."""
    always = {"fetched", "created", "updated", "deleted"}
    words = [f"{row[name]:,} {name}" for name in vars(Counts()) if row[name] or name in always]
    words += [f"{number:,} skipped ({reason})" for reason, number in stats.get("skipped", {}).items()]
    words += [f"{number_of(stats['values'], 'values')} quarantined"] if stats.get("values") else []
    words += [f"{stats['renamed']:,} renamed"] if stats.get("renamed") else []
    words += [f"{number:,} {note}" for note, number in stats.get("notes", {}).items() if note != "requests"]
    return ", ".join(words)


class Reporter:
    """Prints a line for each run that ends, under a spinner on a terminal. Keeps these runs.

    raises: the error of a run that fails ends the command, which prints it.
    """

    def __init__(self, status: Status, *, raises: bool) -> None:
        self._status, self._raises = status, raises
        self.runs: list[Run] = []

    def __call__(self, run: Run) -> None:
        name = f"{run.stream} {run.partition}"
        if run.status == "in_progress":
            self._status.update(f"{run.kind} {name}" + (f": {run.done:,} so far" if run.done else ""))
            return
        self.runs.append(run)
        line = f"{DONE[run.kind]} {name}: {counts(asdict(run.counts), run.stats)} ({run.status})"
        if run.status == "failed":
            line = f"failed to {run.kind} {name}" + ("" if self._raises else f": {run.error}")
        self._status.console.print(line, highlight=False, markup=False, soft_wrap=True)


@contextmanager
def reporting(*, raises: bool = True) -> Iterator[Reporter]:
    """A reporter for as long as the block works."""
    with (err if wants_json else out).status("starting") as status:
        yield Reporter(status, raises=raises)
