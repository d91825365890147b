"""What the engine could not keep is refused where a table is declared, by name."""

from typing import Any

import pytest
from sqlalchemy import Column, ForeignKey, MetaData, Table, UniqueConstraint
from sqlalchemy.dialects.postgresql import UUID

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.schema.declare import Timestamp, metadata
from pipelines.schema.faults import check_declaration

APPLICATIONS: dict[str, Any] = {"kind": "owned", "applications": True}


def declared(*columns: Column[object] | UniqueConstraint, by: str | None = None, **facts: Any) -> Table:
    """A table `a.child` beside `a.parent`, which sources alone write, and `b.other` of another domain.

    by: what it is partitioned by.
    """
    metadata = MetaData()
    Table("parent", metadata, Column("id", UUID, primary_key=True), schema="a", info={"kind": "owned"})
    Table("other", metadata, Column("id", UUID, primary_key=True), schema="b", info={"kind": "owned"})
    return Table("child", metadata, *columns, schema="a", info=facts, postgresql_partition_by=by)


def key(name: str = "id") -> Column[object]:
    return Column(name, UUID, primary_key=True)


def at() -> Column[object]:
    return Column("at", Timestamp, primary_key=True)


@pytest.mark.parametrize(
    ("table", "fault"),
    [
        (declared(key()), "does not say whose its rows are: declare it with"),
        (declared(Column("id", UUID), kind="owned"), "has no primary key"),
        (declared(key(), key("at"), kind="owned", identity="id"), "has an identity, so its primary key must be one"),
        (declared(key(), Column("c", UUID, ForeignKey("b.other.id")), kind="owned"), "refers to b.other, which is in"),
        (declared(key(), Column("c", UUID, ForeignKey("a.parent.id")), **APPLICATIONS), "declare a.parent with appl"),
        (
            declared(key(), UniqueConstraint("id", name="u", deferrable=True), kind="owned"),
            "the deferrable constraint u",
        ),
        *(
            (declared(key(), column, kind=kind), rf"has the strict column {column.name}: only a column that would")
            for column, kind in (
                (Column("required", UUID, nullable=False, info={"strict": True}), "owned"),
                (Column("parent_id", UUID, ForeignKey("a.parent.id"), info={"strict": True}), "owned"),
                (Column("of_shared", UUID, info={"strict": True}), "shared"),
                (Column("said_no", UUID, info={"strict": False}), "owned"),
            )
        ),
        (
            declared(key(), Column("at", Timestamp), kind="owned", by="RANGE (at)"),
            "is partitioned, which must be",
        ),
        (
            declared(key(), at(), kind="owned", by="LIST (id)"),
            "is partitioned, which must be by ran",
        ),
        (
            declared(key(), at(), UniqueConstraint("id", "at"), kind="owned", by="RANGE (at)"),
            "cannot keep anything unique but its primary key",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_wrong_declaration_is_refused(table: Table, fault: str) -> None:
    with pytest.raises(AtlasError, match=rf"The declaration of a\.child is wrong: it .*{fault}.*Correct assets/a/"):
        check_declaration(table)


def test_a_right_one_is_not() -> None:
    check_declaration(declared(key(), Column("c", UUID, ForeignKey("a.parent.id")), kind="owned"))
    check_declaration(declared(key(), Column("c", UUID, info={"strict": True}), kind="owned"))


def test_a_precedence_names_streams_that_there_are(toy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(metadata.tables["toy.users"].info, "precedence", ("toy/mial",))
    project.sources.cache_clear()
    with pytest.raises(AtlasError, match=r"declaration of toy\.users is wrong: it names toy/mial in its precedence"):
        project.sources()
