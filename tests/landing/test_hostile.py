"""Sources on their worst days, through the real client, the real connectors and a real Postgres.

Whatever a source does, no table gets shorter by it, nobody is asked more than allowed, and the next good day makes up
for it. Each test serves the hostile fake of an API (tests/hostile.py) on loopback; faults are drawn by seeds.
"""

import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import stamina
from psycopg import sql

from pipelines import project
from pipelines.connectors.listing import MAX_IDLE_PAGES
from pipelines.connectors.retries import ATTEMPTS
from pipelines.errors import AtlasError, SourceFault
from pipelines.landing import extract, land
from pipelines.landing.intake import Intake
from pipelines.ledger import Run
from pipelines.source import Item, Source, Window
from pipelines.warehouse.database import Warehouse
from tests import hostile
from tests.hostile import Api, Asked, CivitAI, Faithless, Fault, Ollama, Server
from tests.launcher import Atlas
from tests.runs import pending_partitions, together, transform

LISTED = ["civitai", "danbooru", "e621", "huggingface"]
EVERY = [*LISTED, "ollama"]
PAGE = 3
PAGE_OF_POSTS = 7
"""Of a booru, which tells as many as are asked for: smaller ones could not overlap."""


def pages_of(size: int) -> Callable[[int], int]:
    """A small page for a usual limit, and for one more one more; a booru is asked for small ones itself."""
    usual = {99, 200, 320, 1000}
    return lambda limit: limit if limit < 50 else size + (limit not in usual)


@dataclass
class Site:
    """A source and the fake that it is read from, into one warehouse."""

    source: Source
    api: Api
    server: Server
    warehouse: Warehouse

    @property
    def today(self) -> str:
        return datetime.now(UTC).date().isoformat()

    def make(self, number: int, *, minutes_ago: float = 0) -> None:
        """More records of each kind, the later the newer; what is listed and what is shown have one name."""
        for each in range(number):
            moment = datetime.now(UTC) - timedelta(minutes=minutes_ago, seconds=number - each)
            at = self.api.number
            for kind in self.api.kinds:
                self.api.number = at
                self.api.make(kind, moment)

    def land(
        self,
        *,
        full_refresh: bool = False,
        shrink: bool = False,
        crash_after: int | None = None,
        source: Source | None = None,
        streams: int | None = None,
    ) -> Run:
        """Lands a day of the streams of a source, or of the first ones alone."""
        source = source or self.source
        runs = []
        for stream in source.streams[:streams]:
            window = Window.of(self.today)
            opened = extract.open_intake(self.warehouse, stream, window, "live", full_refresh=full_refresh)
            runs.append(
                land.land_intake(self.warehouse, stream, self.today, breaking_off(opened, crash_after), shrink=shrink)
            )
        return together(runs)

    def load(self, **more: Any) -> Run:
        """Lands and transforms; the landing."""
        run = self.land(**more)
        for day in pending_partitions(self.warehouse, self.source):
            assert transform(self.warehouse, self.source, day, shrink=True).counts.quarantined == 0
        return run

    def requests(self) -> int:
        """How many came since the last look."""
        number = len(self.server.log)
        self.server.log.clear()
        return number

    def held(self) -> dict[str, list[str]]:
        """Place and transaction of every tuple of staging and the domain: what a run that writes nothing leaves."""
        held = {}
        with self.warehouse.connect() as connection:
            for row in connection.execute(
                "select schemaname, tablename from pg_tables where schemaname in ('catalog', 'staging')"
            ).fetchall():
                name = sql.Identifier(row["schemaname"], row["tablename"])
                query = sql.SQL("select ctid || ' ' || xmin::text as tuple from {} order by 1").format(name)
                held[f"{row['schemaname']}.{row['tablename']}"] = [each["tuple"] for each in connection.execute(query)]
        return held

    def records(self) -> dict[str, set[str]]:
        """Ids of the records that are there, by kind."""
        kinds = {stream: kind or self.api.kinds[0] for kind, stream in self.source.stream_names.items()}
        found: dict[str, set[str]] = {kind: set() for kind in self.api.kinds}
        with self.warehouse.connect() as connection:
            for row in connection.execute(
                "select stream, external_id from staging.versions where latest and payload_id is not null"
            ):
                found[kinds[row["stream"]]].add(row["external_id"])
        return found

    def world(self) -> dict[str, set[str]]:
        return {kind: set(records) for kind, records in self.api.records.items()}

    def forget(self) -> None:
        """Empties staging, as if nothing had been landed."""
        with self.warehouse.connect() as connection:
            connection.execute("truncate ops.fetch_runs, staging.checkpoints, staging.versions cascade")

    def last_run(self) -> dict[str, Any]:
        with self.warehouse.connect() as connection:
            row = connection.execute("select * from ops.fetch_runs order by fetch_run_id desc limit 1").fetchone()
        assert row is not None
        return row


class Crash(Exception):
    """The process ends in the middle of a listing."""


@contextmanager
def breaking_off(opened: Any, after: int | None) -> Iterator[Intake]:
    with opened as intake:

        def items(resume: dict[str, dict[str, Any]]) -> Iterator[Item]:
            for number, item in enumerate(intake.items(resume)):
                if number == after:
                    raise Crash
                yield item

        yield replace(intake, items=items)


Open = Callable[..., Site]


@pytest.fixture
def opened(new_warehouse: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens a site: an API with a few records on a server of its own, with a warehouse of its own."""
    with ExitStack() as stack:

        def make(
            stem: str, *, size: int = PAGE, records: int = 7, validators: bool = False, rate: float | None = None
        ) -> Site:
            api = hostile.APIS[stem](size=pages_of(size), validators=validators)
            if isinstance(api, hostile.Booru):
                monkeypatch.setattr(f"assets.catalog.{stem}.PAGE_SIZE", max(size, PAGE_OF_POSTS))
                monkeypatch.setattr(f"assets.catalog.{stem}.LAST_PAGE", 50)
            server = stack.enter_context(Server(api.answer))
            for name, value in hostile.environment({stem: server.url}).items():
                monkeypatch.setenv(name, value)
            warehouse = new_warehouse()
            stack.callback(warehouse.drop_database, warehouse.database)
            site = Site(replace(project.sources()[f"catalog/{stem}"], rate=rate), api, server, warehouse)
            site.make(records)
            return site

        yield make


def from_number(number: int, fault: Fault) -> hostile.Script:
    return lambda asked: fault if asked.number >= number else None


@pytest.fixture
def at_once() -> Iterator[None]:
    with stamina.set_testing(True, attempts=ATTEMPTS):
        yield


# Good days


@pytest.mark.parametrize("stem", EVERY)
def test_everything_arrives_and_with_nothing_new_nothing_is_written(opened: Open, stem: str) -> None:
    site = opened(stem, size=200)
    site.load(full_refresh=True)
    assert site.records() == site.world()
    before = site.held()
    assert sum(map(len, before.values())) > 20
    site.requests()
    run = site.load()
    assert site.held() == before
    assert (run.counts.created, run.counts.updated, run.counts.deleted) == (0, 0, 0)
    # A look across a border, and an empty page at the end of each listing of a booru.
    expected = {"civitai": 2, "danbooru": 4, "e621": 4, "huggingface": 1, "ollama": 9}
    assert site.requests() <= expected[stem]


@pytest.mark.parametrize("stem", ["civitai", "huggingface"])
def test_an_increment_brings_what_is_new_and_asks_for_no_more(opened: Open, stem: str) -> None:
    site = opened(stem, records=0)
    for minutes in range(100, 190, 3):
        site.api.make("models", datetime.now(UTC) - timedelta(minutes=minutes))
    site.land(full_refresh=True)
    whole = site.requests()
    site.make(2)
    run = site.land()
    assert run.counts.created == 2 * len(site.api.kinds)
    assert site.records() == site.world()
    assert site.requests() <= whole / 2


def test_an_unchanged_library_costs_one_304(opened: Open) -> None:
    site = opened("ollama")
    site.load()
    before = site.held()
    site.server.log.clear()
    run = site.load()
    (library,) = [each for each in site.server.log if each.path == Ollama.LIBRARY]
    assert library.status == 304
    assert site.held() == before
    assert run.stats["notes"]["listings unchanged"] == 1
    site.api.delete("library", next(iter(site.api.records["library"])))
    assert [site.load().counts.deleted for _ in range(2)] == [0, 1]


def test_an_unchanged_listing_costs_an_increment_one_304(opened: Open) -> None:
    site = opened("huggingface", validators=True)
    site.load(full_refresh=True)
    before = site.held()
    site.server.log.clear()
    assert site.load().counts.fetched == 0
    assert [each.status for each in site.server.log] == [304]
    assert site.held() == before
    site.make(1, minutes_ago=0)
    assert site.load().counts.created == 1


# Bad answers


@pytest.mark.parametrize("where", ["first", "second", "last"])
@pytest.mark.parametrize("stem", EVERY)
@pytest.mark.sample(3)
def test_no_fault_at_any_place_makes_a_table_shorter(opened: Open, at_once: None, stem: str, where: str) -> None:
    """What fails publishes nothing, and where only questions for single records fail, nothing is deleted; the next good
    day has everything, deletions too.
    """
    site = opened(stem)
    site.load(full_refresh=True)
    site.make(2)
    for kind in ("models", "posts", "local", "shown"):
        if kind in site.api.kinds:
            site.api.delete(kind, min(site.api.records[kind]))
    before, draw = site.held(), random.Random(f"{stem} {where}")
    for name in draw.sample([*hostile.NO_LIMITS, "503 for seconds"], 2):
        with site.warehouse.connect() as connection:
            connection.execute("truncate staging.checkpoints")
        site.requests()
        site.server.script = from_number({"first": 0, "second": 1, "last": 3}[where], Fault(name, 0.01))
        with suppress(AtlasError):
            site.land(full_refresh=True, streams=1)
            before = site.held()
            kind = site.api.kinds[0]
            assert site.world()[kind] <= site.records()[kind]
        after = site.held()
        kept = {"staging.payloads", "staging.checkpoints", "staging.arrivals", "staging.rejects"}
        assert {table for table in before if before[table] != after[table]} <= kept, name
    site.server.script = hostile.nothing
    site.load(full_refresh=True)
    assert site.records() == site.world()


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.sample(2)
def test_faults_that_pass_cost_requests_and_nothing_else(opened: Open, at_once: None, seed: int) -> None:
    stem = EVERY[seed % len(EVERY)]
    site = opened(stem, records=9)
    site.server.script = hostile.chance(seed, 0.2, hostile.NO_LIMITS)
    site.load(full_refresh=True)
    assert site.records() == site.world()


@pytest.mark.parametrize(
    "fault",
    [Faithless(repeats=1), Faithless(endless=1), Faithless(endless=0)],
    ids=["a cursor again", "new ones", "from the start"],
)
@pytest.mark.parametrize("stem", ["civitai", "huggingface"])
@pytest.mark.sample(2)
def test_a_listing_without_end_stops_in_words(opened: Open, stem: str, fault: Faithless) -> None:
    site = opened(stem)
    site.load(full_refresh=True)
    before = site.records()
    site.requests()
    path = {"civitai": "/api/v1/models", "huggingface": "/api/models"}[stem]
    site.api.faithless[path] = fault
    with pytest.raises(SourceFault, match=r"repeats itself|does not come to an end"):
        site.load(full_refresh=True)
    assert site.requests() <= 2 * (MAX_IDLE_PAGES + 1)  # each with a look across the border
    assert site.last_run()["status"] == "failed"
    assert site.records() == before
    site.api.faithless.clear()
    site.load(full_refresh=True)
    assert site.records() == site.world()


@pytest.mark.parametrize("stem", ["civitai", "huggingface"])
def test_an_empty_page_with_a_next_one_is_no_end(opened: Open, stem: str) -> None:
    site = opened(stem)
    path = {"civitai": "/api/v1/models", "huggingface": "/api/models"}[stem]
    site.api.faithless[path] = Faithless(hollow=frozenset({0, 1, 3}))
    site.load(full_refresh=True)
    assert site.records() == site.world()


def test_a_listing_that_is_empty_by_mistake_deletes_nothing(opened: Open) -> None:
    site = opened("huggingface")
    site.load(full_refresh=True)
    before, records = site.records(), site.api.records["models"]
    site.api.records["models"] = {}
    with pytest.raises(SourceFault, match="--shrink"):
        site.load(full_refresh=True)
    assert site.records() == before
    site.api.records["models"] = records
    assert site.load(full_refresh=True).counts.deleted == 0


# Left alone


@pytest.mark.long("runs against a source with faults")
def test_two_runs_at_once_obey_and_keep_to_the_rate(opened: Open) -> None:
    """Both are told to wait, in seconds and until a date; neither asks before, nor faster than allowed."""
    site = opened("civitai", records=12, rate=25)
    site.server.script = hostile.at(
        {3: Fault("429 for seconds", 0.4), 7: Fault("429 until a date", 0.2), 8: Fault("429"), 12: Fault("reset")}
    )
    runs: list[Run] = []
    threads = [threading.Thread(target=lambda: runs.append(site.land(full_refresh=True))) for _ in range(2)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert [run.status for run in runs] == ["completed", "completed"]
    assert len(site.server.log) > 16
    assert site.server.hammered() == []
    assert site.server.faster_than(25) == []
    assert site.records() == site.world()


@pytest.mark.long("keeps to an operator's rate")
def test_two_processes_at_once_obey_and_keep_to_the_rate(opened: Open) -> None:
    """As above with the command itself, and the rate that Danbooru's operator allows."""
    site = opened("danbooru", size=2, records=12)
    site.server.script = hostile.at({4: Fault("429 for seconds", 0.5), 9: Fault("429 until a date", 0.3)})
    environment = os.environ | {"DATABASE_URL": site.warehouse.conninfo}
    program = (
        "from pipelines import project, settings; from pipelines.landing import extract, land; "
        "from pipelines.source import Window; "
        "from pipelines.warehouse.database import open_warehouse as warehouse_of; from assets.catalog import danbooru; "
        "danbooru.PAGE_SIZE, danbooru.LAST_PAGE = 7, 50; "
        f"source, window = project.sources()['catalog/danbooru'], Window.of('{site.today}'); "
        "w = warehouse_of(settings.load()).__enter__(); "
        "[land.land_intake(w, each, window.key, extract.open_intake(w, each, window, 'live', full_refresh=True)) "
        "for each in source.streams]"
    )
    running = [subprocess.Popen([sys.executable, "-c", program], cwd=project.ROOT, env=environment) for _ in range(2)]
    assert [each.wait(timeout=60) for each in running] == [0, 0]
    assert len(site.server.log) > 24
    assert site.server.hammered() == []
    assert site.server.faster_than(10) == []
    assert site.records() == site.world()


def test_a_ban_ends_the_run_as_deferred_and_the_next_one_asks_nothing(opened: Open) -> None:
    site = opened("huggingface", records=9)
    site.server.script = hostile.at({1: Fault("429 for seconds", 3600)})
    with pytest.raises(AtlasError, match="deferred: "):
        site.load(full_refresh=True)
    assert site.requests() == 2
    last = site.last_run()
    assert (last["status"], last["error_text"][:10]) == ("failed", "deferred: ")
    for _ in range(2):
        with pytest.raises(AtlasError, match="accepts no requests until"):
            site.load(full_refresh=True)
    assert site.requests() == 0
    with site.warehouse.connect() as connection:
        connection.execute("update ops.rate_limits set blocked_until = now()")
    site.server.script = hostile.nothing
    site.load(full_refresh=True)
    assert site.requests() == 2, "of three pages the first had been landed"
    assert site.records() == site.world()


@pytest.mark.long("runs against a source with faults")
@pytest.mark.parametrize("hours", [5, -5])
def test_a_clock_that_is_wrong_misses_nothing(opened: Open, hours: int) -> None:
    """What is new is told again and again where it is ahead, never missed; dates to wait for are understood."""
    skew = timedelta(hours=hours)
    site = opened("huggingface", records=0)
    site.server.skew = skew
    for number in range(3):
        site.api.make("models", datetime.now(UTC) + skew)
        site.api.change("models", min(site.api.records["models"]), datetime.now(UTC) + skew)
        site.server.script = hostile.at({len(site.server.log): Fault("429 until a date", 0.1)} if number else {})
        site.load(full_refresh=not number)
        assert site.records() == site.world()
    assert site.server.hammered() == []


# Broken off


@pytest.mark.parametrize("stem", LISTED)
@pytest.mark.sample(2)
def test_a_run_that_broke_off_fetches_at_most_one_page_again(opened: Open, stem: str) -> None:
    site = opened(stem)
    items = site.land(full_refresh=True).counts.fetched + 12
    needed = site.requests()
    for crash_after in range(2, items, PAGE + 1):
        site.forget()
        site.requests()
        try:
            site.land(full_refresh=True, crash_after=crash_after)
        except Crash:
            site.land(full_refresh=True)
        assert site.requests() <= needed + 1, crash_after
        assert site.records() == site.world(), crash_after


@pytest.mark.long("runs against a source with faults")
def test_a_run_that_breaks_off_again_and_again_comes_to_its_end(opened: Open) -> None:
    """Each gets one page further, and asks for one."""
    site = opened("danbooru", records=9)
    for _ in range(20):
        with suppress(Crash):
            site.load(full_refresh=True, crash_after=PAGE_OF_POSTS + 5)
    assert site.records() == site.world()


# Between two pages


def test_a_record_that_the_listing_leaves_out_between_two_pages_is_not_deleted(opened: Open) -> None:
    site = opened("civitai", records=16)
    site.load(full_refresh=True)
    assert isinstance(site.api, CivitAI)
    site.api.skips = True
    run = site.load(full_refresh=True)
    assert (run.counts.deleted, run.stats["notes"]["missing from a full scan, fetched by id"] >= 3) == (0, True)
    assert site.records() == site.world()


@pytest.mark.parametrize("stem", LISTED)
def test_records_that_move_during_a_sweep_are_neither_lost_nor_deleted(opened: Open, stem: str) -> None:
    site = opened(stem, records=12)
    site.load(full_refresh=True)
    draw = random.Random(stem)
    kind = site.api.kinds[0]

    def move(_: Asked) -> None:
        site.api.change(kind, draw.choice(sorted(site.api.records[kind])), datetime.now(UTC))

    site.server.before = move
    run = site.load(full_refresh=True)
    assert run.counts.deleted == 0
    assert site.records() == site.world()


def test_equal_times_across_the_border_of_a_page_lose_nothing(opened: Open) -> None:
    for stem in ("huggingface", "civitai"):
        site = opened(stem, records=0)
        moment = datetime.now(UTC)
        for _ in range(8):
            site.api.make("models", moment)
        site.load()
        for _ in range(5):
            site.api.make("models", moment)
        site.load()
        assert site.records() == site.world()


# Gone


@pytest.mark.long("runs against a source with faults")
@pytest.mark.parametrize("stem", ["civitai", "huggingface"])
def test_a_record_is_deleted_when_its_own_url_says_so_and_not_before(opened: Open, at_once: None, stem: str) -> None:
    site = opened(stem, records=9)
    site.load(full_refresh=True)
    gone, hidden = sorted(site.api.records["models"])[:2]
    deleted = site.api.delete("models", gone)
    kept = site.api.records["models"].pop(hidden)  # told by its own URL alone
    usual = site.api.answer

    def answer(asked: Asked) -> hostile.Answer:
        return hostile.Answer(kept) if asked.path.endswith(hidden) else usual(asked)

    site.server.answer = answer
    before = site.records()
    for name in ("500", "HTML", "reset", "an error with status 200"):
        fault = Fault(name)
        site.server.script = lambda asked, fault=fault: fault if asked.path.endswith(gone) else None  # type: ignore[misc]
        run = site.load(full_refresh=True)
        assert (run.status, run.stats["unfetched"]) == ("partial_success", 1)
        assert site.records() == before, name
    site.server.script = hostile.nothing
    assert site.load(full_refresh=True).counts.deleted == 1
    assert site.records()["models"] == before["models"] - {gone}
    site.api.restore("models", gone, deleted)
    assert site.load(full_refresh=True).counts.created == 1
    assert site.records() == before


def test_a_contact_is_wanted_and_sent(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    site = opened("e621")
    site.land()
    assert {each.headers["user-agent"] for each in site.server.log} == {"modelatlas/0.1 (tests@atlas.example)"}
    monkeypatch.delenv("ATLAS_CONTACT")
    site.requests()
    with pytest.raises(AtlasError, match="Set ATLAS_CONTACT"):
        site.land()
    assert site.requests() == 0


# All of it


@pytest.mark.parametrize(
    "stems", [("civitai", "ollama"), ("danbooru", "huggingface"), ("e621", "comfyui")], ids=" ".join
)
@pytest.mark.long("keeps to the rates of operators")
@pytest.mark.sample(1)
def test_the_command_fills_every_table_from_every_fake(
    warehouse: Warehouse, atlas: Atlas, tmp_path: Path, stems: tuple[str, ...]
) -> None:
    names = [f"catalog/{stem}" for stem in stems]
    apis = {stem: hostile.APIS[stem]() for stem in stems if stem in EVERY}
    with ExitStack() as stack:
        servers = {stem: stack.enter_context(Server(api.answer)) for stem, api in apis.items()}
        for api in apis.values():
            api.load()
        graphs = tmp_path / "workflows"
        graphs.mkdir()
        node = {"id": 1, "type": "CLIPTextEncode", "widgets_values": ["a lighthouse"]}
        (graphs / "one.json").write_text(json.dumps({"nodes": [node], "links": [], "version": 0.4}))
        environment = hostile.environment({stem: server.url for stem, server in servers.items()})
        atlas("run", *names, "--live", ATLAS_COMFYUI_BASE_URL=str(graphs), **environment)
    empty = []
    with warehouse.connect() as connection:
        for source in map(project.sources().__getitem__, names):
            for select in project.selects(source.name):
                table = sql.Identifier("catalog", select.table.name)
                if "source_id" in select.table.columns:
                    query = sql.SQL("select 1 from {} where source_id = ops.key({}) limit 1")
                else:
                    query = sql.SQL(
                        "select 1 from {} join staging.versions using (record_id) where stream like {} || '%%' limit 1"
                    )
                if not connection.execute(query.format(table, sql.Literal(source.name))).fetchone():
                    empty.append(f"{source.name}: {select.table.name}")
    assert empty == []
