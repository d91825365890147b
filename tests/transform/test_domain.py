"""Histories of a domain in which three sources and an application name the same users.

After each transform the tables are what the model (tests/transform/domain_model.py) makes of all records and rows at
once, and derived again they are the same.
"""

import os
import random
import shutil
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipelines import project
from pipelines.lineage import rebuild, trace
from pipelines.maintenance import erasure
from pipelines.schema.declare import metadata
from pipelines.schema.table_spec import TableSpec
from pipelines.transform import run as run_module
from pipelines.transform import table_digests
from pipelines.warehouse.database import Warehouse
from tests.library import DAYS, Recorder, empty, rows
from tests.runs import pending_partitions, stream_of, transform
from tests.toy_project import TOY
from tests.transform.domain_model import TABLES, Body, Model

pytestmark = pytest.mark.usefixtures("toy")

EXAMPLES = 200 if "SAMPLES" in os.environ else 5
NAMES = ["ann", "Ann", "bob", "cid"]
UUIDS = [f"0199a0b0-0000-7000-8000-00000000000{number}" for number in range(3)]
TIMES = [f"{day} 12:00:00+00" for day in ("2026-09-30", "2026-10-01", "2026-11-25", "2001-01-01", "2120-01-01")]
EMAILS = [None, None, "ann@a.example", "ANN@a.example", "bob@a.example"]


REFUSED = (psycopg.IntegrityError, psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable)
NOT_IN_MODEL = {
    *("record_id", "created_at", "updated_at", "is_active", "title", "slug", "words", "labels", "embedding"),
}
"""Columns that other tests look at."""


class History:
    """A warehouse, its model, and the dice that say what happens next."""

    def __init__(self, warehouse: Warehouse, dice: random.Random) -> None:
        self.warehouse, self.dice, self.model = warehouse, dice, Model()
        for source in ("toy/forum", "toy/mail"):
            shutil.copy(TOY / "sql" / source / "events.sql", project.SQL / source)
        project.selects.cache_clear()
        sources = project.sources()
        self.recorders = {name: Recorder(warehouse, sources[name]) for name in ("toy/forum", "toy/mail", "toy/staff")}
        self.landed: dict[str, dict[str, Body | None]] = {name: {} for name in self.recorders}
        self.done: list[str] = []

    def body(self, source: str) -> Body:
        dice = self.dice
        if source == "toy/staff":
            return {"users": [{"id": dice.choice(UUIDS), "username": dice.choice(NAMES), "email": dice.choice(EMAILS)}]}
        user = (lambda: dice.choice(NAMES)) if source == "toy/forum" else (lambda: dice.randint(1, 3))
        users = [
            {"id": dice.randint(1, 3), "username": dice.choice(NAMES), "email": dice.choice(EMAILS)}
            for _ in range(dice.choice([0, 1, 1, 2]))
        ]
        folders = [
            {"id": each, "user": user(), "parent": dice.choice([None, 1, 2, 3]), "name": "f"}
            for each in dice.sample([1, 2, 3], dice.choice([0, 0, 1, 2]))
        ]
        posts = [
            {
                "id": each,
                "user": user(),
                "folder": dice.choice([None, 1, 2]),
                "number": dice.randint(1, 3),
                "pinned": dice.random() < 0.2,
            }
            for each in dice.sample([1, 2, 3, 4], dice.choice([0, 1, 2, 3]))
        ]
        # Two rows of one record that claim one key are rejected, which other tests look at.
        users = without_repetition(users, lambda each: (each["id"], each["username"].lower(), lower(each["email"])))
        numbered = without_repetition(posts, lambda each: ((each["user"], each["number"]),))
        posts = [
            each | {"pinned": each["pinned"] and each is next(p for p in numbered if p["user"] == each["user"])}
            for each in numbered
        ]
        events = [
            {"id": each, "user": user(), "at": dice.choice(TIMES), "kind": dice.choice("xy")}
            for each in dice.sample([1, 2, 3], dice.choice([0, 0, 1, 2]))
        ]
        return {"users": users, "folders": folders, "posts": posts, "events": events}

    def step(self) -> None:
        often = [self.land, self.transform, self.write]
        self.dice.choice([*often, *often, *often, self.delete, self.delete, self.erase, self.edit])()

    def land(self) -> None:
        source, name = self.dice.choice(list(self.recorders)), self.dice.choice("abc")
        body = self.body(source)
        self.done.append(f"land {source} {name} {body}")
        self.recorders[source].land(name, body)
        self.landed[source][name] = body

    def delete(self) -> None:
        source = self.dice.choice(list(self.recorders))
        there = [name for kind, name in self.recorders[source].now]
        if there:
            name = self.dice.choice(there)
            self.done.append(f"delete {source} {name}")
            self.recorders[source].full_refresh(name)
            self.landed[source][name] = None

    def erase(self) -> None:
        """Erases a record, which may land again."""
        source = self.dice.choice(list(self.recorders))
        there = [name for _, name in self.recorders[source].now]
        if there:
            name = self.dice.choice(there)
            self.done.append(f"erase {source} {name}")
            erasure.erase(self.warehouse, stream_of(project.sources()[source]), source, name)
            assert erasure.lift(self.warehouse, source, name)
            self.recorders[source].now.pop(("", name))
            self.landed[source].pop(name, None)
            self.model.erase(source, name)
            self.compare()

    def edit(self) -> None:
        """Changes a SELECT file, and applies it."""
        source = self.dice.choice(["toy/forum", "toy/mail"])
        self.model.marks[source] = self.dice.choice(["", "!", "?"])
        self.done.append(f"edit {source} {self.model.marks[source]}")
        text = (TOY / "sql" / source / "events.sql").read_text()
        marked = text.replace("e.kind", f"e.kind || '{self.model.marks[source]}' as kind")
        (project.SQL / source / "events.sql").write_text(marked)
        project.selects.cache_clear()
        self.transform(source)

    def transform(self, source: str | None = None) -> None:
        source = source or self.dice.choice(list(self.recorders))
        if DAYS[0] not in pending_partitions(self.warehouse, project.sources()[source]):
            return
        self.done.append(f"transform {source}")
        meanwhile: list[Callable[[], None]] = []
        record = run_module.record_applied

        def record_applied(*arguments: Any) -> None:
            if self.dice.random() < 0.3:
                self.done.append("meanwhile")
                meanwhile.append(self.written())
            record(*arguments)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_module, "record_applied", record_applied)
            transform(self.warehouse, project.sources()[source], DAYS[0], shrink=True)
        for name, body in self.landed[source].items():
            if body is None:
                self.model.records.pop((source, name), None)
            else:
                self.model.records[source, name] = body
        self.landed[source].clear()
        self.model.transform()
        for change in meanwhile:
            change()
        self.compare()

    def write(self) -> None:
        """An application writes."""
        self.written()()

    def written(self) -> Callable[[], None]:
        """What an application has written, for the model. What the database refuses has not happened, nor what has to
        wait for a run.
        """
        dice = self.dice
        users = [row[0] for row in rows(self.warehouse, "select user_id::text from toy.users order by 1")]
        own = {table: sorted(self.model.theirs[table]) for table in TABLES}
        user = dice.choice(users) if users else None
        folders = [row[0] for row in rows(self.warehouse, "select folder_id::text from toy.folders order by 1")]
        folder = dice.choice([None, *folders])
        statement, table, values = dice.choice(
            [
                ("insert into toy.users (username, email) values (%s, %s) returning user_id::text",
                 "users", {"username": dice.choice(NAMES), "email": dice.choice(EMAILS)}),
                ("insert into toy.tokens (user_id) values (%s) returning token_id::text", "tokens", {"user_id": user}),
                ("insert into toy.posts (user_id, folder_id, number, pinned) values (%s, %s, %s, %s)"
                 " returning post_id::text",
                 "posts", {"user_id": user, "folder_id": folder, "number": dice.randint(1, 9), "pinned": False}),
                ("insert into toy.events (event_id, user_id, happened_at, kind)"
                 " values (ops.key(%s), %s, %s, 'a') returning event_id::text",
                 "events", {"id": str(dice.randint(1, 3)), "user_id": user, "happened_at": dice.choice(TIMES)}),
                ("insert into toy.users (username, email) values (%s, %s) on conflict (lower(username))"
                 " do update set email = excluded.email returning user_id::text",
                 "users", {"username": dice.choice(NAMES), "email": dice.choice(EMAILS)}),
                ("update toy.posts set number = number + 1 where post_id = %s returning post_id::text",
                 "posts", {"post_id": dice.choice([None, *own["posts"]])}),
                ("delete", dice.choice(TABLES), {}),
                ("delete", dice.choice(TABLES), {}),
            ]
        )  # fmt: skip
        with psycopg.connect(self.warehouse.conninfo, autocommit=True) as application:
            application.execute("set lock_timeout = '50ms'")
            try:
                if statement == "delete":
                    if not own[table]:
                        return lambda: None
                    name = dice.choice(own[table])
                    self.done.append(f"delete {table} {name}")
                    application.execute(f"delete from toy.{table} where {table[:-1]}_id = %s".encode(), [name])
                    return partial(self._forget, table, name)
                self.done.append(f"{statement} {values}")
                (name,) = application.execute(statement.encode(), list(values.values())).fetchone() or (None,)
            except REFUSED:
                self.done.append("refused")
                return lambda: None
        return partial(self._keep, table, name, values) if name else lambda: None

    def _keep(self, table: str, name: str, values: dict[str, Any]) -> None:
        """A row of an application, new or changed; a row from a source, which it may upsert without a change."""
        if name in self.model.had.get(table, {}):
            return
        if there := self.model.theirs[table].get(name):
            there.update({"number": there["number"] + 1} if table == "posts" else {"email": values["email"]})
            return
        defaults = {"kind": "a"} if table == "events" else {}
        self.model.theirs[table][name] = {"key": name, **defaults, **values}

    def _forget(self, table: str, name: str) -> None:
        """A row of an application, and those that go with it."""
        self.model.theirs[table].pop(name, None)
        for child in ("folders", "posts", "events", "tokens"):
            for other, row in list(self.model.theirs[child].items()):
                column = {"users": "user_id", "folders": "parent_id"}.get(table)
                if column and row.get(column) == name:
                    self._forget(child, other)
                elif table == "folders" and row.get("folder_id") == name:
                    row["folder_id"] = None

    def compare(self) -> None:
        for table in TABLES[:-1]:
            columns = [each.name for each in metadata.tables[f"toy.{table}"].columns]
            known = [name for name in columns if name not in NOT_IN_MODEL]
            found = rows(self.warehouse, f"select {', '.join(f'{each}::text' for each in known)} from toy.{table}")
            expected = [
                {**row, f"{table[:-1]}_id": name, "from_source": str(is_source).lower()}
                for is_source, those in ((True, self.model.had), (False, self.model.theirs))
                for name, row in those[table].items()
            ]
            wanted = sorted(tuple(as_text(row.get(each)) for each in known) for row in expected)
            assert sorted(tuple(as_text(each) for each in row) for row in found) == wanted, (table, self.done)

    def end(self) -> None:
        while any(pending_partitions(self.warehouse, each.source) for each in self.recorders.values()):
            for name in self.recorders:
                self.transform(name)
        checked = rebuild.check(self.warehouse, "toy")
        assert [each for each in checked if not each["same"]] == [], self.done
        run = rebuild.rebuild(self.warehouse, "toy", shrink=True)
        assert (run.counts.created, run.counts.updated, run.counts.deleted) == (0, 0, 0), (
            run.stats["tables"],
            self.done,
        )
        self.compare()
        with self.warehouse.connect() as connection:
            assert [each for each in trace.unproven(connection) if each["unproven"]] == [], self.done
            for row in connection.execute("select table_name, rows, digest from ops.table_digests").fetchall():
                counted = table_digests.count(connection, TableSpec(metadata.tables[row.pop("table_name")]))
                assert counted == row, self.done


def lower(text: str | None) -> str | None:
    return text and text.lower()


def without_repetition(rows: list[Any], claims: Callable[[Any], Iterable[Any]]) -> list[Any]:
    """The rows of which no claim is one of a row before."""
    kept, seen = [], set[Any]()
    for each in rows:
        claimed = set(claims(each)) - {None}
        if not claimed & seen:
            kept.append(each)
            seen |= claimed
    return kept


def as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else "" if value is None else str(value)


@pytest.fixture(scope="module", autouse=True)
def files(toy: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A copy of the SELECT files, which histories change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(project, "SQL", shutil.copytree(TOY / "sql", tmp_path_factory.mktemp("files") / "sql"))
        project.selects.cache_clear()
        yield
    project.selects.cache_clear()


@pytest.fixture(scope="module")
def one(toy: None, new_warehouse: Any) -> Any:
    return new_warehouse()


@pytest.mark.long("histories of dozens of runs")
@settings(deadline=None, max_examples=EXAMPLES, suppress_health_check=list(HealthCheck), database=None)
@given(st.randoms(use_true_random=False), st.integers(5, 30))
def test_the_tables_are_what_the_model_makes_of_all_records_at_once(
    one: Warehouse, dice: random.Random, steps: int
) -> None:
    empty(one)
    history = History(one, dice)
    for _ in range(steps):
        history.step()
    history.end()
