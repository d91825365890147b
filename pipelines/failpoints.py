"""Named places between two steps, where a test makes a process die: whatever it leaves, the next run makes good.

    ATLAS_FAILPOINT=publish.judged=kill        one place, one fault
    ATLAS_FAILPOINT=bodies.committed:2=cut     when it is reached for the second time
    ATLAS_FAILPOINT=write.merged.models=cut,ledger.failing=kill

`kill` is kill -9; `cut` has the server end every connection to the database of DATABASE_URL, so that it is for a
database of a test's own; `cancel` is Ctrl-C; `hold` stops the process until it gets SIGCONT; `tell` (`*=tell`:
everywhere) only says on standard error what is reached, as the others do too. The environment is read once, at import;
where nothing is set a call costs nanoseconds. Belongs here: what happens at a place. Not: what must hold after it
(tests/test_i7_failpoints.py).
"""

import os
import signal
import threading
from collections import Counter
from functools import cache

import psycopg

from pipelines.errors import AtlasError

_SET = os.environ.get("ATLAS_FAILPOINT", "")

_times: Counter[str] = Counter()
_counting = threading.Lock()

FAULTS = ("kill", "cut", "cancel", "hold", "tell")


def reached(name: str, of: str = "") -> None:
    """Says that a place is reached; of: which of several that share its name, such as a table."""
    if _SET:
        _reach(name, f"{name}.{of}" if of else name)


def _reach(name: str, full: str) -> None:
    rules = _rules()
    with _counting:
        for each in {name, full}:
            _times[each] += 1
        fault = rules.get((full, _times[full])) or rules.get((name, _times[name]))
        if fault is None and _times[full] == 1:
            fault = rules.get(("*", 1))
    if fault:
        os.write(2, f"failpoint {full}: {fault}\n".encode())
        _strike(fault)


@cache
def _rules() -> dict[tuple[str, int], str]:
    """What is to happen, by name and number of times."""
    rules = {}
    for rule in _SET.split(","):
        place, _, fault = rule.partition("=")
        name, _, nth = place.partition(":")
        if fault not in FAULTS or not (nth or "1").isdecimal():
            raise AtlasError(
                f"ATLAS_FAILPOINT has {rule!r}. Write NAME=FAULT or NAME:NTH=FAULT, FAULT one of {', '.join(FAULTS)}.",
                usage=True,
            )
        rules[name, int(nth or 1)] = fault
    return rules


def _strike(fault: str) -> None:
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif fault == "cut":
        _cut()
    elif fault == "cancel":
        os.kill(os.getpid(), signal.SIGINT)
    elif fault == "hold":
        os.kill(os.getpid(), signal.SIGSTOP)


def _cut() -> None:
    if "DATABASE_URL" not in os.environ:
        raise AtlasError("A failpoint cuts connections only to a database that DATABASE_URL names.", usage=True)
    with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
        connection.execute(
            """
            select pg_terminate_backend(pid, 5000) from pg_stat_activity
            where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
            """
        )
