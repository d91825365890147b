"""What the design allows each thing to take, measured through real HTTP and a real Postgres: `make bench`.

Medians; ratios within one run, the control beside it. Not part of `make test`: on a machine that is busy otherwise they
say little. With README_WRITE=1 what was measured is written into docs/operations.md.
"""

import copy
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from pipelines import project
from pipelines.landing import bulk_files, extract, land, schema_drift
from pipelines.ledger import Run
from pipelines.schema.table_spec import TableSpec
from pipelines.source import Source, Window
from pipelines.warehouse.database import Warehouse
from tests import hostile, toy_project
from tests.documents import FIGURES, between
from tests.forum import user
from tests.growth import refetch
from tests.hostile import CivitAI, HuggingFace, Server
from tests.library import DAYS, Json, Recorder, shown
from tests.runs import land_intake, together, transform

BEGIN, END = "<!-- figures -->", "<!-- /figures -->"

MODELS = 20_000
ROUNDS = 3

NEWS = "landing and transforming 1 % of 20,000 CivitAI models that changed, of the time of a full load, over HTTP"
NOTHING_NEW = "a run with nothing new, beyond two empty runs of Dagster"
DRIFT = "looking for drift, of the time of landing 20,000 CivitAI models from a file"
DIGESTS = "keeping the digests of the tables, of the time of their transform"
GROWTH = "100 unchanged fetches of 20,000 payloads of 8 kB, of the size of the warehouse"
MEMORY = "peak memory of landing 20,000 CivitAI models from a file"
TENFOLD = "the same with 200,000, of that with 20,000"

ORDER = "50,000 small events in five files of which the fifth comes first and users third, of the time in order"
SIZE = "the warehouse with 50,000 events of 340 bytes, of the bytes of the events"
CHECK = "peak memory of `atlas rebuild --check` over 200,000 events"
BACKENDS = "private memory of the largest backend of it"
CHILDREN = "records that a user with 1,000,000 events takes along who only changes"

BUDGETS = {NEWS: "5.0 %", NOTHING_NEW: "2.0 s", DRIFT: "5.0 %", DIGESTS: "15.0 %", GROWTH: "1.0 %"}
BUDGETS |= {MEMORY: "300 MB", TENFOLD: "120 %", ORDER: "150 %", SIZE: "450 %", CHECK: "300 MB", BACKENDS: "300 MB"}
BUDGETS |= {CHILDREN: "0 records"}
"""What is measured, and at most how much it may be."""

measured: dict[str, str] = {}


def number(text: str) -> float:
    """Of a figure, as the document has it."""
    return float(text.split()[0])


def figures(text: str) -> dict[str, tuple[str, str]]:
    """What a document says was measured, and at most how much it may be."""
    _, block, _ = between(text, BEGIN, END)
    rows = re.findall(r"^\| (.+?) \| (\d.*?) \| (\d.*?) \|$", block, re.M)
    return {what: (figure, most) for what, figure, most in rows}


@pytest.fixture(scope="session")
def server_settings() -> dict[str, str]:
    return {}


@pytest.fixture(scope="module", autouse=True)
def told() -> Iterator[None]:
    """Writes what has been measured."""
    yield
    if os.environ.get("README_WRITE"):
        text = FIGURES.read_text()
        known = {what: figure for what, (figure, _) in figures(text).items()} | measured
        rows = [f"| {what} | {known[what]} | {most} |" for what, most in BUDGETS.items() if what in known]
        table = "\n".join(["", "| measured | | at most |", "|---|---|---|", *rows, ""])
        before, _, after = between(text, BEGIN, END)
        FIGURES.write_text(f"{before}{BEGIN}{table}{END}{after}")


def note(what: str, found: str) -> None:
    """Keeps a figure and holds it against its budget."""
    measured[what] = found
    print(f"{what}: {found}")
    assert number(found) <= number(BUDGETS[what])


NOTHING = """
import os
import dagster as dg
from dagster._core.instance import InstanceRef

@dg.asset
def nothing() -> None: ...

logs = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
reference = InstanceRef.from_dir(os.environ["DAGSTER_HOME"], overrides={"compute_logs": logs})
with dg.DagsterInstance.from_ref(reference) as instance:
    for _ in range(2):
        assert dg.materialize([nothing], instance=instance, run_config=quiet).success
"""
"""Dagster alone: two runs that do nothing, as `atlas run` makes two, in the storage that it has made."""


@contextmanager
def served(api: hostile.Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with Server(api.answer) as server:
        for name, value in hostile.environment({api.source: server.url}).items():
            monkeypatch.setenv(name, value)
        yield


def published(moment: datetime, number: int, model: dict[str, Any]) -> dict[str, Any]:
    """A model's newest version again, as another one, published at a moment."""
    newest: dict[str, Any] = copy.deepcopy(model["modelVersions"][0])
    return newest | {"id": number, "publishedAt": hostile.iso(moment)}


def models(number: int) -> dict[str, Any]:
    """So many models in the shape of the recorded ones, each with ids and checksums of its own."""
    recorded = CivitAI()
    recorded.load()
    found = {}
    for each in range(number):
        model = copy.deepcopy(list(recorded.records["models"].values())[each % len(recorded.records["models"])])
        model["id"] = each
        for place, version in enumerate(model["modelVersions"]):
            version["id"] = each * 100 + place
            version["publishedAt"] = hostile.iso(datetime.now(UTC) - timedelta(days=1, hours=number - each))
            for nth, file in enumerate(version.get("files", [])):
                file["id"] = each * 1_000 + place * 10 + nth
                file["hashes"] = {"SHA256": hashlib.sha256(str(file["id"]).encode()).hexdigest().upper()}
            for nth, image in enumerate(version.get("images", [])):
                image["id"] = each * 1_000 + place * 10 + nth
                image["url"] = f"https://image.civitai.com/x/original=true/{image['id']}.jpeg"
        found[str(each)] = model
    return found


def load(warehouse: Warehouse, source: Source, *, full_refresh: bool) -> tuple[float, Run]:
    """Seconds that a landing and its transform take, and the landing."""
    today = datetime.now(UTC).date().isoformat()
    started = time.perf_counter()
    run = together(
        land.land_intake(
            warehouse,
            stream,
            today,
            extract.open_intake(warehouse, stream, Window.of(today), "live", full_refresh=full_refresh),
        )
        for stream in source.streams
    )
    transform(warehouse, source, today)
    return time.perf_counter() - started, run


def test_one_percent_of_news_costs_a_twentieth_of_a_full_load_at_most(
    new_warehouse: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = []
    for _ in range(ROUNDS):
        api, warehouse = CivitAI(), new_warehouse()
        api.records["models"] = models(MODELS)
        source = replace(project.sources()["catalog/civitai"], rate=None)
        with served(api, monkeypatch):
            full, first = load(warehouse, source, full_refresh=True)
            for key in list(api.records["models"])[::100]:
                model = api.records["models"][key]
                news = published(datetime.now(UTC), int(key) * 100 + 99, model) | {"files": [], "images": []}
                api.records["models"][key] = model | {"modelVersions": [news, *model["modelVersions"]]}
            some, second = load(warehouse, source, full_refresh=False)
        assert (first.counts.created, second.counts.updated) == (MODELS, MODELS // 100)
        ratios.append(some / full)
        print(f"{MODELS} models {full:.2f} s, {MODELS // 100} changed {some:.2f} s: {some / full:.1%}")
        warehouse.drop_database(warehouse.database)
    note(NEWS, f"{statistics.median(ratios) * 100:.1f} %")


def test_a_run_with_nothing_new_takes_two_seconds_beyond_what_dagster_takes_to_start(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = HuggingFace()
    for number in range(2_000):
        api.make("models", datetime.now(UTC) - timedelta(seconds=4_000 - number))
    with served(api, monkeypatch):
        environment = os.environ | {
            "DATABASE_URL": warehouse.conninfo,
            "ATLAS_HOME": str(tmp_path),
            "ATLAS_DAGSTER_URL": warehouse.dagster_url.render_as_string(hide_password=False),
            "DAGSTER_HOME": str(tmp_path / "dagster"),
            "DAGSTER_EVENT_BATCH_SIZE": "100",
        }

        def seconds(*command: str) -> tuple[float, str]:
            started = time.perf_counter()
            done = subprocess.run(
                command, cwd=project.ROOT, env=environment, capture_output=True, text=True, check=True
            )
            return time.perf_counter() - started, done.stdout

        atlas = [sys.executable, "-m", "pipelines.cli.main", "run", "catalog/huggingface", "--live", "--json"]
        seconds(*atlas)
        runs, starts = [], []
        for _ in range(5):
            taken, told = seconds(*atlas)
            runs.append(taken)
            both = json.loads(told)["runs"]
            assert [run["kind"] for run in both] == ["land", "transform"]
            for run in both:
                assert (run["status"], run["created"], run["updated"], run["deleted"]) == ("completed", 0, 0, 0)
            starts.append(seconds(sys.executable, "-c", NOTHING)[0])
    run_s, start_s = statistics.median(runs), statistics.median(starts)
    print(f"nothing new {run_s:.2f} s, Dagster's own start {start_s:.2f} s")
    note(NOTHING_NEW, f"{max(0, run_s - start_s):.1f} s")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of as many models."""
    file = tmp_path_factory.mktemp("many") / "many.ndjson"
    file.write_bytes(b"\n".join(json.dumps(model).encode() for model in models(MODELS).values()))
    return file


def test_looking_for_drift_and_keeping_digests_cost_little(
    new_warehouse: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch, many: Path
) -> None:
    """Beside controls without them, turn by turn."""
    source, day = project.sources()["catalog/civitai"], Window(datetime.now(UTC).date())
    seconds: dict[str, list[float]] = {"land": [], "transform": [], "land blind": [], "transform blind": []}
    for turn in range(4 * ROUNDS):
        with_out = " blind" if turn % 2 else ""
        warehouse = new_warehouse()
        with monkeypatch.context() as patch:
            if with_out:
                patch.setattr(schema_drift, "record", lambda *_: [])
                patch.setattr(TableSpec, "row_hash", lambda *_: sql.SQL("0::numeric"))
            started = time.perf_counter()
            land_intake(warehouse, source, day.key, nullcontext(bulk_files.intake(source, "models", many, None)))
            landed = time.perf_counter()
            transform(warehouse, source, day.key)
            seconds[f"land{with_out}"].append(landed - started)
            seconds[f"transform{with_out}"].append(time.perf_counter() - landed)
        warehouse.drop_database(warehouse.database)
    print({what: f"{statistics.median(each):.2f} s" for what, each in seconds.items()})
    for what, step in ((DRIFT, "land"), (DIGESTS, "transform")):
        ratios = [one / other for one, other in zip(seconds[step], seconds[f"{step} blind"], strict=True)]
        note(what, f"{max(0, statistics.median(ratios) - 1) * 100:.1f} %")


@pytest.mark.timeout(3_600)
def test_what_is_fetched_again_unchanged_adds_a_hundredth_at_most(new_warehouse: Callable[[], Warehouse]) -> None:
    grown = []
    with toy_project.enter():
        for days in (1, 100):
            shelf = project.sources()["toy/shelf"]
            share, sizes = refetch(warehouse := new_warehouse(), shelf, 20_000, 100, days)
            print(f"{share:.2%}", {name: each for name, each in sizes.items() if each[0] != each[1]})
            grown.append(share)
            warehouse.drop_database(warehouse.database)
    note(GROWTH, f"{max(grown) * 100:.1f} %")


LAND = """
import re, sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from pipelines import project, settings
from pipelines.landing import bulk_files, land
from pipelines.source import Window
from pipelines.warehouse.database import open_warehouse

source, day = project.sources()["catalog/civitai"], Window(datetime.now(UTC).date())
intake = nullcontext(bulk_files.intake(source, "models", Path(sys.argv[1]), None))
with open_warehouse(settings.load()) as warehouse:
    run = land.land_intake(warehouse, source.streams[0], day.key, intake)
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print(run.counts.created, int(peak[1]) // 1024)
"""
"""Its peak by /proc: that of getrusage begins with the peak of the process that started it."""


def test_memory_is_flat(new_warehouse: Callable[[], Warehouse], many: Path, tmp_path: Path) -> None:
    tenfold = tmp_path / "tenfold.ndjson"
    with tenfold.open("w") as written:
        for each, model in enumerate(map(json.loads, many.read_bytes().splitlines())):
            written.writelines(json.dumps(model | {"id": each * 10 + again}) + "\n" for again in range(10))
    peaks = []
    for file, number_ in ((many, MODELS), (tenfold, 10 * MODELS)):
        warehouse = new_warehouse()
        environment = os.environ | {"DATABASE_URL": warehouse.conninfo}
        command = [sys.executable, "-c", LAND, str(file)]
        done = subprocess.run(command, cwd=project.ROOT, env=environment, capture_output=True, text=True, check=True)
        created, peak = done.stdout.split()
        assert int(created) == number_
        peaks.append(int(peak))
        warehouse.drop_database(warehouse.database)
    note(MEMORY, f"{peaks[0]} MB")
    note(TENFOLD, f"{peaks[1] / peaks[0] * 100:.0f} %")


@pytest.fixture
def toy() -> Iterator[None]:
    with toy_project.enter():
        yield


EVENTS, EVENT_BYTES, USERS = 50_000, 340, 1_000


def event(number: int) -> Json:
    """An event of EVENT_BYTES bytes, of one of twelve months."""
    at = f"2026-{1 + number % 12:02d}-{1 + number % 28:02d}T{number % 24:02d}:00:00Z"
    body = {"events": [{"id": number, "user": number % USERS, "at": at, "kind": "click"}], "more": ""}
    return body | {"more": "x" * (EVENT_BYTES - len(json.dumps(body, separators=(",", ":"))))}


def events(first: int, last: int) -> dict[str, Json]:
    return {f"event {number}": event(number) for number in range(first, last)}


def users() -> dict[str, Json]:
    return {f"user {number}": {"users": [user(number, f"user {number}")]} for number in range(USERS)}


def test_small_events_in_another_order_and_their_size(toy: None, new_warehouse: Callable[[], Warehouse]) -> None:
    seconds: dict[tuple[int, ...], list[float]] = {}
    size, fifth = 0, EVENTS // 5
    for _ in range(ROUNDS):
        for order in ((1, 2, 3, 4, 5), (5, 3, 1, 2, 4)):
            warehouse = new_warehouse()
            recorder = Recorder(warehouse, project.sources()["toy/mail"])
            files = {each: events((each - 1) * fifth, each * fifth) for each in order}
            files[1] |= users()
            started = time.perf_counter()
            for each in order:
                recorder.land_all(files[each])
                recorder.transform()
            seconds.setdefault(order, []).append(time.perf_counter() - started)
            with warehouse.connect() as connection:
                connection.execute("vacuum")
            assert shown(warehouse, "select count(*) from toy.events") == [EVENTS]
            (size,) = shown(warehouse, WAREHOUSE_SIZE)
            warehouse.drop_database(warehouse.database)
    in_order, other = (statistics.median(each) for each in seconds.values())
    print({order: [f"{each:.1f} s" for each in found] for order, found in seconds.items()})
    note(ORDER, f"{other / in_order * 100:.0f} %")
    note(SIZE, f"{size / (EVENTS * EVENT_BYTES) * 100:.0f} %")


WAREHOUSE_SIZE = """
select sum(pg_total_relation_size(c.oid)) from pg_class c join pg_namespace n on n.oid = c.relnamespace
where nspname in ('ops', 'staging', 'toy') and relkind = 'r'
"""


def private_kilobytes(process: int) -> int:
    """Memory of a process that it shares with no other."""
    with suppress(OSError):
        found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
        return int(found[1]) if found else 0
    return 0


def test_a_check_of_many_events_needs_little_memory(toy: None, new_warehouse: Callable[[], Warehouse]) -> None:
    warehouse = new_warehouse()
    recorder = Recorder(warehouse, project.sources()["toy/mail"])
    recorder.land_all(users() | events(0, 4 * EVENTS))
    recorder.transform()
    environment = os.environ | {"DATABASE_URL": warehouse.conninfo}
    command = [sys.executable, "-m", "pipelines.cli.main", "rebuild", "toy", "--check"]
    client, backends = 0, 0
    with subprocess.Popen(command, cwd=toy_project.TOY, env=environment, stdout=subprocess.DEVNULL) as check:
        while check.poll() is None:
            client = max(client, private_kilobytes(check.pid))
            working = "select pid from pg_stat_activity where datname = current_database()"
            backends = max(backends, *map(private_kilobytes, shown(warehouse, working)))
            time.sleep(0.2)
    assert check.returncode == 0
    note(CHECK, f"{client / 1024:.0f} MB")
    note(BACKENDS, f"{backends / 1024:.0f} MB")
    warehouse.drop_database(warehouse.database)


def test_a_parent_that_only_changes_takes_none_of_a_million_children_along(
    toy: None, new_warehouse: Callable[[], Warehouse]
) -> None:
    """Nor are their rows read: all statements of the transform together read fewer than a thousand."""
    warehouse = new_warehouse()
    recorder = Recorder(warehouse, project.sources()["toy/mail"])
    recorder.land_all({"one": {"users": [user(1, "ann")]}} | {"events": {"events": [event(1)]}})
    recorder.transform()
    with warehouse.connect() as connection:
        connection.execute(
            """
            insert into toy.events (event_id, happened_at, record_id, user_id, from_source)
            select ops.key(n::text), timestamptz '2026-02-02' + n * interval '1 second', e.record_id, e.user_id, true
            from toy.events e, generate_series(2, 1000000) n
            """
        )
        connection.execute("vacuum analyze")
    read = "select coalesce(sum(seq_tup_read + idx_tup_fetch), 0) from pg_stat_user_tables where relname ~ '^events_'"
    before = shown(warehouse, read)
    recorder.land("one", {"users": [user(1, "ann", "new@a.example")]})
    run = transform(warehouse, recorder.source, DAYS[0])
    time.sleep(1)  # until the server has counted
    assert (run.counts.updated, run.counts.fetched) == (1, 1)
    assert int(shown(warehouse, read)[0]) - int(before[0]) < USERS
    note(CHILDREN, f"{run.stats['records'] - 1} records")
    warehouse.drop_database(warehouse.database)
