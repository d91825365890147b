"""Failpoints: named places between two steps, at which a test makes the process die.

    ATLAS_FAILPOINT=publish.classified=kill    one failpoint, one fault
    ATLAS_FAILPOINT=bodies.committed:2=cut     when it is reached for the second time
    ATLAS_FAILPOINT=write.merged.models=cut,ledger.failing=kill

`kill` sends SIGKILL; `cut` terminates every connection to the database of DATABASE_URL, which must be a test's own;
`cancel` sends SIGINT; `hold` stops the process until it gets SIGCONT; `print` only prints the name. `*=print` prints
each failpoint when it is reached first. Every fault prints its name on standard error. The environment is read once,
at import; without it a call costs nanoseconds. Belongs here: the faults. Not here: what must hold after them
(tests/promises/test_i7_failpoints.py).
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

FAULTS = ("kill", "cut", "cancel", "hold", "print")


def reached(name: str, of: str = "") -> None:
    """A failpoint. of: which one of several that share the name, such as a table."""
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
        _execute(fault)


@cache
def _rules() -> dict[tuple[str, int], str]:
    """The fault of each failpoint and count. Raises AtlasError if the environment variable cannot be parsed."""
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


def _execute(fault: str) -> None:
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
