"""Ctrl-C, kill -9 and cut connections, anywhere: the next run completes, nothing half-written shows, the ledger tells.

Every test interrupts a real `atlas` process. Its database is a copy of one in which the first models are already in
the tables, so that "as before" is something that a half-written run would change.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from pipelines import ledger, project
from pipelines.landing import bulk_files
from pipelines.landing.land import land_intake
from pipelines.source import Source, Window
from pipelines.transform.run import transform
from pipelines.warehouse import locks
from pipelines.warehouse.database import Connection, Warehouse
from pipelines.warehouse.declare import audit_columns, metadata

OLD, ALL, FED = 300, 2_400, 2_100
"""Models of the database a test begins with, models of the run it interrupts, and how many a slow file gives of them.

A landing commits bodies every 2,000 payloads, so that a slow file stops it with bodies and without versions.
"""
EARLIER, DAY = "2026-11-04", "2026-11-05"
PATIENCE_S = 60
SEED = int(os.environ.get("CRASH_SEED") or random.randrange(1 << 32))

Start = Callable[..., "subprocess.Popen[str]"]
Copied = Callable[[Warehouse], Warehouse]


def a_model(number: int, edition: int) -> bytes:
    """One model in CivitAI's shape; of the first ones each edition differs in its name, files and tags."""
    edition = edition if number < OLD else 0
    images = [
        {
            "id": number * 10 + each,
            "url": f"https://image.invalid/{number}/{each}.jpeg",
            "width": 512,
            "height": 768,
            "meta": {"prompt": f"a lighthouse, number {number}, view {each}", "negativePrompt": "fog", "seed": each},
        }
        for each in range(2)
    ]
    file = {"id": number, "name": f"{number}.safetensors", "type": "Model", "sizeKB": 1024.5 + edition, "hashes": {}}
    return json.dumps(
        {
            "id": number,
            "name": f"Lighthouse {number}" + " again" * edition,
            "type": "LORA",
            "nsfw": False,
            "description": f"<p>Edition {edition}. {'Stone, lamp and lens. ' * 40}</p>",
            "tags": ["lighthouse", f"coast {number % 50}", f"edition {edition}"],
            "modelVersions": [
                {
                    "id": number,
                    "name": "v1",
                    "baseModel": "SDXL 1.0",
                    "files": [file] * (number % 3 > edition),
                    "images": images,
                }
            ],
        }
    ).encode()


@dataclass(frozen=True)
class Stage:
    """Databases that tests copy, the file that is landed over them, and what an undisturbed run makes of it."""

    models: Path
    old: Warehouse
    landed: Warehouse
    before: dict[str, str]
    before_transform: dict[str, str]
    undisturbed: dict[str, str]


def shown(warehouse: Warehouse) -> dict[str, str]:
    """Digest of everything that a reader can see: each table's bytes less the audit columns, and the versions."""
    project.load_tables()
    queries: dict[str, sql.Composable] = {
        "staging.versions": sql.SQL(
            """
            select stream, external_id, digest, version_at, fetched_at, request, partition_key, latest,
                valid_from_run is not null as taken_in, valid_to_run is not null as taken_out
            from staging.versions order by external_id collate "C", version_id
            """
        )
    }
    for table in metadata.sorted_tables:
        if table.schema == "catalog":
            queries[table.fullname] = sql.SQL("select {} from {} order by {}").format(
                columns(column.name for column in table.columns if column.name not in audit_columns(table)),
                sql.Identifier("catalog", table.name),
                columns(column.name for column in table.primary_key),
            )
    digests = {}
    with warehouse.connect() as connection:
        for name, query in queries.items():
            digest = hashlib.sha256()
            with connection.cursor().copy(sql.SQL("copy ({}) to stdout").format(query)) as copy:
                for block in copy:
                    digest.update(block)
            digests[name] = digest.hexdigest()
    return digests


def columns(names: Any) -> sql.Composable:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def runs(warehouse: Warehouse) -> list[dict[str, Any]]:
    """The ledger of the day that is interrupted, oldest first."""
    with warehouse.connect() as connection:
        return connection.execute(
            """
            select fetch_run_id, kind, status, publish_seq, ended_at, error_text, fetched, created, updated
            from ops.fetch_runs where partition_key = %s order by fetch_run_id
            """,
            [DAY],
        ).fetchall()


def number_of(warehouse: Warehouse, query: str) -> int:
    with warehouse.connect() as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row["number"])


def ours(warehouse: Warehouse) -> int:
    """How many connections of atlas or Dagster processes the database has."""
    return number_of(
        warehouse,
        """
        select count(*) as number from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid() and application_name = 'atlas'
        """,
    )


def until(condition: Callable[[], object], process: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended with {process.returncode} too early: {process.communicate()}")
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def stage(
    new_warehouse: Callable[[], Warehouse], civitai: Source, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    (folder / "old").mkdir()
    models = folder / "models.ndjson"
    models.write_bytes(b"\n".join(a_model(number, 1) for number in range(ALL)))
    (folder / "old" / "models.ndjson").write_bytes(b"\n".join(a_model(number, 0) for number in range(OLD)))

    old, landed, undisturbed = new_warehouse(), new_warehouse(), new_warehouse()
    for warehouse in (old, landed, undisturbed):
        bring(warehouse, civitai, folder / "old" / "models.ndjson", EARLIER)
        transform(warehouse, civitai, EARLIER)
    for warehouse in (landed, undisturbed):
        bring(warehouse, civitai, models, DAY)
    transform(undisturbed, civitai, DAY)
    yield Stage(models, old, landed, shown(old), shown(landed), shown(undisturbed))
    for warehouse in (old, landed, undisturbed):
        warehouse.drop_database(warehouse.database)


def bring(warehouse: Warehouse, source: Source, file: Path, day: str) -> None:
    intake = bulk_files.intake(source, "models", file, Window.of(day))
    land_intake(warehouse, source, day, nullcontext(intake))


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """A test run in the background of a shell ignores Ctrl-C, and its children would too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts an `atlas` process in a group of its own."""
    started: list[subprocess.Popen[str]] = []

    def run(warehouse: Warehouse, *arguments: object) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "pipelines.cli.main", *map(str, arguments)],
            cwd=project.ROOT,
            env=os.environ | {"DATABASE_URL": warehouse.conninfo, "ATLAS_HOME": str(tmp_path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def slow_file(stage: Stage, tmp_path: Path) -> Iterator[Path]:
    """A named pipe that gives the first models and then nothing more."""
    pipe = tmp_path / stage.models.name
    os.mkfifo(pipe)
    enough = threading.Event()

    def feed() -> None:
        with suppress(BrokenPipeError), pipe.open("wb") as file:
            file.write(b"\n".join(stage.models.read_bytes().split(b"\n")[:FED]))
            file.flush()
            enough.wait()

    feeder = threading.Thread(target=feed)
    feeder.start()
    yield pipe
    enough.set()
    with suppress(OSError):  # whoever never opened the pipe left the feeder waiting
        os.close(os.open(pipe, os.O_RDONLY | os.O_NONBLOCK))
    feeder.join(PATIENCE_S)


@contextmanager
def held(warehouse: Warehouse, statement: str) -> Iterator[Connection]:
    """Holds what a statement locks, in a transaction of the test's own."""
    with warehouse.connect() as connection, connection.transaction():
        connection.execute("set local application_name = 'the test'")
        connection.execute(statement.encode())
        yield connection


def waits(warehouse: Warehouse) -> bool:
    """Whether a process waits for a lock in the database."""
    return bool(
        number_of(
            warehouse,
            """
            select count(*) as number from pg_stat_activity
            where datname = current_database() and application_name = 'atlas' and wait_event_type = 'Lock'
            """,
        )
    )


PUBLISH = f"select pg_advisory_xact_lock(hashtextextended('{locks.landing('catalog/civitai')}', 0))"
TABLE = "lock table catalog.prompts in share mode"  # the last one that a transform writes


def in_progress(warehouse: Warehouse) -> bool:
    return any(run["status"] == "in_progress" for run in runs(warehouse))


def bodies_written(warehouse: Warehouse) -> bool:
    written = "select count(*) as number from staging.payloads p join ops.fetch_runs r using (fetch_run_id)"
    return number_of(warehouse, f"{written} where r.partition_key = '{DAY}'") >= 2_000


def kill(process: "subprocess.Popen[str]", number: int, *, group: bool = False) -> str:
    """Interrupts a process as a person would; what it said on standard error."""
    if group:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE_S)
    return said


def assert_stopped_by_ctrl_c(process: "subprocess.Popen[str]", said: str) -> None:
    assert process.returncode == 1, said
    assert "Traceback" not in said
    assert "Interrupted" in said


def assert_says_failed(run: dict[str, Any]) -> None:
    assert (run["status"], run["publish_seq"], run["fetched"]) == ("failed", None, 0)
    assert run["error_text"]
    assert run["ended_at"]


def assert_completes(start: Start, warehouse: Warehouse, stage: Stage, *command: object) -> None:
    """The interrupted command, run again, ends with what an undisturbed run makes, and nothing is left over."""
    until(lambda: ours(warehouse) == 0)  # a server notices only in its next answer that a killed client is gone
    again = start(warehouse, *command)
    out, said = again.communicate(timeout=PATIENCE_S)
    assert again.returncode == 0, said + out
    assert_complete(warehouse, stage)


def assert_complete(warehouse: Warehouse, stage: Stage) -> None:
    if "transform" not in [run["kind"] for run in runs(warehouse) if run["publish_seq"]]:
        assert shown(warehouse) == stage.before_transform
        transform(warehouse, project.sources()["catalog/civitai"], DAY)
    assert shown(warehouse) == stage.undisturbed
    *interrupted, last = runs(warehouse)
    assert last["status"] == "completed"
    assert not in_progress(warehouse)
    assert [run["fetch_run_id"] for run in interrupted if run["status"] == "failed" and not run["error_text"]] == []
    assert number_of(warehouse, "select count(*) - count(distinct digest) as number from staging.payloads") == 0
    assert (
        number_of(
            warehouse,
            """
            select count(*) as number from pg_locks l join pg_database d on d.oid = l.database
            where l.locktype = 'advisory' and d.datname = current_database()
            """,
        )
        == 0
    )


def land(file: Path) -> tuple[object, ...]:
    return "land", "catalog/civitai.models", "--from", file, "--partition", DAY


TRANSFORM = ("transform", "catalog", "--partition", DAY)


@pytest.mark.parametrize("group", [False, True], ids=["alone", "with its group"])
def test_ctrl_c_while_bodies_have_no_versions(
    start: Start, copied: Copied, stage: Stage, slow_file: Path, group: bool
) -> None:
    warehouse = copied(stage.old)
    process = start(warehouse, *land(slow_file))
    until(lambda: bodies_written(warehouse), process)
    assert shown(warehouse) == stage.before
    said = kill(process, signal.SIGINT, group=group)
    assert_stopped_by_ctrl_c(process, said)
    assert shown(warehouse) == stage.before
    (run,) = runs(warehouse)
    assert_says_failed(run)
    assert run["error_text"] == "interrupted"
    assert_completes(start, warehouse, stage, *land(stage.models))


def test_kill_9_while_bodies_have_no_versions(start: Start, copied: Copied, stage: Stage, slow_file: Path) -> None:
    warehouse = copied(stage.old)
    process = start(warehouse, *land(slow_file))
    until(lambda: bodies_written(warehouse), process)
    kill(process, signal.SIGKILL)
    assert shown(warehouse) == stage.before
    assert in_progress(warehouse)
    assert_completes(start, warehouse, stage, *land(stage.models))
    assert_says_failed(runs(warehouse)[0])
    assert "ended before it closed the run" in runs(warehouse)[0]["error_text"]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only /proc tells what a process has imported")
def test_ctrl_c_while_the_command_still_imports(start: Start, copied: Copied, stage: Stage) -> None:
    warehouse = copied(stage.old)
    process = start(warehouse, *land(stage.models))
    until(lambda: "psycopg_binary" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    said = kill(process, signal.SIGINT)
    assert_stopped_by_ctrl_c(process, said)
    assert shown(warehouse) == stage.before
    assert runs(warehouse) == []


def test_ctrl_c_as_soon_as_the_ledger_has_its_row(start: Start, copied: Copied, stage: Stage) -> None:
    warehouse = copied(stage.old)
    process = start(warehouse, *land(stage.models))
    until(lambda: runs(warehouse), process)
    said = kill(process, signal.SIGINT)
    assert_stopped_by_ctrl_c(process, said)
    assert shown(warehouse) == stage.before
    assert_says_failed(runs(warehouse)[0])
    assert_completes(start, warehouse, stage, *land(stage.models))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_while_it_waits_to_publish(
    start: Start, copied: Copied, stage: Stage, number: signal.Signals
) -> None:
    warehouse = copied(stage.old)
    with held(warehouse, PUBLISH):
        process = start(warehouse, *land(stage.models))
        until(lambda: waits(warehouse), process)
        said = kill(process, number)
        assert shown(warehouse) == stage.before
    if number == signal.SIGINT:
        assert_stopped_by_ctrl_c(process, said)
        assert_says_failed(runs(warehouse)[0])
    assert_completes(start, warehouse, stage, *land(stage.models))
    assert shown(warehouse) == stage.undisturbed
    assert_says_failed(runs(warehouse)[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_interrupted_between_the_tables_of_a_transform(
    start: Start, copied: Copied, stage: Stage, number: signal.Signals
) -> None:
    warehouse = copied(stage.landed)
    with held(warehouse, TABLE):
        process = start(warehouse, *TRANSFORM)
        until(lambda: waits(warehouse), process)
        said = kill(process, number, group=True)
        assert shown(warehouse) == stage.before_transform
    if number == signal.SIGINT:
        assert_stopped_by_ctrl_c(process, said)
        assert_says_failed(runs(warehouse)[1])
    assert_completes(start, warehouse, stage, *TRANSFORM)
    assert_says_failed(runs(warehouse)[1])


def test_connections_cut_between_the_tables_of_a_transform(start: Start, copied: Copied, stage: Stage) -> None:
    warehouse = copied(stage.landed)
    with held(warehouse, TABLE) as connection:
        process = start(warehouse, *TRANSFORM)
        until(lambda: waits(warehouse), process)
        connection.execute(
            """
            select pg_terminate_backend(pid) from pg_stat_activity
            where datname = current_database() and application_name = 'atlas'
            """
        )
        _, said = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert "Traceback" not in said
    assert "error: The database connection was lost" in said
    assert shown(warehouse) == stage.before_transform
    assert_says_failed(runs(warehouse)[1])
    assert "terminating connection" in runs(warehouse)[1]["error_text"]
    assert_completes(start, warehouse, stage, *TRANSFORM)


def test_ctrl_c_in_a_dagster_run(start: Start, copied: Copied, stage: Stage) -> None:
    warehouse = copied(stage.landed)
    warehouse.create_database(str(warehouse.dagster_url.database))
    command = "run", "catalog/civitai", "--partition", "2026-11-02"
    with held(warehouse, TABLE):
        process = start(warehouse, *command)
        until(lambda: waits(warehouse), process)
        said = kill(process, signal.SIGINT, group=True)
        assert shown(warehouse)["catalog.models"] == stage.before_transform["catalog.models"]
    assert_stopped_by_ctrl_c(process, said)
    with warehouse.connect() as connection:
        rows = connection.execute(
            "select kind, status, error_text from ops.fetch_runs where partition_key = '2026-11-02' order by 1"
        ).fetchall()
    assert [(row["kind"], row["status"]) for row in rows] == [("land", "completed"), ("transform", "failed")]
    assert rows[1]["error_text"] == "interrupted"


@pytest.mark.parametrize("round_", range(5))
def test_interrupted_at_any_time(start: Start, copied: Copied, stage: Stage, civitai: Source, round_: int) -> None:
    dice = random.Random(SEED + round_)
    number = dice.choice([signal.SIGINT, signal.SIGKILL])
    transforming = dice.random() < 0.5
    pause_s = dice.uniform(0, 1.5)
    print(f"CRASH_SEED={SEED} {number.name} {pause_s:.2f} s after the ledger has its row")

    warehouse = copied(stage.landed if transforming else stage.old)
    before, command = (stage.before_transform, TRANSFORM) if transforming else (stage.before, land(stage.models))
    already = len(runs(warehouse))
    process = start(warehouse, *command)
    until(lambda: len(runs(warehouse)) > already, process)
    with suppress(subprocess.TimeoutExpired):
        process.wait(pause_s)
    said = kill(process, number)
    until(lambda: ours(warehouse) == 0)
    published = any(run["publish_seq"] for run in runs(warehouse)[already:])
    after = stage.undisturbed if transforming else stage.before_transform
    assert shown(warehouse) == (after if published else before)
    assert "Traceback" not in said
    if number == signal.SIGINT and not published:
        assert process.returncode == 1, said
        assert not in_progress(warehouse)

    ledger.close_dead_runs(warehouse)
    bring(warehouse, civitai, stage.models, DAY)
    transform(warehouse, civitai, DAY)
    assert_complete(warehouse, stage)
