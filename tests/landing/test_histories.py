"""Histories: a small world, changes at any time, increments and refreshes that break off; a full refresh; all is so.

    seed ──> changes, runs, changes between two pages, crashes, faults ──> a full refresh ──> tables = source

The times that the source gives its records may be wrong, absent, in the future, or go back. A source has two listings
where it can, each of which fails by itself. Some records cannot be fetched by their own URL for a while.

Real HTTP on loopback, real connectors, real Postgres; only the clock is not, so that hours pass. A failing seed is
repeated with HISTORY=<seed>. `make test-histories` runs HISTORIES=10000 of them.
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import stamina
from psycopg import sql

from pipelines import project
from pipelines.connectors import listing
from pipelines.errors import AtlasError
from pipelines.landing import extract, land
from pipelines.landing.intake import Intake
from pipelines.source import Item, Source, Window
from pipelines.warehouse.database import Warehouse
from tests import hostile
from tests.hostile import Answer, Api, Asked, Fault, Record, Server
from tests.runs import pending_partitions, stream_of, transform

NUMBER = int(os.environ.get("HISTORIES", "20"))
CHUNK = min(NUMBER, 5 if NUMBER <= 100 else 100)
SEEDS = [os.environ["HISTORY"]] if "HISTORY" in os.environ else None
MORNING = datetime(2036, 11, 3, 6, tzinfo=UTC)
"""When histories begin: Postgres has a clock of its own, which must not be ahead."""


class Stopped(type):
    """Of a clock that a test moves, every time is an instance."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


class Clock(datetime, metaclass=Stopped):
    """The time of the world and of the program: a look at it takes a millisecond, all else is the history's."""

    moment = MORNING

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        cls.moment += timedelta(milliseconds=1)
        return cls.moment


@dataclass(frozen=True)
class World:
    """What a source's histories are made of.

    kind: of the records; each is one row of a table, with a column that keeps what no other column has. other: the
    kind of the other listing, of which records are only made, its path, and the table of its rows. wider: how many
    records more than usual a page holds, by the limit that was asked for; None: a page holds what is asked for. most:
    records that there may be.
    """

    kind: str
    table: str
    rest: str
    other: tuple[str, str, str] | None = None
    wider: Callable[[int], int] | None = lambda limit: 0
    most: int = 12


WORLDS = {
    "huggingface": World("models", "models", "raw"),
    "civitai": World(
        "models",
        "models",
        "raw",
        ("images", "/api/v1/images", "images"),
        wider=lambda limit: 99 - limit if limit < 200 else 0,
    ),
    "danbooru": World("posts", "images", "metadata", ("tags", "/tags.json", "tag_definitions"), wider=None, most=24),
    "e621": World("posts", "images", "metadata", ("tags", "/tags.json", "tag_definitions"), wider=None, most=24),
}
FAR = [datetime(2099, 1, 1, tzinfo=UTC), datetime(2010, 1, 1, tzinfo=UTC)]
"""Times that are wrong."""
UNFETCHED = (500, 401, 403)
"""Statuses of records that cannot be fetched."""
SHARES = ["huggingface"] * 3 + ["civitai"] * 3 + ["danbooru"] * 2 + ["e621"] * 2


class Crash(Exception):
    """The process ends in the middle of a page."""


@dataclass
class History:
    """One history of one source.

    refreshed: the posts of so many days are read by a refresh; what is older, only when its own day is asked for again.
    touched: when each record has changed last. began: when the run's first page was asked for, by it or by the one that
    it goes on for. present: records that have been there at every moment of the run. due: those whose last change the
    next increment must see. gone: as they were last. unfetched: records that cannot be fetched by their own URL, with
    the status. counts: what was seen, in all histories of a test.
    """

    seed: object
    source: Source
    world: World
    api: Api
    server: Server
    warehouse: Warehouse
    draw: random.Random
    refreshed: timedelta
    counts: Counter[str]
    log: list[str] = field(default_factory=list)
    unfetched: dict[str, int] = field(default_factory=dict)
    gone: dict[str, Record] = field(default_factory=dict)
    touched: dict[str, datetime] = field(default_factory=dict)
    began: datetime = MORNING
    present: set[str] = field(default_factory=set)
    due: set[str] = field(default_factory=set)
    marked: bool = False
    resumed: bool = False
    runs: int = 0

    def play(self) -> None:
        draw = self.draw
        for _ in range(draw.randint(3, self.world.most + 2)):
            self.change()
        if self.world.other:
            self.make_other()
            self.run_other()
        for _ in range(draw.randint(1, 4)):
            self.refuse()
            if self.world.other:
                self.make_other()
                self.run_other(fails=draw.random() < 0.4)
            self.run(full_refresh=draw.random() < 0.4, crash=draw.random() < 0.35, faults=draw.random() < 0.1)
            if draw.random() < 0.1:
                self.transform()
            self.pass_time()
            for _ in range(draw.choice([0, 1, 2, 3, 8])):
                self.change()
        self.unfetched = {}
        if self.world.other:
            self.run_other()
        if self.world.wider is None and not self.records:  # of days without posts nothing is concluded
            self.change()
        for day in [None, *self.days_before()]:
            self.run(full_refresh=day is None, calm=True, day=day)
            if self.resumed:  # what was told before it broke off may have changed since then
                self.run(full_refresh=day is None, calm=True, day=day)
            assert not self.resumed
        if getattr(self.api, "skips", False):  # pages of another size each day leave out other records
            for _ in range(6):
                Clock.moment += timedelta(days=1)
                self.run(full_refresh=True, calm=True)
        there = self.there()
        assert {key: told for key, told in self.staged().items() if told} == there, "staging is what the source is"
        self.transform()
        assert self.rows() == there, "the tables are what the source is"
        if self.world.other:
            assert self.rows_of_other() >= self.api.records[self.world.other[0]].keys(), "nothing is lost"

    # What happens

    @property
    def records(self) -> dict[str, Record]:
        return self.api.records[self.world.kind]

    def there(self) -> dict[str, int]:
        """The edition of each record that the source has."""
        return {key: record["edition"] for key, record in self.records.items()}

    def is_refreshed(self, record: Record) -> bool:
        """Whether a refresh of today reads it."""
        return self.world.wider is not None or record["created_at"][:10] >= f"{Clock.moment - self.refreshed:%Y-%m-%d}"

    def days_before(self) -> list[str]:
        """The days of all records that a refresh does not read."""
        return sorted({each["created_at"][:10] for each in self.records.values() if not self.is_refreshed(each)})

    def note(self, what: str) -> None:
        self.log.append(f"{Clock.moment:%d %H:%M:%S} {what}")

    def pass_time(self) -> None:
        Clock.moment += timedelta(seconds=self.draw.choice([0, 1, 200, 1_900, 26_000]))

    def change(self) -> None:
        Clock.now()
        kind, draw = self.world.kind, self.draw
        what = draw.choices(["make", "change", "delete", "restore", "count"], [40, 35, 12, 6, 7])[0]
        key = draw.choice(sorted(self.records)) if self.records else ""
        lost = sorted(self.gone.keys() - self.records.keys())
        place = None
        if (what == "make" and len(self.records) < self.world.most) or not key:
            place = self.moment()
            key = self.api.make(kind, place)
            place = self.without_time(key, place)
        elif what == "change":
            place = self.moment()
            versions = self.records[key].get("modelVersions")
            self.api.change(kind, key, place)
            place = self.without_time(key, place)
            if versions and versions == self.records[key]["modelVersions"]:
                place = None  # an edit, which does not show at the top
        elif what == "restore" and lost:
            key = draw.choice(lost)
            self.api.restore(kind, key, self.gone[key])
        elif what == "delete":
            self.gone[key] = self.api.delete(kind, key)
        else:
            self.api.count(kind, key, draw.randint(1, 999))
            what = "count"
        self.note(f"{what} {key} {'now' if place == Clock.moment else place or ''}")
        self.touched[key] = Clock.now()
        self.present.discard(key)
        if what != "count":
            (self.due.add if self.marked and place == Clock.moment else self.due.discard)(key)

    def moment(self) -> datetime:
        """When a change is said to be made: now, at the same time as another, before, in a while, or far from now."""
        late = 60 if self.refreshed.days == 1 else 15
        which = self.draw.choices(["now", "equal", "late", "ahead", "far"], [60, 15, late, 10, 8])[0]
        if which == "far":
            self.counts["times that are far from now"] += 1
            return self.draw.choice(FAR)
        if which == "equal":
            return Clock.moment.replace(second=0, microsecond=0)
        if which == "late":
            return Clock.moment - timedelta(minutes=self.draw.randint(1, 9_000))
        if which == "ahead":
            return Clock.moment + timedelta(minutes=self.draw.randint(1, 300))
        return Clock.moment

    def without_time(self, key: str, place: datetime) -> datetime | None:
        """The time of a change, or None where it is absent from the record."""
        if self.draw.random() >= 0.08:
            return place
        self.counts["times that are absent"] += 1
        self.api.lose_time(self.world.kind, key)
        return None

    def refuse(self) -> None:
        """From now on other records cannot be fetched by their own URLs."""
        statuses = [each for each in UNFETCHED if (self.source.stem, each) != ("huggingface", 401)]  # which is: gone
        known = sorted(self.records.keys() | self.gone.keys())
        self.unfetched = {
            key: self.draw.choice(statuses)
            for key in known
            if self.draw.random() < (0.3 if key in self.records else 0.8)
        }

    def answer(self, asked: Asked) -> Answer:
        status = self.unfetched.get(asked.path.removesuffix(".json").removeprefix("/api/models/").rpartition("s/")[2])
        return Answer({"error": "not now"}, status) if status else self.api.answer(asked)

    def make_other(self) -> None:
        assert self.world.other
        for _ in range(self.draw.randint(1, 3)):
            Clock.now()
            self.api.make(self.world.other[0], Clock.moment)

    def run_other(self, *, fails: bool = False) -> None:
        """A landing of the other listing, which fails or not by itself, and what the first has stays."""
        assert self.world.other
        kind, path, _ = self.world.other
        before, fault = self.staged(), Fault(self.draw.choice(hostile.NO_LIMITS))
        self.server.before = hostile.nothing
        self.server.script = lambda asked: fault if fails and asked.path == path else None
        day = Clock.moment.date().isoformat()
        stream = stream_of(self.source, kind)
        opened = extract.open_intake(self.warehouse, stream, Window.of(day), "live")
        try:
            land.land_intake(self.warehouse, stream, day, opened)
        except AtlasError as error:
            self.counts["listings that failed singly"] += 1
            self.note(f"{kind}: {type(error).__name__}: {error}")
            assert fails, "on a good day nothing fails"
        assert self.staged() == before, "a listing changes nothing of another"

    def between(self, asked: Asked) -> None:
        """What happens while a listing is read."""
        if self.draw.random() < 0.3:
            self.change()
            if self.draw.random() < 0.3:
                self.pass_time()

    # What is done about it

    def run(
        self,
        *,
        full_refresh: bool,
        crash: bool = False,
        faults: bool = False,
        calm: bool = False,
        day: str | None = None,
    ) -> None:
        """One landing, and what must be true after it however it ended.

        calm: nothing happens meanwhile. day: a past one, instead of today.
        """
        before, day = self.staged(), day or Clock.moment.date().isoformat()
        self.present = set(self.records)
        self.server.before = hostile.nothing if calm else self.between
        script = hostile.chance(f"{self.seed} {self.runs}", 0.2, hostile.NO_LIMITS)
        self.server.script = script if faults else hostile.nothing
        self.runs += 1
        crash_after = self.draw.randint(0, 12) if crash else None
        self.note(f"run {day} {full_refresh=} {crash_after=} {faults=}")
        kind = self.world.kind if self.world.kind in self.source.contracts else None
        stream = stream_of(self.source, kind)
        opened = extract.open_intake(self.warehouse, stream, Window.of(day), "live", full_refresh=full_refresh)
        try:
            run = land.land_intake(self.warehouse, stream, day, self.watched(opened, crash_after), shrink=calm)
        except (Crash, AtlasError) as error:
            self.note(f"{type(error).__name__}: {error}")
            assert not calm, "on a good day nothing fails"
            assert self.staged() == before, "what fails changes nothing"
            return
        after = self.staged()
        self.note(f"{run.counts} {run.stats['notes']}")
        assert run.counts.quarantined == 0
        assert run.status == ("partial_success" if run.stats["unfetched"] else "completed")
        self.counts["records that could not be fetched"] += run.stats["unfetched"]
        self.counts["runs that succeeded in part"] += run.status == "partial_success"
        dead = {key for key, told in after.items() if told is None and before.get(key)}
        self.counts["records deleted"] += len(dead)
        assert not dead & self.present, "nothing is deleted that was there all the time"
        assert not dead & self.unfetched.keys(), "nothing is deleted that cannot be asked for"
        untouched = {key: told for key, told in self.there().items() if self.touched[key] < self.began}
        wrong = {key for key, told in untouched.items() if after.get(key) != told}
        certain = not getattr(self.api, "skips", False)
        if full_refresh:
            missed = {key for key in wrong if self.is_refreshed(self.records[key])}
            assert not (certain and missed), "a full refresh lists all that was there all the time"
        elif not self.resumed:
            assert not (certain and wrong & self.due), "an increment lists all that has come since the last run"
        self.marked = True

    @contextmanager
    def watched(self, opened: AbstractContextManager[Intake], crash_after: int | None) -> Iterator[Intake]:
        """An intake whose items end in a crash after so many."""
        with opened as intake:

            def items(resume: dict[str, dict[str, Any]]) -> Iterator[Item]:
                began = [datetime.fromisoformat(state["started_at"]) for state in resume.values()]
                self.resumed, self.began = bool(resume), min([Clock.now(), *began])
                for number, item in enumerate(intake.items(resume)):
                    if number == crash_after:
                        raise Crash
                    yield item

            yield replace(intake, items=items)

    def transform(self) -> None:
        for day in pending_partitions(self.warehouse, self.source):
            assert transform(self.warehouse, self.source, day, shrink=True).counts.quarantined == 0

    def staged(self) -> dict[str, int | None]:
        """The edition of each record in staging, None where it has a tombstone."""
        with self.warehouse.connect() as connection:
            rows = connection.execute(
                """
                select v.external_id, (p.body ->> 'edition')::int as edition
                from staging.versions v left join staging.payloads p using (payload_id)
                where v.latest and v.stream = %s
                """,
                [self.source.stream_names.get(self.world.kind, self.source.name)],
            ).fetchall()
        assert len({row["external_id"] for row in rows}) == len(rows), "nothing is there twice"
        return {row["external_id"]: row["edition"] for row in rows}

    def rows(self) -> dict[str, int]:
        """The edition of each record in its table."""
        with self.warehouse.connect() as connection:
            query = sql.SQL("select external_id, ({} ->> 'edition')::int as edition from catalog.{}")
            rows = connection.execute(
                query.format(sql.Identifier(self.world.rest), sql.Identifier(self.world.table))
            ).fetchall()
        assert len({row["external_id"] for row in rows}) == len(rows), "nothing is there twice"
        return {row["external_id"]: row["edition"] for row in rows}

    def rows_of_other(self) -> set[str]:
        """The ids of the records of the other listing that have rows."""
        assert self.world.other
        kind, _, table = self.world.other
        query = sql.SQL(
            "select v.external_id from catalog.{} join staging.versions v using (record_id) where stream = %s"
        )
        with self.warehouse.connect() as connection:
            rows = connection.execute(query.format(sql.Identifier(table)), [self.source.stream_names[kind]])
            return {row["external_id"] for row in rows}


@pytest.fixture(scope="module")
def pool(new_warehouse: Callable[[], Warehouse]) -> Iterator[Warehouse]:
    """One warehouse for all histories of a worker."""
    made = new_warehouse()
    yield made
    made.drop_database(made.database)


@pytest.fixture
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (extract, listing):
        monkeypatch.setattr(module, "datetime", Clock)
    monkeypatch.setattr(land.DatabaseClock, "now", lambda _: Clock.now())
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


def empty(warehouse: Warehouse) -> None:
    """Takes away what the history before has left, faster than TRUNCATE does."""
    with warehouse.connect() as connection, connection.transaction():
        connection.execute("set local session_replication_role to replica")
        for table in connection.execute(
            "select schemaname, tablename from pg_tables where schemaname in ('catalog', 'staging')"
        ).fetchall():
            connection.execute(
                sql.SQL("delete from {}").format(sql.Identifier(table["schemaname"], table["tablename"]))
            )
        connection.execute("delete from ops.fetch_runs")


def of_seed(
    seed: str, warehouse: Warehouse, server: Server, monkeypatch: pytest.MonkeyPatch, counts: Counter[str]
) -> History:
    """The history that a seed stands for."""
    draw = random.Random(f"history {seed}")
    stem, usual = draw.choice(SHARES), draw.randint(1, 4)
    world = WORLDS[stem]
    wider = world.wider
    refreshed = timedelta(days=draw.choice([1, 30]))
    if wider is None:
        monkeypatch.setattr(f"assets.catalog.{stem}.PAGE_SIZE", usual + 6)
        monkeypatch.setattr(f"assets.catalog.{stem}.LAST_PAGE", 50)
        monkeypatch.setattr("assets.catalog._booru.REFRESHED", refreshed)
    api = hostile.APIS[stem](
        size=lambda limit: usual + wider(limit) if wider else limit, validators=draw.random() < 0.5
    )
    if isinstance(api, hostile.CivitAI):
        api.skips = draw.random() < 0.5
    source = replace(project.sources()[f"catalog/{stem}"], rate=None)
    history = History(seed, source, world, api, server, warehouse, draw, refreshed, counts)
    server.answer = history.answer
    return history


@pytest.mark.parametrize("chunk", range(-(-NUMBER // CHUNK)) if SEEDS is None else [0])
@pytest.mark.sample(1)
def test_after_a_full_refresh_the_tables_are_what_the_source_is(
    chunk: int, pool: Warehouse, no_time_passes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = SEEDS or [str(number) for number in range(chunk * CHUNK, min((chunk + 1) * CHUNK, NUMBER))]
    started, runs, counts = time.monotonic(), 0, Counter[str]()
    with Server(lambda _: hostile.Answer({}, 404)) as server:
        for name, value in hostile.environment(dict.fromkeys(WORLDS, server.url)).items():
            monkeypatch.setenv(name, value)
        for seed in seeds:
            Clock.moment = MORNING
            empty(pool)
            asked_before = len(server.log)
            history = of_seed(seed, pool, server, monkeypatch, counts)
            try:
                history.play()
            except BaseException as error:
                asked = [f"{each.target} {each.status}" for each in server.log[asked_before:]]
                told = "\n".join([*history.log, *asked])
                raise AssertionError(f"HISTORY={seed} ({history.source.stem}): {error!r}\n{told}") from error
            runs += history.runs
    rate = len(seeds) / (time.monotonic() - started)
    print(f"seeds {seeds[0]} to {seeds[-1]}: {runs} runs, {len(server.log)} requests, {rate:.1f} histories a second")
    print(", ".join(f"{number} {name}" for name, number in sorted(counts.items())))
