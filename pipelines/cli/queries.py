"""`atlas runs`, `ask`, `drift`, `trace`, `rebuild`, `as-of`, `diff`: what the warehouse has, and where it comes from.

Not here: how rows are traced and derived again (`lineage`), what counts as drift (`landing.schema_drift`).
"""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Any

import typer
from psycopg import sql

from pipelines import ledger, project
from pipelines.cli import context, show
from pipelines.cli.context import StreamNames
from pipelines.errors import AtlasError
from pipelines.landing import schema_drift
from pipelines.lineage import rebuild, time_travel, trace
from pipelines.lineage.time_travel import DomainAsOf
from pipelines.schema.table_spec import names
from pipelines.transform import table_digests
from pipelines.warehouse.database import Connection

RunId = Annotated[str, typer.Argument(help="Id of a run in the ledger, or its first characters.", metavar="RUN")]


def runs(
    name: Annotated[
        str | None, typer.Argument(help="Only this domain, source or stream (domain/source.kind).", metavar="[NAME]")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many, newest first.")] = 20,
) -> None:
    """Show the ledger: what was landed and transformed, with status and counts."""
    streams = project.find_streams([name]) if name else []
    wanted = [name, *(each.name for each in streams)] if name else None
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        rows = connection.execute(
            """
            select fetch_run_id, stream, kind, partition_key, status, started_at, ended_at, fetched, created, updated,
                observed, unchanged, deleted, quarantined, pending, duplicates, stats, error_text
            from ops.fetch_runs
            where %(wanted)s::text[] is null or stream = any(%(wanted)s)
            order by fetch_run_id desc limit %(limit)s
            """,
            {"wanted": wanted, "limit": limit},
        ).fetchall()
    show.result(rows)
    lines = [
        {
            "id": str(row["fetch_run_id"])[: show.ID_LENGTH],
            "run": row["kind"],
            "stream": row["stream"],
            "day": row["partition_key"],
            "status": row["status"],
            "result": row["error_text"] or show.counts(row, row["stats"]),
        }
        for row in rows
    ]
    show.table("Ledger, newest first", lines)


def drift(streams: StreamNames = None) -> None:
    """Show what changed since the first landing of a stream: JSON paths and types that SELECTs read, and new keys."""
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        found = [
            each for stream in project.find_streams(streams or []) for each in schema_drift.changes(connection, stream)
        ]
    show.result(found)
    shown = ("what", "stream", "path", "type", "share", "lacking", "run", "payload_id")
    show.table("Changed JSON paths", [{name: each[name] for name in shown} for each in found])
    for each in found:
        if each["effects"]:
            show.say(schema_drift.sentence(each))


def ask(
    questions: Annotated[list[str] | None, typer.Argument(help="Names of questions; without any, all.")] = None,
) -> None:
    """Answer questions about the warehouse. Each is a SELECT that you can build on."""
    known = {each.name: each for each in project.questions()}
    unknown = [name for name in questions or [] if name not in known]
    if unknown:
        raise AtlasError(f"There is no question {unknown[0]!r}. There are: {', '.join(known)}.", usage=True)
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        answers = {name: connection.execute(known[name].text).fetchall() for name in questions or known}
    show.result(answers)
    for name, rows in answers.items():
        show.table(f"{known[name].sentence} ({name})", rows)


def trace_(
    table: Annotated[str | None, typer.Argument(help="Table of a domain: catalog.models.", metavar="[TABLE]")] = None,
    key: Annotated[
        list[str] | None, typer.Argument(help="Primary key of the row, or its id at the source.", metavar="[KEY]")
    ] = None,
) -> None:
    """Show where a row comes from: payload, request, runs, SQL. Without a row: count rows that lead to no payload."""
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        if table is None:
            counted = trace.unproven(connection)
            show.result(counted)
            show.table("Rows, and rows that lead to no payload", counted)
            if unproven := [row["table_name"] for row in counted if row["unproven"]]:
                raise AtlasError(
                    f"Rows of {', '.join(unproven)} lead to no payload: they were not written by Model Atlas. "
                    "To compare them with staging: atlas rebuild DOMAIN --check. To repair them: atlas rebuild DOMAIN."
                )
            return
        if not key:
            spec = trace.find_table(table)
            raise AtlasError(f"Which row of {table}? Name its key: {' '.join(spec.key)}.", usage=True)
        proof = trace.trace(connection, table, " ".join(key))
    show.result(proof)
    landed, derived, found = proof["landed"], proof["derived"], proof["proof"]
    through = f", through a row of {found['through']} that refers to it" if found["through"] else ""
    show.fields(
        {
            "row": f"{found['table_name']} {found['key']}{through}",
            "payload": f"{found['stream']} {found['external_id']}, version_id {found['version_id']}",
            "digest": found["digest"],
            "request": found["request"],
            "received": found["received_at"],
            "landed": f"by run {landed['fetch_run_id']} of day {landed['partition_key']}",
            "derived": f"by run {derived['fetch_run_id']}, {derived['kind']} of day {derived['partition_key']}",
            "sql": f"sql/{found['sql_path']} {found['sql_digest']}",
            "body": show.document(proof["body"]),
            "counters": show.document(proof["counters"]) if proof["counters"] else None,
        }
    )


def rebuild_(
    domain: Annotated[str, typer.Argument(help="The domain to derive again.")],
    check: Annotated[bool, typer.Option("--check", help="Compare only; change nothing.")] = False,
    shrink: Annotated[bool, typer.Option("--shrink", help="Accept that many rows are deleted.")] = False,
) -> None:
    """Derive a domain again from staging with the current SELECT files, and replace or compare its tables."""
    _known(domain)
    with context.warehouse() as warehouse, show.reporting() as reporter:
        if not check:
            run = rebuild.rebuild(warehouse, domain, shrink=shrink, notify=reporter)
            show.result({"run": show.run_as_dict(run)})
            show.table("Tables", [{"table": name, **counts} for name, counts in run.stats["tables"].items()])
            context.end([run])
            return
        compared = rebuild.check(warehouse, domain)
        with warehouse.connect() as connection:
            query = "select from staging.erasures where starts_with(stream, %s) and lifted_at is null"
            erased = connection.execute(query, [f"{domain}/"]).rowcount
    if erased:
        show.note(f"Neither staging nor the tables have anything of {show.number_of(erased, 'erased records')}.")
    show.result(compared)
    show.table("Tables compared with what staging gives", compared)
    if not all(each["same"] for each in compared):
        raise AtlasError(
            "The tables differ from what staging gives. Where the SELECT files have changed, run: "
            f"atlas transform {domain}. Where rows were changed by hand, run: atlas rebuild {domain}."
        )


def as_of(
    run: RunId,
    table: Annotated[str | None, typer.Argument(help="The table to print.", metavar="[TABLE]")] = None,
    schema: Annotated[str | None, typer.Option(help="Write the whole domain as it was into a new schema.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="How many rows to print.")] = None,
) -> None:
    """Print a table as CSV as it was after a run, or write the whole domain as it was into a schema."""
    if (table is None) == (not schema):
        raise AtlasError("Name either a TABLE to print, or a schema to create: --schema NAME.", usage=True)
    with context.warehouse() as warehouse, ledger.open_reader(warehouse) as connection:
        snapshot = time_travel.snapshot_of_run(connection, run)
        domain = _known((table or snapshot.stream).replace(".", "/").split("/")[0])
        with time_travel.as_of(warehouse, domain, snapshot, schema or None) as past:
            inexact = time_travel.why_not_exact(connection, past)
            if table is not None:
                _print_rows(connection, past, table, limit)
            else:
                sizes = {name: table_digests.count(connection, past.table_spec(name))["rows"] for name in past.tables}
                rows = [{"table": f"{schema}.{name}", "rows": number} for name, number in sizes.items()]
    if schema:
        show.result({"tables": rows, "taken_as_now": past.decided_by_applications})
        show.table(f"As it was after run {snapshot.run_id}", rows)
        drop = sql.SQL("drop schema {} cascade;").format(sql.Identifier(schema)).as_string()
        show.note(f"The schema stays until it is dropped in psql: {drop}")
    _note_taken_as_now([past])
    if inexact:
        raise AtlasError(inexact)
    show.note(f"as recorded by run {snapshot.run_id}")


def diff(
    before: RunId, after: RunId, table: Annotated[str | None, typer.Option(help="Only this table.")] = None
) -> None:
    """Show which rows and cells differ between two runs, and why: another payload, other counters, other SQL."""
    with context.warehouse() as warehouse, ledger.open_reader(warehouse) as connection, ExitStack() as stack:
        runs = [time_travel.snapshot_of_run(connection, run) for run in (before, after)]
        domain = _known(runs[1].stream.split("/")[0])
        old, new = (stack.enter_context(time_travel.as_of(warehouse, domain, run)) for run in runs)
        if table:
            new.table_spec(table)
        inexact = " ".join(filter(None, (time_travel.why_not_exact(connection, past) for past in (old, new))))
        differences = time_travel.differences(connection, old, new)
        found = (each for each in differences if table in (None, each["table"]))
        if show.wants_json:
            taken_as_now = sorted({*old.decided_by_applications, *new.decided_by_applications})
            show.result({"differences": list(found), "taken_as_now": taken_as_now})
        else:
            number = 0
            for each in found:
                show.say(_difference(each))
                number += 1
            show.say(show.number_of(number, "differing rows"))
    _note_taken_as_now([old, new])
    if inexact:
        raise AtlasError(inexact)


def _difference(each: dict[str, Any]) -> str:
    """A changed row in one line, and a line for each cell."""
    proof = each["after"] if each["change"] != "removed" else each["before"]
    words = {
        "payload": f"payload {proof and (proof.get('request') or '')}",
        "sql": f"sql {(each['before'] or {}).get('sql') or '—'} → {(each['after'] or {}).get('sql') or '—'}",
    }
    line = f"{each['change']:>8}  {each['table']} {each['key']}  ({words.get(each['cause'], each['cause'])})"
    cells = each["cells"] if each["change"] == "changed" else {}
    changed = (f"          {name}: {show.short(old)} → {show.short(new)}" for name, (old, new) in cells.items())
    return "\n".join([line, *changed])


def _note_taken_as_now(states: Sequence[DomainAsOf]) -> None:
    """Names the tables whose rows of applications have decided about past states."""
    for name in sorted({name for state in states for name in state.decided_by_applications}):
        show.note(
            f"{name}: rows of applications are taken as they are now: they have keys that sources yield too, or rows "
            "from sources refer to them, or they refer to a row that has a key before others."
        )


def _print_rows(connection: Connection, past: DomainAsOf, table: str, limit: int | None) -> None:
    """Prints the rows from sources as CSV, or in one JSON document; without audit columns that the engine fills."""
    spec = past.table_spec(table)
    query = sql.SQL("select {} from {} t where {} order by {} limit {}").format(
        names(spec.content), spec.target, spec.from_source("t"), names(spec.key), sql.Literal(limit)
    )
    if show.wants_json:
        rows = connection.execute(query).fetchall()
        show.result({"rows": rows, "taken_as_now": past.decided_by_applications})
        return
    with connection.cursor().copy(sql.SQL("copy ({}) to stdout (format csv, header)").format(query)) as copy:
        for block in copy:
            sys.stdout.buffer.write(block)
    sys.stdout.flush()


def _known(domain: str) -> str:
    """The domain. Raises AtlasError where it does not exist."""
    if domain not in project.domains():
        raise AtlasError(f"There is no domain {domain!r}. There are: {', '.join(project.domains())}.", usage=True)
    return domain
