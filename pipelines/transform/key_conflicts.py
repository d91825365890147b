"""Who has a key or a unique value that several rows claim.

Of the rows of a scope the smallest (stream, external id, key) has what it claims, and the others wait for it to go.
What a record has that is left out of the scope stays its own. Belongs here: claims between records. Not: what a row
must be whatever others there are (`misfits`).
"""

from psycopg import sql
from sqlalchemy import UniqueConstraint

from pipelines.transform import rejects
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import TableSpec, names


class ConflictResolver:
    """The claims of one run's rows."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def held(self, shape: TableSpec) -> int:
        """Takes away rows that have a key or a unique value of a row that stays, as its record is left out; how many
        are no misfits.
        """
        held = 0
        for columns, unique in _claimable(shape):
            same = sql.SQL(" and ").join(sql.SQL("n.{0} = t.{0}").format(sql.Identifier(each)) for each in columns)
            holder = HOLDER.format(
                placed=rejects.placed(shape), target=shape.target, same=same, key=shape.key_text("t")
            )
            lost = sql.SQL("o.ctid in (select place from ({}) as h)").format(holder)
            key = sql.SQL("(select key from ({}) as h where place = o.ctid limit 1)").format(holder)
            rejects.wait(self.connection, shape, lost, shape.name, key, "claim" if unique is None else "unique")
            if unique is None:
                delete = sql.SQL("delete from {} o where {}").format(shape.incoming, lost)
                held += self.connection.execute(delete).rowcount
            else:
                detail = sql.Literal(f"another row has this {', '.join(columns)}")
                rejects.split(self.connection, shape, lost, reason="unique", constraint=str(unique.name), detail=detail)
        return held

    def decide(self, shape: TableSpec) -> int:
        """Takes away rows that have a key or a unique value of another; how many are told twice, and are no misfits.

        The smallest row has what it claims. What lost one claim is not there to win another, so that rows are decided
        one after the other, smallest first, as far as they contest anything.
        """
        claims = _claimable(shape)
        if not claims:
            return 0
        self.connection.execute(CONTESTED)
        contested = sum(self._contest(shape, number, *claim) for number, claim in enumerate(claims))
        if contested:
            ranked = RANK.format(placed=rejects.placed(shape), key=shape.key_text("n"))
            self.connection.execute(ranked)
        while contested:
            contested -= self.connection.execute(DECIDE).rowcount
        twice = self._lost_keys(shape)
        for number, (columns, each) in enumerate(claims):
            lost = sql.SQL("o.ctid in (select place from losers where claim = {})").format(sql.Literal(number))
            if each is not None:
                rejects.wait(self.connection, shape, lost, shape.name, WINNER, "unique")
            rejects.split(
                self.connection,
                shape,
                lost,
                reason="unique",
                constraint=str(each.name) if each is not None else f"{shape.table.name}_pkey",
                detail=sql.Literal(f"another row has this {', '.join(columns)}"),
            )
        self.connection.execute("drop table contested, losers")
        return twice

    def _contest(self, shape: TableSpec, number: int, columns: list[str], unique: UniqueConstraint | None) -> int:
        """Notes the rows that claim what another one claims too."""
        known = (
            sql.SQL("true")
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
            ).format(number=sql.Literal(number), columns=names(columns, "n"), placed=rejects.placed(shape), known=known)
        ).rowcount

    def _lost_keys(self, shape: TableSpec) -> int:
        """Takes away rows whose key another record has: they wait, and are no misfits."""
        lost = sql.SQL("o.ctid in (select place from losers where claim = 0 and not itself)")
        rejects.wait(self.connection, shape, lost, shape.name, WINNER, "claim")
        return self.connection.execute(sql.SQL("delete from {} o where {}").format(shape.incoming, lost)).rowcount


def _claimable(shape: TableSpec) -> list[tuple[list[str], UniqueConstraint | None]]:
    """What each row of a record may have alone: its key, unique values."""
    if "record_id" not in shape.yielded:
        return []
    found: list[tuple[list[str], UniqueConstraint | None]] = [(shape.key, None)]
    for unique in shape.uniques:
        columns = [column.name for column in unique.columns]
        if set(columns) <= shape.yielded.keys():
            found.append((columns, unique))
    return found


def _nulls_collide(unique: UniqueConstraint) -> bool:
    return bool(unique.dialect_options["postgresql"]["nulls_not_distinct"])


HOLDER = sql.SQL(
    """
    select n.place, {key} as key from ({placed}) as n
    join {target} t on {same} join left_out l on l.record_id = t.record_id
    where n.record_id is distinct from t.record_id
      and not exists (select from scope s where s.record_id = l.record_id)
    """
)

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
