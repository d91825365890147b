"""Functions, views, triggers and policies: created again when their text changes, dropped when not declared."""

from collections.abc import Callable, Sequence

import pytest
from alembic import command
from alembic.config import Config

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.schema import migrate, objects
from pipelines.schema.objects import SqlObject
from pipelines.warehouse.database import Warehouse

Declare = Callable[..., Sequence[SqlObject]]


@pytest.fixture
def declare(monkeypatch: pytest.MonkeyPatch) -> Declare:
    """Declares a function and a view over it beside those of the project."""
    there = project.objects()

    def declared(
        number: str = "1", result: str = "integer", column: str = "one", view: bool = True
    ) -> Sequence[SqlObject]:
        monkeypatch.setattr(objects, "DECLARED", {each.name: each for each in there})
        create = f"create or replace function ops.one() returns {result} language sql return {number}"
        objects.function("ops.one()", create, "A number: 100%")
        if view:
            objects.view("ops.ones", f"select ops.one() as {column}", "Ones", {column.split(",")[0]: "One of them"})
        return tuple(objects.DECLARED.values())

    return declared


def answer(warehouse: Warehouse, question: str) -> object:
    with warehouse.connect() as connection:
        row = connection.execute(question.encode()).fetchone()
    return row and next(iter(row.values()))


def executing(statement: str) -> Callable[[Config, str], None]:
    """What a migration does that executes a statement."""
    return lambda config, _: config.attributes["connection"].exec_driver_sql(statement)


def test_an_object_is_created_again_when_its_text_changes(warehouse: Warehouse, declare: Declare) -> None:
    assert migrate.pending(warehouse, declare()) == ["ops.one()", "ops.ones"]
    assert migrate.migrate(warehouse, declare()) == ["ops.one()", "ops.ones"]
    assert answer(warehouse, "select one from ops.ones") == 1
    assert answer(warehouse, "select obj_description('ops.one'::regproc)") == "A number: 100%"
    assert answer(warehouse, "select col_description('ops.ones'::regclass, 1)") == "One of them"
    assert migrate.migrate(warehouse, declare()) == []

    assert migrate.migrate(warehouse, declare(number="2")) == ["ops.one()"]
    assert answer(warehouse, "select one from ops.ones") == 2
    assert migrate.migrate(warehouse, declare(number="'two'", result="text")) == ["ops.one()"]
    assert answer(warehouse, "select one from ops.ones") == "two"
    assert migrate.migrate(warehouse, declare(number="'two'", result="text", column="uno")) == ["ops.ones"]
    assert answer(warehouse, "select uno from ops.ones") == "two"
    assert answer(warehouse, "select count(*) from ops.objects") == len(declare())
    assert migrate.pending(warehouse, declare(number="'two'", result="text", column="uno")) == []


def test_an_object_that_is_no_longer_declared_is_dropped(warehouse: Warehouse, declare: Declare) -> None:
    migrate.migrate(warehouse, declare())
    assert migrate.migrate(warehouse, declare(view=False)) == ["ops.ones"]
    assert answer(warehouse, "select to_regclass('ops.ones')") is None
    assert migrate.migrate(warehouse, project.objects()) == ["ops.one()"]
    assert answer(warehouse, "select to_regprocedure('ops.one()')") is None
    assert migrate.pending(warehouse, project.objects()) == []


def test_a_failure_in_between_leaves_the_objects_as_they_were(warehouse: Warehouse, declare: Declare) -> None:
    migrate.migrate(warehouse, declare())
    broken = declare(number="2", column="one, nowhere.at_all")
    with pytest.raises(AtlasError, match=r"view ops\.ones cannot be created: missing FROM.* atlas db revision -m TEXT"):
        migrate.migrate(warehouse, broken)
    assert answer(warehouse, "select one from ops.ones") == 1
    assert answer(warehouse, "select count(*) from marts.models") == 0
    assert migrate.pending(warehouse, declare()) == []
    assert migrate.pending(warehouse, broken) == ["ops.one()", "ops.ones"]


def test_a_view_of_somebody_else_is_named_and_stays(
    warehouse: Warehouse, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warehouse.connect() as connection:
        connection.execute("create view public.theirs as select * from marts.models")
    with pytest.raises(AtlasError, match=r"view theirs depends on view marts\.models\. Drop .* atlas db migrate"):
        migrate.migrate(warehouse, declare())
    assert answer(warehouse, "select count(*) from public.theirs") == 0
    assert migrate.pending(warehouse, project.objects()) == []
    with warehouse.connect() as connection:
        connection.execute("drop view public.theirs")
        connection.execute("create view public.theirs as select name from catalog.models")
    with monkeypatch.context() as patch:
        patch.setattr(command, "upgrade", executing("drop table catalog.models"))
        with pytest.raises(AtlasError, match=r"view theirs depends on .*catalog\.models"):
            migrate.migrate(warehouse, declare())
    assert migrate.migrate(warehouse, declare()) == ["ops.one()", "ops.ones"]
    assert answer(warehouse, "select count(*) from public.theirs") == 0


def test_a_downgrade_takes_objects_along_and_migrate_creates_them(
    warehouse: Warehouse, declare: Declare, downgrade: Callable[..., None]
) -> None:
    migrate.migrate(warehouse, declare())
    downgrade(warehouse, "2026_11_26_initial_staging")
    assert answer(warehouse, "select to_regprocedure('ops.one()')") is None
    applied = migrate.migrate(warehouse, declare())
    assert applied[0] == "2026_11_26_initial_marts" and applied[-2:] == ["ops.one()", "ops.ones"]
    assert answer(warehouse, "select one from ops.ones") == 1


def triggers_and_policies(warehouse: Warehouse) -> object:
    """Statements and comments of both, in one value."""
    return answer(
        warehouse,
        """
        select array(
            select concat_ws(': ', tgname, obj_description(oid, 'pg_trigger'), (tgtype & 4) <> 0) from pg_trigger
            where tgrelid = 'public.things'::regclass
        ) || array(
            select concat_ws(': ', polname, obj_description(oid, 'pg_policy'), pg_get_expr(polqual, polrelid))
            from pg_policy where polrelid = 'public.things'::regclass
        )
        """,
    )


def test_a_trigger_and_a_policy_follow_their_declarations(
    warehouse: Warehouse, declare: Declare, downgrade: Callable[..., None]
) -> None:
    with warehouse.connect() as connection:
        connection.execute("create table public.things (id integer)")

    def declared(event: str, using: str) -> Sequence[SqlObject]:
        declare(view=False)
        words = f"before {event} on public.things for each row execute function suppress_redundant_updates_trigger()"
        objects.on_table("trigger", "touch", "public.things", f"create trigger touch {words}", "Touches")
        objects.on_table(
            "policy", "own", "public.things", f"create policy own on public.things using ({using})", "Owned"
        )
        return tuple(objects.DECLARED.values())

    both = ["touch on public.things", "own on public.things"]
    assert migrate.migrate(warehouse, declared("update", "id > 1")) == ["ops.one()", *both]
    assert triggers_and_policies(warehouse) == ["touch: Touches: f", "own: Owned: (id > 1)"]
    assert migrate.migrate(warehouse, declared("update", "id > 1")) == []

    assert migrate.migrate(warehouse, declared("update", "id > 2")) == both[1:]
    assert triggers_and_policies(warehouse) == ["touch: Touches: f", "own: Owned: (id > 2)"]
    assert migrate.migrate(warehouse, declared("insert or update", "id > 2")) == both[:1]
    assert triggers_and_policies(warehouse) == ["touch: Touches: t", "own: Owned: (id > 2)"]

    downgrade(warehouse, "-1")
    assert triggers_and_policies(warehouse) == []
    assert migrate.migrate(warehouse, declared("insert or update", "id > 2"))[-2:] == both
    assert triggers_and_policies(warehouse) == ["touch: Touches: t", "own: Owned: (id > 2)"]

    assert migrate.migrate(warehouse, declare(view=False)) == sorted(both)
    assert triggers_and_policies(warehouse) == []


def test_a_migration_can_alter_a_column_that_a_policy_reads(
    warehouse: Warehouse, declare: Declare, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warehouse.connect() as connection:
        connection.execute("create table public.things (id integer)")

    def declared(number: str) -> Sequence[SqlObject]:
        declare(number=number, view=False)
        objects.on_table("policy", "own", "public.things", "create policy own on public.things using (id > 1)", "Owned")
        return tuple(objects.DECLARED.values())

    migrate.migrate(warehouse, declared("1"))
    monkeypatch.setattr(command, "upgrade", executing("alter table public.things alter id type bigint"))
    migrate.migrate(warehouse, declared("2"))
    assert triggers_and_policies(warehouse) == ["own: Owned: (id > 1)"]
