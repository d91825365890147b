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

from pipelines import failpoints
from pipelines.ledger import Counts
from pipelines.warehouse.engine import Connection
from pipelines.warehouse.shape import Reference, Shape, names

TRUE = sql.SQL("true")


class Split:
    """The rows of one run's SELECTs, before they are merged."""

    def __init__(self, connection: Connection, shapes: Sequence[Shape]) -> None:
        self.connection, self.shapes = connection, shapes

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
            each.duplicates += self._claims(shape)
            failpoints.reached("split.together", shape.table.name)
        self.unreferenced(counts)

    def unreferenced(self, counts: dict[str, Counts]) -> None:
        """Splits off shared rows to which no row refers; counts all that has left."""
        for shape in self.shapes:
            if not shape.owned:
                self._unreferenced(shape)
                failpoints.reached("split.unreferenced", shape.table.name)
        left = "select table_name, count(*) as number from misfits where reason <> 'select_fails' group by table_name"
        for row in self.connection.execute(left):
            counts[row["table_name"]].quarantined += row["number"]

    def again(self) -> None:
        """Forgets what was split off, for rows that are selected again."""
        self.connection.execute("delete from misfits where reason <> 'select_fails'")
        self.connection.execute("truncate waiting")

    def _types(self, shape: Shape) -> None:
        for column in shape.yielded:
            wanted = shape.type_of(column)
            if shape.yielded[column] == wanted.lower():
                continue
            text = shape.as_text(column)
            self._split(
                shape,
                sql.SQL("not pg_input_is_valid({}, {})").format(text, sql.Literal(wanted)),
                reason="type",
                constraint=column,
                detail=sql.SQL("(select message from pg_input_error_info({}, {}))").format(text, sql.Literal(wanted)),
            )

    def _missing(self, shape: Shape) -> None:
        for column in shape.yielded:
            if not shape.table.columns[column].nullable:
                self._split(
                    shape,
                    sql.SQL("{} is null").format(sql.Identifier(column)),
                    reason="not_null",
                    constraint=column,
                    detail=sql.Literal(f"{column} has no value"),
                )

    def _checks(self, shape: Shape) -> None:
        for check in shape.checks:
            self._split(
                shape,
                self._places(shape, sql.SQL("({}) is false").format(sql.SQL(str(check.sqltext)))),
                reason="check",
                constraint=str(check.name),
                detail=sql.Literal(str(check.sqltext)),
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

    def _reference(self, shape: Shape, reference: Reference) -> None:
        if reference.column not in shape.yielded:
            return
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
            return
        self._split(
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

    def _unreferenced(self, shape: Shape) -> None:
        """Shared rows to which nothing refers, or only what is split off."""
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
        self._split(
            shape,
            sql.SQL("not ({})").format(sql.SQL(" or ").join(referred)),
            reason="unreferenced",
            constraint="referrer",
            detail=sql.Literal("no row that fits refers to it"),
        )

    def _claims(self, shape: Shape) -> int:
        """Takes away rows that have a key or a unique value of another; how many are told twice, and are no misfits.

        The smallest row has what it claims. What lost one claim is not there to win another, so that rows are decided
        one after the other, smallest first, as far as they contest anything.
        """
        if "record_id" not in shape.yielded:
            return 0
        claims: list[tuple[list[str], UniqueConstraint | None]] = [(shape.key, None)]
        for unique in shape.uniques:
            columns = [column.name for column in unique.columns]
            if set(columns) <= shape.yielded.keys():
                claims.append((columns, unique))
        self.connection.execute(CONTESTED)
        contested = sum(self._contest(shape, number, *claim) for number, claim in enumerate(claims))
        if contested:
            ranked = RANK.format(placed=self._placed(shape), key=shape.key_text("n"))
            self.connection.execute(ranked)
        while contested:
            contested -= self.connection.execute(DECIDE).rowcount
        twice = self._lost_keys(shape)
        for number, (columns, each) in enumerate(claims):
            lost = sql.SQL("o.ctid in (select place from losers where claim = {})").format(sql.Literal(number))
            if each is not None:
                self._wait(shape, lost, shape.name, WINNER, "unique")
            self._split(
                shape,
                lost,
                reason="unique",
                constraint=str(each.name) if each is not None else f"{shape.table.name}_pkey",
                detail=sql.Literal(f"another row has this {', '.join(columns)}"),
            )
        self.connection.execute("drop table contested, losers")
        return twice

    def _contest(self, shape: Shape, number: int, columns: list[str], unique: UniqueConstraint | None) -> int:
        """Notes the rows that claim what another one claims too."""
        known = (
            TRUE
            if unique is not None and _nulls_collide(unique)
            else sql.SQL(" and ").join(sql.SQL("n.{} is not null").format(sql.Identifier(column)) for column in columns)
        )
        return self.connection.execute(
            sql.SQL(
                """
                insert into contested (claim, value, place)
                select {number}, value, place from (
                    select n.place, dense_rank() over (order by {columns}) as value,
                        count(*) over (partition by {columns}) as many
                    from ({placed}) as n where {known}
                ) as numbered
                where many > 1
                """
            ).format(number=sql.Literal(number), columns=names(columns, "n"), placed=self._placed(shape), known=known)
        ).rowcount

    def _lost_keys(self, shape: Shape) -> int:
        """Takes away rows whose key another record has: they wait, and are no misfits."""
        lost = sql.SQL("o.ctid in (select place from losers where claim = 0 and not itself)")
        self._wait(shape, lost, shape.name, WINNER, "claim")
        return self.connection.execute(sql.SQL("delete from {} o where {}").format(shape.incoming, lost)).rowcount

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
    ) -> None:
        key = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column)) for column in shape.key)
        self.connection.execute(
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
        )


def _nulls_collide(unique: UniqueConstraint) -> bool:
    return bool(unique.dialect_options["postgresql"]["nulls_not_distinct"])


CONTESTED = """
create temp table contested (claim int, value bigint, place tid, rank bigint, key text, record_id uuid) on commit drop;
create temp table losers (place tid, claim int, winner text, itself boolean) on commit drop
"""

RANK = sql.SQL(
    """
    update contested c set rank = r.rank, key = r.key, record_id = r.record_id
    from (
        select n.place, {key} as key, n.record_id, row_number() over (
            order by w.stream collate "C", w.external_id collate "C", {key} collate "C",
                (to_jsonb(n) - 'place')::text collate "C") as rank
        from ({placed}) as n left join scope w on w.record_id = n.record_id
        where n.place in (select place from contested)
    ) as r
    where r.place = c.place
    """
)

DECIDE = """
with winners as (
    select c.place from contested c
    join (select claim, value, min(rank) as rank from contested group by claim, value) as s using (claim, value)
    group by c.place having bool_and(c.rank = s.rank)
),

lost as (
    select distinct on (c.place) c.place, c.claim, w.key as winner,
        c.record_id is not distinct from w.record_id as itself
    from winners
    join contested w using (place)
    join contested c using (claim, value)
    where c.place <> w.place
    order by c.place, c.claim
),

noted as (
    insert into losers select * from lost
)

delete from contested where place in (select place from winners union all select place from lost)
"""

WINNER = sql.SQL("(select winner from losers where place = o.ctid)")
