"""Sorting out rows that do not fit their table, when MERGE has refused a partition.

Table by table, parents first, rows leave `incoming` for `misfits` with the reason: a value that its column's type
cannot read, a missing value, a CHECK, a parent that is missing, misfit or pruned, a key or unique value that another
row has (`claims`). A nullable reference to a missing parent goes in NULL instead; what waits for a parent waits for it
to come. What is left fits.
"""

from collections.abc import Sequence

from psycopg import sql

from pipelines import failpoints
from pipelines.ledger import Counts
from pipelines.transform import rejects
from pipelines.transform.key_conflicts import ConflictResolver
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import Reference, TableSpec, names

TRUE = sql.SQL("true")


class RowValidator:
    """The rows of one run's SELECTs, before they are merged."""

    def __init__(self, connection: Connection, shapes: Sequence[TableSpec]) -> None:
        self.connection, self.shapes, self.claims = connection, shapes, ConflictResolver(connection)

    def alone(self) -> None:
        """Splits off the rows that do not fit whatever others there are."""
        for shape in self.shapes:
            self._types(shape)
            self._missing(shape)
            self._checks(shape)
            failpoints.reached("split.alone", shape.table.name)

    def together(self, counts: dict[str, Counts]) -> None:
        """Leaves in each `incoming` only rows that fit with each other; counts what left, now and before."""
        for shape in self.shapes:
            each = counts[shape.name]
            each.duplicates += self._duplicates(shape)
            for reference in shape.references:
                self._reference(shape, reference)
            each.duplicates += self.claims.held(shape) + self.claims.decide(shape)
            failpoints.reached("split.together", shape.table.name)
        self.unreferenced()
        left = "select table_name, count(*) as number from misfits where reason <> 'select_fails' group by table_name"
        for row in self.connection.execute(left):
            counts[row["table_name"]].quarantined += row["number"]

    def unreferenced(self) -> None:
        """Takes away shared rows to which no row refers, or only what is split off: they live by what refers to them.

        Those of other sources count too.
        """
        for shape in self.shapes:
            if not shape.owned:
                self._unreferenced(shape)
                failpoints.reached("split.unreferenced", shape.table.name)

    def again(self) -> None:
        """Forgets what was split off, for rows that are selected again."""
        self.connection.execute("delete from misfits where reason <> 'select_fails'")
        self.connection.execute("truncate waiting")

    def _types(self, shape: TableSpec) -> None:
        for column in shape.yielded:
            wanted = shape.type_of(column)
            if shape.yielded[column] == wanted.lower():
                continue
            text = shape.as_text(column)
            rejects.split(
                self.connection,
                shape,
                sql.SQL("not pg_input_is_valid({}, {})").format(text, sql.Literal(wanted)),
                reason="type",
                constraint=column,
                detail=sql.SQL("(select message from pg_input_error_info({}, {}))").format(text, sql.Literal(wanted)),
            )

    def _missing(self, shape: TableSpec) -> None:
        for column in shape.yielded:
            if not shape.table.columns[column].nullable:
                rejects.split(
                    self.connection,
                    shape,
                    sql.SQL("{} is null").format(sql.Identifier(column)),
                    reason="not_null",
                    constraint=column,
                    detail=sql.Literal(f"{column} has no value"),
                )

    def _checks(self, shape: TableSpec) -> None:
        for check in shape.checks:
            rejects.split(
                self.connection,
                shape,
                sql.SQL("o.ctid in (select place from ({}) as n where ({}) is false)").format(
                    rejects.placed(shape), sql.SQL(str(check.sqltext))
                ),
                reason="check",
                constraint=str(check.name),
                detail=sql.Literal(str(check.sqltext)),
            )

    def _duplicates(self, shape: TableSpec) -> int:
        return self.connection.execute(
            sql.SQL(
                """
                delete from {incoming} where ctid in (
                    select place from (
                        select ctid as place, row_number() over (partition by {columns}) as number from {incoming}
                    ) as n
                    where number > 1)
                """
            ).format(incoming=shape.incoming, columns=names(list(shape.yielded)))
        ).rowcount

    def _reference(self, shape: TableSpec, reference: Reference) -> None:
        if reference.column not in shape.yielded:
            return
        parent = TableSpec(reference.table)
        (key,) = parent.key
        column = sql.Identifier("o", reference.column)
        feeds = any(each.table is reference.table for each in self.shapes)
        stays = (
            sql.SQL("not exists (select from scope s where s.record_id = p.record_id)")
            if feeds and (parent.owned or parent.told)
            else TRUE
        )
        comes = (
            sql.SQL("or exists (select from {} i where i.{} = {})").format(parent.incoming, sql.Identifier(key), column)
            if feeds
            else sql.SQL("")
        )
        orphan = sql.SQL(
            "{column} is not null and not ("
            "exists (select from {parent} p where p.{key} = {column} and {stays}) {comes})"
        ).format(column=column, parent=parent.target, key=sql.Identifier(key), stays=stays, comes=comes)
        rejects.wait(self.connection, shape, orphan, parent.name, sql.SQL("{}::text").format(column), "parent")
        if reference.nullable:
            self.connection.execute(
                sql.SQL("update {} o set {} = null where {}").format(
                    shape.incoming, sql.Identifier(reference.column), orphan
                )
            )
            return
        rejects.split(
            self.connection,
            shape,
            orphan,
            reason="parent",
            constraint=f"{shape.table.name}_{reference.column}_fkey",
            detail=sql.Literal(f"its row of {parent.name} is missing or does not fit"),
        )

    def _unreferenced(self, shape: TableSpec) -> None:
        (key,) = shape.key
        places = [(child, child.incoming) for child in self.shapes]
        places += [(child, child.target) for child in map(TableSpec, shape.table.metadata.sorted_tables)]
        referred = [
            sql.SQL("exists (select from {} r where r.{} = o.{})").format(
                place, sql.Identifier(reference.column), sql.Identifier(key)
            )
            for child, place in places
            for reference in child.references
            if reference.table is shape.table
        ]
        if shape.told and "record_id" in shape.yielded:
            referred.append(sql.SQL("o.record_id is not null").format())
        self.connection.execute(
            sql.SQL("delete from {} o where not ({})").format(
                shape.incoming, sql.SQL(" or ").join(referred) if referred else sql.SQL("false")
            )
        )
