"""Sorting out rows that do not fit their table, when MERGE has refused a partition.

Table by table, parents first, rows leave `incoming` for `misfits` with the reason: a value that its column's type
cannot read, a missing value, a CHECK, a parent that is missing, misfit or pruned, a key or unique value that another
row has. A nullable reference to a missing parent goes in NULL instead. Of rows that claim one value the smallest
(stream, external id, key) stays, and the others wait for it to go; what waits for a parent waits for it to come. What
is left fits.
"""

from collections.abc import Sequence

from psycopg import sql
from sqlalchemy import UniqueConstraint

from pipelines.ledger import Counts
from pipelines.warehouse.engine import Connection
from pipelines.warehouse.shape import Reference, Shape, names

TRUE = sql.SQL("true")


class Split:
    """The rows of one run's SELECTs, before they are merged."""

    def __init__(self, connection: Connection, shapes: Sequence[Shape]) -> None:
        self.connection, self.shapes = connection, shapes

    def all(self, counts: dict[str, Counts]) -> None:
        """Leaves in each `incoming` only rows that fit; counts what left."""
        for shape in self.shapes:
            each = counts[shape.name]
            each.quarantined += self._types(shape) + self._missing(shape) + self._checks(shape)
            each.duplicates += self._duplicates(shape)
            each.quarantined += sum(self._reference(shape, reference) for reference in shape.references)
            self._claims(shape, each)
        for shape in self.shapes:
            if not shape.owned:
                counts[shape.name].quarantined += self._unreferenced(shape)

    def _types(self, shape: Shape) -> int:
        split = 0
        for column in shape.yielded:
            wanted = shape.type_of(column)
            if shape.yielded[column] == wanted.lower():
                continue
            text = shape.as_text(column)
            split += self._split(
                shape,
                sql.SQL("not pg_input_is_valid({}, {})").format(text, sql.Literal(wanted)),
                reason="type",
                constraint=column,
                detail=sql.SQL("(select message from pg_input_error_info({}, {}))").format(text, sql.Literal(wanted)),
            )
        return split

    def _missing(self, shape: Shape) -> int:
        return sum(
            self._split(
                shape,
                sql.SQL("{} is null").format(sql.Identifier(column)),
                reason="not_null",
                constraint=column,
                detail=sql.Literal(f"{column} has no value"),
            )
            for column in shape.yielded
            if not shape.table.columns[column].nullable
        )

    def _checks(self, shape: Shape) -> int:
        return sum(
            self._split(
                shape,
                self._places(shape, sql.SQL("({}) is false").format(sql.SQL(str(check.sqltext)))),
                reason="check",
                constraint=str(check.name),
                detail=sql.Literal(str(check.sqltext)),
            )
            for check in shape.checks
        )

    def _duplicates(self, shape: Shape) -> int:
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

    def _reference(self, shape: Shape, reference: Reference) -> int:
        if reference.column not in shape.yielded:
            return 0
        parent = Shape(reference.table)
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
        self._wait(shape, orphan, parent.name, sql.SQL("{}::text").format(column), "parent")
        if reference.nullable:
            self.connection.execute(
                sql.SQL("update {} o set {} = null where {}").format(
                    shape.incoming, sql.Identifier(reference.column), orphan
                )
            )
            return 0
        return self._split(
            shape,
            orphan,
            reason="parent",
            constraint=f"{shape.table.name}_{reference.column}_fkey",
            detail=sql.Literal(f"its row of {parent.name} is missing or does not fit"),
        )

    def _wait(self, shape: Shape, condition: sql.Composable, table: str, key: sql.Composable, reason: str) -> None:
        """Notes for which row others wait: those that meet a condition, if a record has them."""
        if "record_id" in shape.yielded:
            self.connection.execute(
                sql.SQL(
                    "insert into waiting select o.record_id, {}, {}, {} from {} o where o.record_id is not null and {}"
                ).format(sql.Literal(table), key, sql.Literal(reason), shape.incoming, condition)
            )

    def _unreferenced(self, shape: Shape) -> int:
        """Shared rows to which nothing refers, now that what would is split off."""
        (key,) = shape.key
        referred = [
            sql.SQL("exists (select from {} r where r.{} = o.{})").format(
                place, sql.Identifier(reference.column), sql.Identifier(key)
            )
            for child in self.shapes
            for reference in child.references
            if reference.table is shape.table
            for place in (child.incoming, child.target)
        ]
        if shape.told and "record_id" in shape.yielded:
            referred.append(sql.SQL("o.record_id is not null").format())
        return self._split(
            shape,
            sql.SQL("not ({})").format(sql.SQL(" or ").join(referred)),
            reason="unreferenced",
            constraint="referrer",
            detail=sql.Literal("no row that fits refers to it"),
        )

    def _claims(self, shape: Shape, counts: Counts) -> None:
        """Rows of a key or a unique value: the first stays. The same key twice is one thing told twice, no misfit."""
        if "record_id" in shape.yielded:
            self._claim(shape, shape.key, None, counts)
            for unique in shape.uniques:
                columns = [column.name for column in unique.columns]
                if set(columns) <= shape.yielded.keys():
                    self._claim(shape, columns, unique, counts)

    def _claim(self, shape: Shape, columns: list[str], unique: UniqueConstraint | None, counts: Counts) -> None:
        """Takes away the rows that have what another has, and notes for which they wait."""
        known = (
            TRUE
            if unique is not None and _nulls_collide(unique)
            else sql.SQL(" and ").join(sql.SQL("n.{} is not null").format(sql.Identifier(column)) for column in columns)
        )
        self.connection.execute(
            sql.SQL(
                """
                create temp table losers on commit drop as
                select place, winner, twice from (
                    select n.place, {known} as known, row_number() over claims as number,
                        first_value({key}) over claims as winner,
                        n.record_id = first_value(n.record_id) over claims as twice
                    from ({typed}) as n left join scope w on w.record_id = n.record_id
                    window claims as (
                        partition by {columns}
                        order by w.stream collate "C", w.external_id collate "C", {keys},
                            (to_jsonb(n) - 'place')::text collate "C")
                ) as numbered
                where known and number > 1
                """
            ).format(
                known=known,
                columns=names(columns, "n"),
                key=shape.key_text("n"),
                keys=names(shape.key, "n"),
                typed=self._placed(shape),
            )
        )
        lost = sql.SQL("o.ctid in (select place from losers)").format()
        winner = sql.SQL("(select winner from losers where place = o.ctid)").format()
        if unique is None:
            lost_to_another = sql.SQL("o.ctid in (select place from losers where not twice)").format()
            self._wait(shape, lost_to_another, shape.name, winner, "claim")
            counts.duplicates += self.connection.execute(
                sql.SQL("delete from {} o where {}").format(shape.incoming, lost_to_another)
            ).rowcount
        else:
            self._wait(shape, lost, shape.name, winner, "unique")
        counts.quarantined += self._split(
            shape,
            lost,
            reason="unique",
            constraint=str(unique.name) if unique is not None else f"{shape.table.name}_pkey",
            detail=sql.Literal(f"another row has this {', '.join(columns)}"),
        )
        self.connection.execute("drop table losers")

    def _placed(self, shape: Shape) -> sql.Composed:
        """The rows of `incoming` as the table would hold them, each with its place; only after `_types`."""
        columns = [
            sql.SQL("{} as {}").format(
                shape.cast(column.name)
                if column.name in shape.yielded
                else sql.SQL(f"null::{shape.type_of(column.name)}"),
                sql.Identifier(column.name),
            )
            for column in shape.table.columns
        ]
        return sql.SQL("select ctid as place, {} from {}").format(sql.SQL(", ").join(columns), shape.incoming)

    def _places(self, shape: Shape, condition: sql.Composed) -> sql.Composed:
        return sql.SQL("o.ctid in (select place from ({}) as n where {})").format(self._placed(shape), condition)

    def _split(
        self, shape: Shape, condition: sql.Composable, *, reason: str, constraint: str, detail: sql.Composable
    ) -> int:
        key = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in shape.key)
        return self.connection.execute(
            sql.SQL(
                """
                with bad as (delete from {incoming} o where {condition} returning *)
                insert into misfits (table_name, record_id, row_key, reason, constraint_name, detail, row)
                select {name}, {record}, concat_ws(' ', {key}), {reason}, {constraint}, {detail}, to_jsonb(bad) from bad
                """
            ).format(
                incoming=shape.incoming,
                condition=condition,
                name=sql.Literal(shape.name),
                record=sql.Identifier("record_id") if "record_id" in shape.yielded else sql.SQL("null"),
                key=key,
                reason=sql.Literal(reason),
                constraint=sql.Literal(constraint),
                detail=detail,
            )
        ).rowcount


def _nulls_collide(unique: UniqueConstraint) -> bool:
    return bool(unique.dialect_options["postgresql"]["nulls_not_distinct"])
