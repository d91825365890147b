"""`ops.schema_drift`: the JSON paths that SELECTs and contracts read, with their types and how many payloads have them.

    new versions, new rejects ──sample──> Tree.walk ──record──> ops.schema_drift ──> changes ──> ledger, check, CLI

A landing inspects up to `MOST_PAYLOADS` of the payloads of a stream that it publishes, chosen by digest, and as many
that it rejects; none that is too large to be decoded (`jsonb.LARGE`). A path has vanished when none of the last
payloads has it: so many that, by its share before, `EXPECTED` should have it; or `ALWAYS`, if at least `EXPECTED` came
before and each had it.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import groupby
from typing import Any

import msgspec

from pipelines import project
from pipelines.connectors.json_values import EACH_ELEMENT, EACH_VALUE, types_at
from pipelines.landing.json_paths import Readers, Tree
from pipelines.landing.jsonb import LARGE
from pipelines.ledger import Run
from pipelines.schema.ops_tables import NULL, UNREAD
from pipelines.source import Source, Stream
from pipelines.warehouse.database import Connection

MOST_PAYLOADS = 500
EXPECTED, ALWAYS = 10, 3
DAYS = 30  # how long a new type is worth a warning: nothing says when the SELECT has been adapted to it
MAX_KEYS = 64  # of one object that are kept as unread; where an object has more, its keys are data

Change = dict[str, Any]
"""A row of the table, with `what` changed, in which `run`, its `effects` in sentences, and whether it `warns`."""

_LAST_KEY = re.compile(r'\.?("(?:[^"\\]|\\.)*"|[^.\[\]]+)$')


def record(run: Run, stream: Stream) -> list[Change]:
    """Inspects what a landing publishes, in its transaction; returns the changes that it shows.

    Reads the table `classified`, and staging.rejects before its rows are in quarantine.
    """
    connection = run.connection
    trees: dict[str, Tree] = {}
    with connection.cursor() as cursor:
        for row in cursor.stream(SELECT_SAMPLE, {"run": run.id, "most": MOST_PAYLOADS, "largest": LARGE}):
            trees = trees or _read_paths_of(stream)
            trees[row["stream"]].walk(_decoded(row["body"] or row["bytes"]), row["digest"])
    if not trees:
        return []
    known = _known(connection, trees)
    rows = [row for stream, tree in trees.items() for row in _rows(stream, tree, known)]
    connection.execute(UPSERT_ROWS, [run.id, *(list(column) for column in zip(*rows, strict=True))])
    found = _changes(connection, trees)
    return [each for each in found if each["run"] == run.id or each["what"] == "vanished path"]


def read_paths(source: Source) -> dict[str, Tree]:
    """The paths that SELECTs and contracts read, and what holds these, by stream."""
    from pipelines import columns  # sqlglot takes a while to import, and a landing of nothing new does not need it

    trees = {stream: Tree() for stream in source.stream_names.values()}
    for kind, contract in source.contracts.items():
        for place, _ in types_at(msgspec.inspect.type_info(contract)):
            trees[source.stream_names[kind]].root.at(place)
    for select in project.selects(source.name):
        found = columns.reads(source, select)
        for kind, steps in sorted(found.paths, key=str):
            for length in range(len(steps) + 1):
                node = trees[source.stream_names[kind]].root.at(steps[:length])
                named = node.readers.setdefault(f"sql/{select.file.address}.sql", {})
                below = steps[max(0, length - 1) :]
                is_row = EACH_ELEMENT in below or EACH_VALUE in below  # without it there is no row, and no NULL
                for name, is_null in found.columns.get((kind, steps), {}).items():
                    named[name] = named.get(name, True) and is_null and not is_row
    return trees


def _read_paths_of(stream: Stream) -> dict[str, Tree]:
    """The same of a stream, and of those that come with it."""
    trees = read_paths(stream.source)
    return {name: trees[name] for name in stream.names.values()}


def changes(connection: Connection, stream: Stream) -> list[Change]:
    """What changed after the first landing of a stream at paths that are read, and new unread keys; newest first."""
    return _changes(connection, _read_paths_of(stream))


def _changes(connection: Connection, trees: dict[str, Tree]) -> list[Change]:
    readers = {(stream, node.path): node.readers for stream, tree in trees.items() for node in tree.root.nodes()}
    result: list[Change] = []
    for key, group in groupby(_known(connection, trees), lambda row: (row["stream"], row["path"])):
        rows = list(group)
        if key in readers:
            result += _changed([row for row in rows if row["type"] not in (NULL, UNREAD)], readers[key])
        elif rows[0]["type"] == UNREAD and rows[0]["first_seq"] > rows[0]["stream_first_seq"]:
            result.append(rows[0] | {"what": "new key", "run": rows[0]["first_run"], "effects": [], "warns": False})
    return sorted(result, key=lambda each: -each["first_seq"])


def sentence(change: Change) -> str:
    """A change and its effects in words."""
    said = f"{change['what']} {change['path']} ({change['type']}) of {change['stream']}"
    return f"{said}: {'. '.join(change['effects'])}" if change["effects"] else said


def _known(connection: Connection, trees: dict[str, Tree]) -> list[Change]:
    return connection.execute(SELECT_ROWS, {"streams": list(trees), "days": DAYS}).fetchall()


def _rows(stream: str, tree: Tree, known: list[Change]) -> Iterator[tuple[str, str, str, int, int, bytes | None]]:
    """What payloads add to the table: stream, path, type, how many have it, of how many, the digest of one."""
    own = [row for row in known if row["stream"] == stream]
    before = {(row["path"], row["type"]): row["of_payloads"] + row["lacking"] for row in own}
    types_of: dict[str, set[str]] = {}
    for path, kind in before.keys() | tree.payloads.keys():
        types_of.setdefault(path, set()).add(kind)
    for path, of_payloads in tree.of_payloads.items():
        types = (types_of.get(path, set()) - {UNREAD}) or {NULL}
        earlier = max(before.get((path, kind), 0) for kind in types)
        for kind in types:
            total = of_payloads if (path, kind) in before else of_payloads + earlier
            yield stream, path, kind, tree.payloads[path, kind], total, tree.samples.get((path, kind))
    unread = [_LAST_KEY.sub("", path) or "$" for path, kind in before if kind == UNREAD]
    for path, keys in tree.unread.items():
        new = [key for key in keys if (key, UNREAD) not in before]
        for key in new[: max(0, MAX_KEYS - unread.count(path))]:
            yield stream, key, UNREAD, 0, 0, keys[key]


def _changed(types: list[dict[str, Any]], readers: Readers) -> Iterator[Change]:
    """The changes of one path, of whose types each has a row."""
    if not types:
        return
    payloads, of_payloads = sum(row["payloads"] for row in types), max(row["of_payloads"] for row in types)
    lacking = min(row["lacking"] for row in types)
    always = payloads >= of_payloads >= EXPECTED and lacking >= ALWAYS
    if always or lacking * payloads >= EXPECTED * of_payloads > 0:
        last = max(types, key=lambda row: row["last_seq"])
        effects = [_effect(file, columns, lacking) for file, columns in readers.items()]
        found = {"what": "vanished path", "run": last["last_run"], "effects": effects, "warns": True}
        yield last | found | {"type": ", ".join(row["type"] for row in types), "lacking": lacking}
        return
    for row in types:
        if row["first_seq"] > min(row["first_seq"] for row in types):
            effects = [_effect(file, columns, None) for file, columns in readers.items()]
            yield row | {"what": "new type", "run": row["first_run"], "effects": effects, "warns": row["is_recent"]}


def _effect(file: str, columns: dict[str, bool], lacking: int | None) -> str:
    """What a change does to the columns of a SELECT that depend on the path. lacking: payloads in which it is gone."""
    nulls = [name for name, is_null in columns.items() if lacking and is_null]
    others = [name for name in columns if name not in nulls] or (["which rows there are"] if not nulls else [])
    said = [f"{', '.join(nulls)} {'is' if len(nulls) == 1 else 'are'} NULL in {lacking} of {lacking}"] if nulls else []
    said += [f"{', '.join(others)} {'depends' if len(others) == 1 else 'depend'} on it"] if others else []
    return f"{file}: {'; '.join(said)}"


def _decoded(body: bytes | str) -> Any:
    """The value of a JSON text; None, if it is not JSON or is nested too deep."""
    with suppress(ValueError, RecursionError):
        try:
            return msgspec.json.decode(body)
        except msgspec.DecodeError:  # it is fast, and strict
            return json.loads(body, parse_int=float)
    return None


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
    where r.fetch_run_id = %(run)s and r.granularity = 'payload' and r.reason <> 'not_kept' and not exists (
        select from staging.quarantine q
        where q.granularity = 'payload' and q.stream = r.stream and q.digest = r.digest)
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
    (select p.payload_id from (
        select payload_id from staging.payloads where digest = r.digest
        offset 0 -- keeps PostgreSQL from reading the payloads in their order until one has the digest
    ) as p order by p.payload_id limit 1)
from (select %s::uuid) as this (run),
    unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[], %s::bytea[])
        as r (stream, path, type, seen, of_payloads, digest)
on conflict (stream, path_key, type) do update set
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

select d.stream, d.path, d.type, d.payloads, d.of_payloads, d.share::float8, d.lacking,
    coalesce(d.payload_id::text, '') as payload_id, d.first_run, d.last_run,
    f.publish_seq as first_seq, l.publish_seq as last_seq,
    min(f.publish_seq) over (partition by d.stream) as stream_first_seq,
    f.at > now() - make_interval(days => %(days)s) as is_recent
from ops.schema_drift d
join runs f on f.fetch_run_id = d.first_run
join runs l on l.fetch_run_id = d.last_run
where d.stream = any(%(streams)s)
order by d.stream, d.path collate "C", d.type
"""
