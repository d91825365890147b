"""Decides which row is written where several rows have one key or one unique value.

Of the rows in the change set the smallest (stream, external id, key) is written, and the others are pending until it is
pruned. A row that loses a unique value is rejected; a row that loses its key to another record is counted as a
duplicate. Belongs here: conflicts between rows. Not: what a row must fit by itself (`constraints`).
"""

from psycopg import sql
from sqlalchemy import UniqueConstraint

from pipelines.transform import rejects
from pipelines.transform.incoming import IncomingTable
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import names

CREATE_CONTESTED = """
create temp table contested_keys (
    number int, value bigint, place tid, rank bigint, key text, record_id uuid
) on commit drop;
create temp table conflict_losers (place tid, number int, winner text, same_record boolean) on commit drop
"""
"""number: which of the table's keys; 0 is the primary key."""

INSERT_CONTESTED = sql.SQL(
    """
    insert into contested_keys (number, value, place)
    select {number}, value, place from (
        select n.place, dense_rank() over (order by {columns}) as value,
            count(*) over (partition by {columns}) as number_of_rows
        from ({rows}) as n where {comparable}
    ) as numbered
    where number_of_rows > 1
    """
)

RANK_CONTESTED = sql.SQL(
    """
    update contested_keys k set rank = r.rank, key = r.key, record_id = r.record_id
    from (
        select n.place, {key} as key, n.record_id, row_number() over (
            order by c.stream collate "C", c.external_id collate "C", {key} collate "C",
                (to_jsonb(n) - 'place')::text collate "C") as rank
        from ({rows}) as n left join change_set c on c.record_id = n.record_id
        where n.place in (select place from contested_keys)
    ) as r
    where r.place = k.place
    """
)

RESOLVE_SMALLEST = """
with winners as (
    select k.place from contested_keys k
    join (select number, value, min(rank) as rank from contested_keys group by number, value) as s using (number, value)
    group by k.place having bool_and(k.rank = s.rank)
),

losers as (
    select distinct on (k.place) k.place, k.number, w.key as winner,
        k.record_id is not distinct from w.record_id as same_record
    from winners
    join contested_keys w using (place)
    join contested_keys k using (number, value)
    where k.place <> w.place
    order by k.place, k.number
),

inserted as (
    insert into conflict_losers select * from losers
)

delete from contested_keys where place in (select place from winners union all select place from losers)
"""

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
        self.connection.execute(CREATE_CONTESTED)
        contested = sum(self._insert_contested(incoming, number, *key) for number, key in enumerate(keys))
        if contested:
            ranked = RANK_CONTESTED.format(rows=incoming.typed_rows(), key=incoming.spec.key_text("n"))
            self.connection.execute(ranked)
        while contested:
            contested -= self.connection.execute(RESOLVE_SMALLEST).rowcount
        by_key = self._delete_lost_keys(incoming)
        for number, (columns, unique) in enumerate(keys):
            lost = sql.SQL("o.ctid in (select place from conflict_losers where number = {})").format(
                sql.Literal(number)
            )
            if unique is not None:
                rejects.insert_pending(self.connection, incoming, lost, incoming.spec.name, WINNER_KEY, "unique")
            self._reject(incoming, lost, columns, unique)
        self.connection.execute("drop table contested_keys, conflict_losers")
        return by_key

    def _insert_contested(
        self, incoming: IncomingTable, number: int, columns: list[str], unique: UniqueConstraint | None
    ) -> int:
        """Fills `contested_keys` with the rows that have one value of a key; returns how many."""
        comparable = (
            sql.SQL("true")
            if unique is not None and _nulls_not_distinct(unique)
            else sql.SQL(" and ").join(sql.SQL("n.{} is not null").format(sql.Identifier(column)) for column in columns)
        )
        return self.connection.execute(
            INSERT_CONTESTED.format(
                number=sql.Literal(number),
                columns=names(columns, "n"),
                rows=incoming.typed_rows(),
                comparable=comparable,
            )
        ).rowcount

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
