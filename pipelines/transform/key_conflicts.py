"""Decides which row is written where several rows have one key or one unique value.

Of the rows in the change set the smallest (stream, external id, key) is written, and the others are pending until it is
pruned. A row that loses a unique value is rejected; a row that loses its key to another record is counted as a
duplicate. Belongs here: conflicts between rows. Not: what a row must fit by itself (`constraints`).
"""

from typing import Any

from psycopg import sql
from sqlalchemy import UniqueConstraint

from pipelines.transform import rejects
from pipelines.transform.incoming import IncomingTable
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import names

CREATE_LOSERS = """
create temp table conflict_losers (place tid, number int, winner text, same_record boolean) on commit drop
"""
"""number: by which of the table's keys; 0 is the primary key."""

CONTESTED = sql.SQL(
    """
    select place::text, record_id, key, values from (
        select n.ctid as place, n.record_id, {key} as key, array[{values}] as values, greatest({counts}) as most,
            row_number() over (
                order by c.stream collate "C", c.external_id collate "C", {key} collate "C",
                    (to_jsonb(n) - 'ctid')::text collate "C") as rank
        from ({rows}) as n left join change_set c on c.record_id = n.record_id
    ) as numbered
    where most > 1 order by rank
    """
)
"""The rows that share a key, the smallest first. values: a number for the value of each key; null is not comparable."""

WINNER_KEY = sql.SQL("(select winner from conflict_losers where place = o.ctid)")


class ConflictResolver:
    """Resolves the key conflicts of the rows of one run."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def resolve(self, incoming: IncomingTable) -> int:
        """Removes rows that lose a key or a unique value to another row; returns how many lose it to another record.

        A row that loses one conflict cannot win another, so rows are decided one after the other, the smallest first.
        """
        keys = _exclusive(incoming)
        if not keys:
            return 0
        winners: dict[tuple[int, int], dict[str, Any]] = {}
        losers = []
        for row in self.connection.execute(self._contested(incoming, keys)):
            claims = [(number, value) for number, value in enumerate(row["values"]) if value is not None]
            taken = next((claim for claim in claims if claim in winners), None)
            if taken is None:
                winners |= dict.fromkeys(claims, row)
            else:
                winner = winners[taken]
                losers.append((row["place"], taken[0], winner["key"], winner["record_id"] == row["record_id"]))
        self.connection.execute(CREATE_LOSERS)
        self.connection.cursor().executemany("insert into conflict_losers values (%s, %s, %s, %s)", losers)
        by_key = self._delete_lost_keys(incoming)
        for number, (columns, unique) in enumerate(keys):
            lost = sql.SQL("o.ctid in (select place from conflict_losers where number = {})").format(
                sql.Literal(number)
            )
            if unique is not None:
                rejects.insert_pending(self.connection, incoming, lost, incoming.spec.name, WINNER_KEY, "unique")
            self._reject(incoming, lost, columns, unique)
        self.connection.execute("drop table conflict_losers")
        return by_key

    def _contested(
        self, incoming: IncomingTable, keys: list[tuple[list[str], UniqueConstraint | None]]
    ) -> sql.Composed:
        """The query CONTESTED over the rows of a table."""
        values: list[sql.Composable] = []
        counts: list[sql.Composable] = []
        for columns, unique in keys:
            all_columns = names(columns, "n")
            comparable = sql.SQL("num_nulls({}) = 0").format(all_columns)
            if unique is not None and _nulls_not_distinct(unique):
                comparable = sql.SQL("true").format()
            case = sql.SQL("case when {} then {} end")
            values.append(case.format(comparable, sql.SQL("dense_rank() over (order by {})").format(all_columns)))
            counts.append(case.format(comparable, sql.SQL("count(*) over (partition by {})").format(all_columns)))
        return CONTESTED.format(
            key=incoming.spec.key_text("n"),
            values=sql.SQL(", ").join(values),
            counts=sql.SQL(", ").join(counts),
            rows=incoming.typed_rows(),
        )

    def _delete_lost_keys(self, incoming: IncomingTable) -> int:
        """Deletes rows whose key goes to another record; they are pending, and not rejected."""
        lost = sql.SQL("o.ctid in (select place from conflict_losers where number = 0 and not same_record)")
        rejects.insert_pending(self.connection, incoming, lost, incoming.spec.name, WINNER_KEY, "key")
        return self.connection.execute(sql.SQL("delete from {} o where {}").format(incoming.identifier, lost)).rowcount

    def _reject(
        self, incoming: IncomingTable, lost: sql.Composable, columns: list[str], unique: UniqueConstraint | None
    ) -> None:
        rejects.reject(
            self.connection,
            incoming,
            lost,
            reason="unique",
            constraint=str(unique.name) if unique is not None else f"{incoming.spec.table.name}_pkey",
            detail=sql.Literal(f"another row has this {', '.join(columns)}"),
        )


def _exclusive(incoming: IncomingTable) -> list[tuple[list[str], UniqueConstraint | None]]:
    """What only one row may have: the primary key, and each unique constraint whose columns are yielded.

    Nothing where rows have no record: then they are shared.
    """
    if "record_id" not in incoming.yielded:
        return []
    found: list[tuple[list[str], UniqueConstraint | None]] = [(incoming.spec.key, None)]
    for unique in incoming.spec.uniques:
        columns = [column.name for column in unique.columns]
        if set(columns) <= incoming.yielded.keys():
            found.append((columns, unique))
    return found


def _nulls_not_distinct(unique: UniqueConstraint) -> bool:
    return bool(unique.dialect_options["postgresql"]["nulls_not_distinct"])
