"""`ops.schema_drift`: the JSON paths that SELECTs and contracts read, with their types and how many payloads have them.

    new versions, new rejects ──sample──> Tree.walk ──record──> ops.schema_drift ──> changes ──> ledger, check, CLI

A landing inspects up to `MOST_PAYLOADS` of the payloads of a stream that it publishes, chosen by digest, and as many
that it rejects; none that is too large to be decoded (`jsonb.LARGE`). One that lands nothing new writes nothing. A path
has vanished when none of the last payloads has it: so many that, by its share before, `EXPECTED` should have it; or
`ALWAYS`, if at least `EXPECTED` came before and each had it. tests/budgets.py measures the cost.
Belongs here: which payloads are inspected, the table, what a change is. Not here: paths in memory (`json_paths`).
"""

import re
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import msgspec

from pipelines import project
from pipelines.landing.json_paths import (
    EACH_ELEMENT,
    EACH_VALUE,
    MAX_KEYS,
    Steps,
    Tree,
    contract_paths,
    decoded,
    path_text,
)
from pipelines.landing.jsonb import LARGE
from pipelines.ledger import Run
from pipelines.source import Source
from pipelines.warehouse.database import Connection
from pipelines.warehouse.ops_tables import UNREAD

MOST_PAYLOADS = 500
CONTAINERS = ("object", "array")
EXPECTED, ALWAYS = 10, 3
DAYS = 30
"""How long a changed type is worth a warning: nothing says when the SELECT has been adapted to it."""

Change = dict[str, Any]
"""A row of the table, with `what` changed, its `effects` in sentences, and whether it `warns`."""

Readers = dict[str, dict[str, bool]]
"""By SELECT file, the columns that depend on a path; True for one that is NULL without it."""

_LAST_KEY = re.compile(r'\.?("(?:[^"\\]|\\.)*"|[^.\[\]]+)$')


def record(run: Run, source: Source) -> list[Change]:
    """Inspects what a landing publishes, in its transaction; returns the changes that it shows.

    Reads the table `classified`, and staging.rejects before its rows are in quarantine.
    """
    connection = run.connection
    trees: dict[str, Tree] = {}
    with connection.cursor() as cursor:
        for row in cursor.stream(SELECT_SAMPLE, {"run": run.id, "most": MOST_PAYLOADS, "largest": LARGE}):
            if not trees:
                trees = {stream: Tree(paths) for stream, paths in read_paths(source).items()}
            trees[row["stream"]].walk(decoded(row["body"] or row["bytes"]), row["digest"])
    if not trees:
        return []
    known = connection.execute(SELECT_ROWS, {"streams": list(trees), "days": DAYS}).fetchall()
    rows = [
        (stream, *row)
        for stream, tree in trees.items()
        for row in _rows(tree, [row for row in known if row["stream"] == stream])
    ]
    connection.execute(UPSERT_ROWS, [run.id, *(list(column) for column in zip(*rows, strict=True))])
    return [each for each in changes(connection, source) if each["run"] == run.id or each["what"] == "vanished path"]


def read_paths(source: Source) -> dict[str, dict[Steps, Readers]]:
    """The paths that SELECTs and contracts read and what holds these, by stream, each with its readers."""
    from pipelines import columns  # sqlglot takes a while to import, and a landing of nothing new does not need it

    result: dict[str, dict[Steps, Readers]] = {
        source.streams[kind]: {steps: {} for steps in contract_paths(msgspec.inspect.type_info(contract))}
        for kind, contract in source.contracts.items()
    }
    for select in project.selects(source.name):
        found = columns.reads(source, select)
        for kind, steps in found.paths:
            for length in range(len(steps) + 1):
                readers = result[source.streams[kind]].setdefault(steps[:length], {})
                below = steps[max(0, length - 1) :]
                is_row = EACH_ELEMENT in below or EACH_VALUE in below  # without it there is no row, and no NULL
                named = readers.setdefault(f"sql/{select.file.address}.sql", {})
                for name, is_null in found.columns.get((kind, steps), {}).items():
                    named[name] = named.get(name, True) and is_null and not is_row
    return result


def changes(connection: Connection, source: Source) -> list[Change]:
    """What changed after the first landing of each stream at paths that are read, and new unread keys; newest first."""
    result: list[Change] = []
    read = {
        stream: {path_text(steps): readers for steps, readers in paths.items()}
        for stream, paths in read_paths(source).items()
    }
    rows = connection.execute(SELECT_ROWS, {"streams": list(read), "days": DAYS}).fetchall()
    for (stream, path), group in groupby(rows, lambda row: (row["stream"], row["path"])):
        types = list(group)
        if path in read[stream]:
            found = _changed([row for row in types if row["type"] != UNREAD])
            result += [each | {"effects": _effects(each, read[stream][path])} for each in found]
        elif types[0]["type"] == UNREAD and types[0]["first_seq"] > types[0]["stream_first_seq"]:
            result.append(_change("new key", types[0], "first", warns=False) | {"effects": []})
    return sorted(result, key=lambda each: -each["publish_seq"])


def _rows(tree: Tree, known: list[dict[str, Any]]) -> Iterator[tuple[str, str, int, int, bytes | None]]:
    """What the payloads of a landing add to the table: path, type, payloads that have it, of how many, a sample."""
    before = {(row["path"], row["type"]): row["of_payloads"] + row["lacking"] for row in known}
    for path, of_payloads in tree.of_payloads.items():
        types = {kind for at, kind in before.keys() | tree.payloads.keys() if at == path}
        earlier = max((before.get((path, kind), 0) for kind in types), default=0) or sum(
            row["payloads"] for row in known if row["path"] == tree.around.get(path) and row["type"] in CONTAINERS
        )
        for kind in types:
            key = path, kind
            total = of_payloads if key in before else of_payloads + earlier
            yield path, kind, tree.payloads[key], total, tree.samples.get(key)
    unread = [_LAST_KEY.sub("", path) or "$" for path, kind in before if kind == UNREAD]
    for path, keys in tree.unread.items():
        new = [key for key in keys if (key, UNREAD) not in before]
        for key in new[: max(0, MAX_KEYS - unread.count(path))]:
            yield key, UNREAD, 0, 0, keys[key]


def _changed(types: list[dict[str, Any]]) -> Iterator[Change]:
    """The changes of one path, of whose types each has a row."""
    if not types:
        return
    whole = max(types, key=lambda row: row["last_seq"]) | {
        "type": ", ".join(row["type"] for row in types),
        "payloads": sum(row["payloads"] for row in types),
        "of_payloads": max(row["of_payloads"] for row in types),
        "lacking": min(row["lacking"] for row in types),
    }
    if _has_vanished(whole):
        yield _change("vanished path", whole, "last", warns=True)
        return
    first_seq = min(row["first_seq"] for row in types)
    for row in types:
        if _has_vanished(row):
            yield _change("vanished type", row, "last", warns=row["last_is_recent"])
        elif row["first_seq"] > first_seq:
            yield _change("new type", row, "first", warns=row["first_is_recent"])


def _has_vanished(row: dict[str, Any]) -> bool:
    """Whether so many payloads lack it that it is no chance."""
    if row["payloads"] >= row["of_payloads"] >= EXPECTED and row["lacking"] >= ALWAYS:
        return True
    return bool(row["lacking"] * row["payloads"] >= EXPECTED * row["of_payloads"] > 0)


def _change(what: str, row: dict[str, Any], which: str, *, warns: bool) -> Change:
    names = ("stream", "path", "type", "payloads", "of_payloads", "lacking", "payload_id")
    share = min(1.0, round(row["payloads"] / row["of_payloads"], 4)) if row["of_payloads"] else None
    run = {"run": row[f"{which}_run"], "publish_seq": row[f"{which}_seq"]}
    return {"what": what, **{name: row[name] for name in names}, "share": share, **run, "warns": warns}


def _effects(change: Change, readers: Readers) -> list[str]:
    """What a change does to the columns that depend on the path, a sentence for each SELECT file."""
    sentences = []
    for file, columns in readers.items():
        gone = change["what"] == "vanished path"
        nulls = [name for name, is_null in columns.items() if gone and is_null]
        others = [name for name in columns if name not in nulls]
        of = f"{change['lacking']} of {change['lacking']}"
        said = [f"{', '.join(nulls)} {'is' if len(nulls) == 1 else 'are'} NULL in {of}"] if nulls else []
        said += [f"{', '.join(others)} {'depends' if len(others) == 1 else 'depend'} on it"] if others else []
        sentences.append(f"{file}: {'; '.join(said) or 'which rows there are depends on it'}")
    return sentences


def sentence(change: Change) -> str:
    """A change and its effects in words."""
    said = f"{change['what']} {change['path']} ({change['type']}) of {change['stream']}"
    return f"{said}: {'. '.join(change['effects'])}" if change["effects"] else said


SELECT_SAMPLE = """
with published as (
    select stream, digest, counters_digest, counters, paths,
        row_number() over (partition by stream order by coalesce(counters_digest, digest)) as place
    from classified where result in ('created', 'updated', 'observed')
),

rejected as (
    select distinct on (r.stream, r.digest) r.stream, r.digest, r.bytes,
        row_number() over (partition by r.stream order by r.digest) as place
    from staging.rejects r
    where r.fetch_run_id = %(run)s and not exists (
        select from staging.quarantine q
        where q.stage = 'land' and q.stream = r.stream and q.digest = r.digest)
)

select r.stream, r.digest, b.body, null as bytes
from published r
cross join lateral (
    select (case when r.paths is null then p.body else ops.restore_volatile_fields(p.body, r.counters, r.paths) end)
        ::text as body
    from staging.payloads p
    where p.digest = r.digest
    order by (p.counters_digest is null) = (r.counters_digest is null) desc, p.payload_id limit 1
) as b
where r.place <= %(most)s and octet_length(b.body) <= %(largest)s
union all
select stream, digest, null, bytes from rejected where place <= %(most)s and octet_length(bytes) <= %(largest)s
"""

UPSERT_ROWS = """
insert into ops.schema_drift as d (stream, path, type, first_run, last_run, payloads, of_payloads, payload_id)
select stream, path, type, run, run, seen, of_payloads,
    (select p.payload_id from staging.payloads p where p.digest = r.digest order by p.payload_id limit 1)
from (select %s::uuid) as this (run),
    unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bytea[])
        as r (stream, path, type, seen, of_payloads, digest)
on conflict (stream, path, type) do update set
    last_run = case when excluded.payloads > 0 then excluded.last_run else d.last_run end,
    payloads = d.payloads + excluded.payloads,
    of_payloads = case
        when excluded.payloads > 0 then d.of_payloads + d.lacking + excluded.of_payloads else d.of_payloads
    end,
    lacking = case when excluded.payloads > 0 then 0 else d.lacking + excluded.of_payloads end
"""

SELECT_ROWS = """
with runs as (
    select fetch_run_id, coalesce(publish_seq, 9223372036854775807) as publish_seq, coalesce(ended_at, now()) as at
    from ops.fetch_runs
)

select d.stream, d.path, d.type, d.payloads, d.of_payloads, d.lacking, coalesce(d.payload_id::text, '') as payload_id,
    d.first_run, d.last_run, f.publish_seq as first_seq, l.publish_seq as last_seq,
    min(f.publish_seq) over (partition by d.stream) as stream_first_seq,
    f.at > now() - make_interval(days => %(days)s) as first_is_recent,
    l.at > now() - make_interval(days => %(days)s) as last_is_recent
from ops.schema_drift d
join runs f on f.fetch_run_id = d.first_run
join runs l on l.fetch_run_id = d.last_run
where d.stream = any(%(streams)s)
order by d.stream, d.path collate "C", d.type
"""
