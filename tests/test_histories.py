"""Histories: a small world, changes at any time, increments and sweeps that break off; a clean sweep; all is so.

    seed ──> changes, runs, changes between two pages, crashes, faults ──> a clean sweep ──> tables = source

Real HTTP on loopback, real connectors, real Postgres; only the clock is not, so that hours pass. A failing seed is
repeated with HISTORY=<seed>. `make test-histories` runs HISTORIES=10000 of them.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
import stamina
from psycopg import sql
from psycopg.pq import TransactionStatus
from psycopg.rows import dict_row

from pipelines import examining, fetching, house, landing, listing
from pipelines.errors import AtlasError
from pipelines.landing import Intake
from pipelines.source import Item, Source, Window
from pipelines.transform import transform, waiting
from pipelines.warehouse.engine import OPTIONS, Connection, Warehouse
from tests import hostile
from tests.hostile import Api, Asked, Record, Server

NUMBER = int(os.environ.get("HISTORIES", "40"))
CHUNK = min(NUMBER, 10 if NUMBER <= 100 else 100)
SEEDS = [os.environ["HISTORY"]] if "HISTORY" in os.environ else None
MORNING = datetime(2026, 11, 3, 6, tzinfo=UTC)

Key = tuple[str, str]
"""Kind and id."""


class Stopped(type):
    """Of a clock that stands still, every time is an instance."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, datetime)


class Clock(datetime, metaclass=Stopped):
    """The time of the world and of the program, moved by the history alone."""

    moment = MORNING

    @classmethod
    def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
        cls.moment += timedelta(milliseconds=1)
        return cls.moment


@dataclass(frozen=True)
class Kind:
    """What a source's histories are made of.

    sizes: of pages, by the limit that is asked for. tables: the table that holds the records of a kind, one each, and
    the column that has what no other column has. ordered: kinds of which every change shows at the top. days: whether
    a history may last longer than the day.
    """

    size: Callable[[int], int]
    tables: dict[str, tuple[str, str]]
    ordered: frozenset[str] = frozenset()
    days: bool = True


KINDS = {
    "huggingface": Kind(lambda limit: 3, {"models": ("models", "raw")}, frozenset({"models"})),
    "civitai": Kind(lambda limit: 2 + limit % 99 % 10, {"models": ("models", "raw")}),
    "danbooru": Kind(lambda limit: 3, {"posts": ("images", "metadata")}, frozenset({"posts"}), days=False),
}
SHARES = ["huggingface"] * 4 + ["civitai"] * 4 + ["danbooru"] * 2


class Kept(psycopg.Connection[dict[str, Any]]):
    """Goes back to its pool when it is closed, unless something is wrong with it."""

    pool: list["Kept"]

    def close(self) -> None:
        if self.closed or self.info.transaction_status != TransactionStatus.IDLE:
            super().close()
            return
        self.execute("select pg_advisory_unlock_all()")
        self.pool.append(self)


class Crash(Exception):
    """The process ends in the middle of a page."""


@dataclass
class Seen:
    """What staging holds: the edition of each record, None where it has a tombstone."""

    editions: dict[Key, int | None]

    def alive(self) -> dict[Key, int]:
        return {key: edition for key, edition in self.editions.items() if edition is not None}


@dataclass
class History:
    """One history of one source.

    untouched: records that have been there, as they are, since the landing in progress began. present: those that were
    there at every moment of the run. due: records whose last change an increment must have seen.
    """

    seed: object
    source: Source
    kind: Kind
    api: Api
    server: Server
    warehouse: Warehouse
    draw: random.Random
    log: list[str] = field(default_factory=list)
    gone: dict[Key, Record] = field(default_factory=dict)
    touched: set[Key] = field(default_factory=set)
    present: set[Key] = field(default_factory=set)
    due: set[Key] = field(default_factory=set)
    marked: bool = False
    resumes: bool = False
    resumed: bool = False
    runs: int = 0

    def play(self) -> None:
        for _ in range(self.draw.randint(3, 12)):
            self.change()
        for _ in range(self.draw.randint(1, 4)):
            self.run(sweep=self.draw.random() < 0.4, crash=self.draw.random() < 0.35, faults=self.draw.random() < 0.1)
            if self.draw.random() < 0.15:
                self.transform()
            self.pass_time()
            for _ in range(self.draw.randint(0, 3)):
                self.change()
        self.run(sweep=True, shrink=True, calm=True)
        if self.resumed:  # what was told before it broke off may have changed since then
            self.run(sweep=True, shrink=True, calm=True)
        assert self.seen().alive() == self.world(), "after a clean sweep, staging is what the source is"
        self.transform()
        assert self.rows() == self.world(), "after a clean sweep, the tables are what the source is"

    # What happens

    def world(self) -> dict[Key, int]:
        return {
            (kind, key): record["edition"]
            for kind in self.kind.tables
            for key, record in self.api.records[kind].items()
        }

    def pass_time(self) -> None:
        step = self.draw.choice([0, 1, 200, 1_900, 26_000])
        later = Clock.moment + timedelta(seconds=step)
        if self.kind.days or later.date() == MORNING.date():
            Clock.moment = later

    def change(self) -> None:
        kind = self.draw.choice(list(self.kind.tables))
        records = self.api.records[kind]
        what = self.draw.choices(["make", "change", "delete", "restore", "count"], [35, 35, 15, 7, 8])[0]
        key = self.draw.choice(sorted(records)) if records else ""
        regular = True
        if (what == "make" and len(records) < 12) or not key:
            moment, regular = self.moment()
            key = self.api.make(kind, moment)
        elif what == "change":
            moment, regular = self.moment()
            self.api.change(kind, key, self.not_before(records[key], moment))
        elif what == "count":
            self.api.count(kind, key, self.draw.randint(1, 999))
        elif what == "restore":
            again = [each for each in self.gone if each[0] == kind and each[1] not in records]
            if again:
                key = self.draw.choice(again)[1]
                self.api.restore(kind, key, self.gone[kind, key])
                regular = False
        else:
            self.gone[kind, key] = self.api.delete(kind, key)
        self.log.append(f"{Clock.moment:%d %H:%M:%S} {what} {kind} {key}{'' if regular else ' irregular'}")
        self.touched.add((kind, key))
        self.present.discard((kind, key))
        if what != "count":
            (self.due.add if regular and self.marked else self.due.discard)((kind, key))

    def moment(self) -> tuple[datetime, bool]:
        """When a change is said to be made, and whether that is the truth."""
        which = self.draw.choices(["now", "equal", "late", "ahead"], [60, 15, 15, 10])[0]
        if which == "equal":
            return Clock.moment.replace(second=0, microsecond=0), False
        if which == "late":
            late = Clock.moment - timedelta(minutes=self.draw.randint(1, 4_000 if self.kind.days else 300))
            return late, False
        if which == "ahead":
            return Clock.moment + timedelta(minutes=self.draw.randint(1, 300)), False
        return Clock.moment, True

    @staticmethod
    def not_before(record: Record, moment: datetime) -> datetime:
        """A record's own time never goes back: of two versions landing believes the one that says it is later."""
        told = record.get("lastModified") or record.get("updated_at")
        last = datetime.fromisoformat(told) if told else moment
        return max(moment, last + timedelta(milliseconds=1))

    def between(self, asked: Asked) -> None:
        """What happens while a listing is read."""
        if self.draw.random() < 0.3:
            self.change()
            if self.draw.random() < 0.3:
                self.pass_time()

    # What is done about it

    def run(
        self, *, sweep: bool, crash: bool = False, faults: bool = False, shrink: bool = False, calm: bool = False
    ) -> None:
        """One landing, and what must be true after it however it ended."""
        before, day = self.seen(), Clock.moment.date().isoformat()
        if not self.resumes:
            self.touched = set()
        deletes = len(self.gone)
        self.present = set(self.world())
        self.server.before = hostile.nothing if calm else self.between
        script = hostile.chance(f"{self.seed} {self.runs}", 0.2, hostile.NO_LIMITS)
        self.server.script = script if faults else hostile.nothing
        crash_after = self.draw.randint(0, 12) if crash else 1_000_000
        self.runs += 1
        self.log.append(f"{Clock.moment:%d %H:%M:%S} run sweep={sweep} {crash_after=} {faults=}")
        opened = fetching.opened(self.warehouse, self.source, Window.of(day), "live", sweep=sweep)
        try:
            run = landing.take_in(self.warehouse, self.source, day, self.watched(opened, crash_after), shrink=shrink)
        except (Crash, AtlasError) as error:
            self.log.append(f"    {type(error).__name__}: {error}")
            assert not calm
            assert self.seen() == before, "what fails changes nothing"
            self.resumes = True
            return
        after, world = self.seen(), self.world()
        self.log.append(f"    {run.counts} {run.stats['notes']}")
        dead = after.editions.keys() - after.alive().keys() - (before.editions.keys() - before.alive().keys())
        assert not dead & self.present, "nothing is deleted that was there all the time"
        assert run.counts.quarantined == 0
        untouched = {key: edition for key, edition in world.items() if key not in self.touched}
        # A model that comes just before a first page is asked for more widely hides the one left out behind it.
        if sweep and (calm or not getattr(self.api, "skips", False)):
            lost = {key for key, edition in untouched.items() if after.editions.get(key) != edition}
            assert not lost, "a sweep tells all that was there all the time"
        elif not sweep and not self.resumed:
            due = {key for key in untouched.keys() & self.due if key[0] in self.kind.ordered}
            lost = {key for key in due if after.editions.get(key) != world[key]}
            assert not lost, "an increment tells all that has changed since the last run"
        if len(self.gone) > deletes:  # pages by number move up, and hide a record until a sweep
            self.due -= {key for key in self.due if key[0] == "posts"}
        self.marked, self.resumes = True, False

    @contextmanager
    def watched(self, opened: AbstractContextManager[Intake], crash_after: int) -> Iterator[Intake]:
        """An intake whose items end in a crash after so many."""
        with opened as intake:

            def items(resume: dict[str, dict[str, Any]]) -> Iterator[Item]:
                self.resumed = bool(resume)
                for number, item in enumerate(intake.items(resume)):
                    if number == crash_after:
                        raise Crash
                    yield item

            yield replace(intake, items=items)

    def transform(self) -> None:
        for day in waiting(self.warehouse, self.source):
            run = transform(self.warehouse, self.source, day)
            assert run.counts.quarantined == 0

    def seen(self) -> Seen:
        with self.warehouse.connect() as connection:
            rows = connection.execute(
                """
                select v.stream, v.external_id, (p.body ->> 'edition')::int as edition
                from staging.versions v left join staging.payloads p using (payload_id)
                where v.latest
                """
            ).fetchall()
        kinds = {stream: kind or "models" for kind, stream in self.source.streams.items()}
        seen = {(kinds[row["stream"]], row["external_id"]): row["edition"] for row in rows}
        assert len(seen) == len(rows), "nothing is there twice"
        return Seen(seen)

    def rows(self) -> dict[Key, int]:
        found: dict[Key, int] = {}
        with self.warehouse.connect() as connection:
            for kind, (table, rest) in self.kind.tables.items():
                query = sql.SQL("select external_id, ({} ->> 'edition')::int as edition from catalog.{}")
                rows = connection.execute(query.format(sql.Identifier(rest), sql.Identifier(table))).fetchall()
                found |= {(kind, row["external_id"]): row["edition"] for row in rows}
                assert len({row["external_id"] for row in rows}) == len(rows), "nothing is there twice"
        return found


@pytest.fixture(scope="module")
def pool(new_warehouse: Callable[[], Warehouse]) -> Iterator[Warehouse]:
    made = new_warehouse()
    kept: list[Kept] = []

    class Pooled(Warehouse):
        def connect(self, database: str | None = None) -> Connection:
            if kept:
                return kept.pop()
            options = f"{OPTIONS} -c synchronous_commit=off"
            connection = Kept.connect(
                made.conninfo, autocommit=True, row_factory=dict_row, prepare_threshold=None, options=options
            )
            connection.pool = kept
            return connection

    yield Pooled(made.url)
    for each in kept:
        psycopg.Connection.close(each)
    made.drop_database(made.database)


@pytest.fixture
def no_time_passes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for module in (examining, fetching, landing, listing):
        monkeypatch.setattr(module, "datetime", Clock)
    with stamina.set_testing(True, attempts=2, cap=True):
        yield


def emptied(warehouse: Warehouse) -> None:
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


@pytest.mark.parametrize("chunk", range(-(-NUMBER // CHUNK)) if SEEDS is None else [0])
def test_after_a_clean_sweep_the_tables_are_what_the_source_is(
    chunk: int, pool: Warehouse, no_time_passes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds = SEEDS or [str(number) for number in range(chunk * CHUNK, min((chunk + 1) * CHUNK, NUMBER))]
    started, runs, requests = time.monotonic(), 0, 0
    for seed in seeds:
        draw = random.Random(f"history {seed}")
        stem = draw.choice(SHARES)
        api = hostile.APIS[stem](size=KINDS[stem].size, validators=draw.random() < 0.5)
        if isinstance(api, hostile.CivitAI):
            api.skips = draw.random() < 0.5
        Clock.moment = MORNING
        emptied(pool)
        with Server(api.answer) as server:
            for name, value in hostile.environment({stem: server.url}).items():
                monkeypatch.setenv(name, value)
            source = replace(house.sources()[f"catalog/{stem}"], rate=None)
            history = History(seed, source, KINDS[stem], api, server, pool, draw)
            try:
                history.play()
            except BaseException as error:
                told = "\n".join([*history.log, *(f"{each.target} {each.status}" for each in server.log[-12:])])
                raise AssertionError(f"HISTORY={seed} ({stem}): {error!r}\n{told}") from error
            runs, requests = runs + history.runs, requests + len(server.log)
    took = time.monotonic() - started
    print(
        f"seeds {seeds[0]} to {seeds[-1]}: {runs} runs, {requests} requests, {len(seeds) / took:.1f} histories a second"
    )
