"""Which of several rows that claim one key is written.

Of rows with one primary key, identity or unique value a row of an application wins, then one that a row of an
application refers to, then the first in the order of streams and external ids. The others are pending until it goes.
"""

from typing import Any

from psycopg import sql

from pipelines.schema.table_spec import TableSpec
from pipelines.transform import rejects
from pipelines.transform.conditions import keyed, refers_of_applications, same_values
from pipelines.transform.incoming import IncomingTable

CREATE_LOSERS = """
create temp table if not exists conflict_losers (
    place tid, number int, winner text, same_record boolean
) on commit drop
"""
"""Rows that lose a key. number: of which unique key."""


def find_losers_to_applications(incoming: IncomingTable) -> int:
    """Finds the rows that lose a key to a row of an application, else to one that is about to become its own; how many.

    Nothing is lost to a row that was a source's and whose primary key is yielded again.
    """
    spec = incoming.spec
    again = sql.SQL("exists (select from {} i where {})").format(incoming.identifier, spec.same_key("i", "q"))
    if not spec.owned:
        again = sql.SQL("false").format()
    was_from_source = sql.SQL("q.record_id is not null" if spec.owned else "false")
    of_applications = sql.SQL("{} and not ({} and {})").format(spec.of_application("q"), was_from_source, again)
    kept = sql.SQL("q.from_source and {} and not {}").format(refers_of_applications(spec, "q"), again)
    found = 0
    for theirs in (of_applications, kept):
        rows = sql.SQL("(select q.* from {} q where {})").format(spec.target, theirs)
        for number, key in enumerate(incoming.unique_keys):
            found += incoming.connection.execute(
                sql.SQL(
                    """
                    insert into conflict_losers
                    select n.ctid, {number}, {winner}, false from {rows} as n join {theirs} as t on {same}
                    where n.ctid not in (select place from conflict_losers)
                    """
                ).format(
                    number=sql.Literal(number),
                    winner=spec.key_text("t"),
                    rows=incoming.keyed_rows(key),
                    theirs=keyed(key, rows),
                    same=same_values(key, "n", "t"),
                )
            ).rowcount
    return found


def find_losers(incoming: IncomingTable) -> None:
    """Finds the rows that lose a key to another row of a source.

    A row that loses one conflict cannot win another, so rows are decided one after the other, the first in order first.
    """
    winners: dict[tuple[int, int], dict[str, Any]] = {}
    losers = []
    for row in incoming.connection.execute(_contested(incoming)):
        keys = [(number, value) for number, value in enumerate(row["values"]) if value is not None]
        taken = next((key for key in keys if key in winners), None)
        if taken is None:
            winners |= dict.fromkeys(keys, row)
        else:
            winner = winners[taken]
            losers.append((row["place"], taken[0], winner["key"], winner["record_id"] == row["record_id"]))
    if losers:
        incoming.connection.execute(
            """
            insert into conflict_losers
            select * from unnest(%s::tid[], %s::int[], %s::text[], %s::boolean[])
            """,
            [list(each) for each in zip(*losers, strict=True)],
        )


def take_out_losers(incoming: IncomingTable) -> int:
    """Takes out the rows in `conflict_losers`: one that loses its primary key to another record, or its identity, is a
    duplicate; the others are rejected. Returns the number of duplicates.
    """
    duplicates = 0
    for number, key in enumerate(incoming.unique_keys):
        lost = sql.SQL("o.ctid in (select place from conflict_losers where number = {})").format(sql.Literal(number))
        if key.primary or key.identity:
            of_others = sql.SQL("{} and o.ctid not in ({})").format(lost, OF_ONE_RECORD) if key.primary else lost
            incoming.insert_pending(of_others, "key", incoming.spec.name, WINNER_KEY)
            if key.identity:
                incoming.insert_alias(of_others, WINNER_KEY)
            delete = sql.SQL("delete from {} o where {}").format(incoming.identifier, of_others)
            duplicates += incoming.connection.execute(delete).rowcount
        else:
            incoming.insert_pending(lost, "unique", incoming.spec.name, WINNER_KEY)
            if incoming.spec.applications:  # it wins once a row of an application refers to its key
                incoming.insert_pending(lost, "unique", incoming.spec.name, incoming.spec.key_text("o"))
            if incoming.spec.identity:  # a row of this identity that comes stands for it
                incoming.insert_pending(lost, "identity", incoming.spec.name, incoming.identity("o"))
        if not key.identity:
            detail = sql.Literal(f"another row has this {', '.join(key.columns)}")
            rejects.reject(incoming, lost, "unique", key.name, detail)
    incoming.connection.execute("truncate conflict_losers")
    return duplicates


def _contested(incoming: IncomingTable) -> sql.Composed:
    """The query CONTESTED over the rows of a table."""
    values: list[sql.Composable] = []
    counts: list[sql.Composable] = []
    inner: list[sql.Composable] = []
    for number, key in enumerate(incoming.unique_keys):
        columns = [sql.Identifier(f"unique_{number}_{at}") for at in range(len(key.expressions))]
        inner += [sql.SQL("{} as {}").format(each, name) for name, each in zip(columns, key.expressions, strict=True)]
        inner.append(sql.SQL("{} as {}").format(key.where, compared := sql.Identifier(f"compared_{number}")))
        listed = sql.SQL(", ").join(columns)
        comparable = sql.SQL("{} and num_nulls({}) = 0").format(compared, listed)
        if key.nulls_equal:
            comparable = sql.SQL("{}").format(compared)
        case = sql.SQL("case when {} then {} end")
        values.append(case.format(comparable, sql.SQL("dense_rank() over (order by {})").format(listed)))
        counts.append(case.format(comparable, sql.SQL("count(*) over (partition by {}, {})").format(compared, listed)))
    return CONTESTED.format(
        key=incoming.spec.key_text("r"),
        inner=sql.SQL(", ").join(inner),
        values=sql.SQL(", ").join(values),
        counts=sql.SQL(", ").join(counts),
        rows=incoming.typed_rows(),
        order=order_of(incoming.spec, "c"),
        in_use=refers_of_applications(incoming.spec, "r"),
    )


CONTESTED = sql.SQL(
    """
    select place::text, record_id, key, values from (
        select n.place, n.record_id, n.key, array[{values}] as values, greatest({counts}) as most,
            row_number() over (order by n.in_use desc, {order}, n.key collate "C", n.whole collate "C") as rank
        from (
            select r.ctid as place, r.record_id, {key} as key, (to_jsonb(r) - 'ctid')::text as whole,
                {in_use} as in_use, {inner}
            from ({rows}) as r
        ) as n
        left join change_set c on c.record_id = n.record_id
    ) as numbered
    where most > 1 order by rank
    """
)
"""The rows that share a key, in the order in which they win. values: a number for the value of each key; null is not
comparable."""


def order_of(spec: TableSpec, alias: str, external_id: str = "external_id") -> sql.Composed:
    """The order in which rows win a key, by stream and external id: the declared precedence first."""
    return sql.SQL('coalesce(array_position({}::text[], {}), {}), {} collate "C", {} collate "C"').format(
        list(spec.precedence),
        stream := sql.Identifier(alias, "stream"),
        len(spec.precedence) + 1,
        stream,
        sql.Identifier(*external_id.split(".")) if "." in external_id else sql.Identifier(alias, external_id),
    )


OF_ONE_RECORD = sql.SQL("select place from conflict_losers where same_record")

WINNER_KEY = sql.SQL("(select winner from conflict_losers where place = o.ctid limit 1)")
