"""`atlas quarantine`, `prune` and `erase`: what was rejected, data to remove.

Not here: the entries (`pipelines.quarantine`), what is removed (`pipelines.maintenance`).
"""

from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from pipelines import project, quarantine
from pipelines.cli import context, show
from pipelines.cli.context import StreamName, Yes
from pipelines.cli.show import Reporter, with_json
from pipelines.errors import AtlasError
from pipelines.landing import contract_changes, land
from pipelines.landing.redaction import NOT_KEPT
from pipelines.maintenance import erased_rows, erasure, retention
from pipelines.source import Contract, Payload
from pipelines.warehouse.database import Connection, Warehouse

app = typer.Typer(help="Payloads, rows and values that were rejected, and why.", no_args_is_help=True)


Names = Annotated[list[str] | None, typer.Argument(help="Only these domains, sources or streams.", metavar="[NAME]...")]
WIDTH = 80  # of the groups


@app.command("list")
@with_json
def list_(
    names: Names = None,
    each: Annotated[bool, typer.Option("--each", help="List each entry.")] = False,
    closed: Annotated[bool, typer.Option("--closed", help="Count, or list, closed entries too.")] = False,
) -> None:
    """Count the entries by source, table, reason and place; example is the newest entry."""
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        find = quarantine.entries if each else quarantine.groups
        rows = find(connection, names=_streams(names), closed=closed)
    show.result(rows)
    if each or not rows:
        shown = (
            "quarantine_id",
            "granularity",
            "stream",
            "external_id",
            "reason",
            "where",
            "detail",
            "seen",
            "closed_at",
        )
        lines = [{name: row[name] for name in shown} | {"from": row["table_name"] or row["request"]} for row in rows]
        show.table("Quarantine", lines)
        return
    for (stream, table), group in groupby(rows, lambda row: (row["stream"], row["table_name"])):
        found = list(group)
        title = f"{table} from {stream}" if table else stream
        if referring := sum(row["referring_rows"] for row in found):
            title += f", and {show.number_of(referring, 'rows')} that refer to these"
        show.table(title, [_group(row) for row in found], width=WIDTH)
    show.say("One entry: atlas quarantine show EXAMPLE. All: atlas quarantine list --each")


def _group(row: Mapping[str, Any]) -> dict[str, Any]:
    """A line of a group of entries."""
    return {
        "example": str(row["example"]),
        "entries": row["entries"],
        "seen": row["seen"],
        "newest": f"{row['last_at']:%Y-%m-%d %H:%M}",
        "what": row["granularity"],
        "reason": row["reason"],
        "where": row["where"],
    }


def _streams(names: list[str] | None) -> list[str] | None:
    """The streams and sources that names stand for; None for all. Raises AtlasError for an unknown name."""
    if not names:
        return None
    found = project.find_streams(names)
    return [*names, *(each.source.name for each in found if not set(names) & set(each.names.values()))]


@app.command("show")
@with_json
def show_(quarantine_id: Annotated[int, typer.Argument(help="Number of the entry.", metavar="ID")]) -> None:
    """Show all of an entry, with its exact bytes (in JSON: base64), its row, or its value as it came."""
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        found = quarantine.entry(connection, quarantine_id)
    del found["entry_key"]
    found["digest"] = found["digest"] and found["digest"].hex()
    show.result(found)
    exact = found.pop("bytes")
    found["row"] = found["row"] and show.document(found["row"])
    found["bytes"] = exact and show.visible(bytes(exact))
    show.fields(found)


@app.command()
@with_json
def check(names: Names = None) -> None:
    """List the payloads that a contract refused and that today's one, which has changed, would let in."""
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        rows = contract_changes.let_in(connection, _streams(names))[::-1]
    show.result(rows)
    show.table("Let in by today's contracts", [row | {"quarantine_id": str(row["quarantine_id"])} for row in rows])
    if rows:
        show.say(f"To land them: atlas quarantine replay {' '.join(str(row['quarantine_id']) for row in rows)}")


@app.command()
@with_json
def replay(
    quarantine_ids: Annotated[
        list[int] | None, typer.Argument(help="Numbers of entries; without any, all of payloads.", metavar="[ID]...")
    ] = None,
    repaired: Annotated[Path | None, typer.Option("--with", help="File with the repaired payload.")] = None,
) -> None:
    """Land payloads again after a contract has changed, or land a repaired payload.

    Rejected rows are validated again by `atlas transform --full`, or when their record changes.
    """
    if repaired and len(quarantine_ids or []) != 1:
        raise AtlasError(
            "A repaired payload is for one entry. Give its number: atlas quarantine replay ID --with FILE", usage=True
        )
    with context.runs() as (warehouse, reporter), warehouse.connect() as connection:
        open_ones = [
            row["quarantine_id"]
            for row in quarantine.entries(connection)
            if row["granularity"] == "payload" and row["reason"] != NOT_KEPT
        ]
        for number in quarantine_ids or open_ones:
            _replay(warehouse, connection, number, repaired, reporter)
        if not reporter.runs:
            show.say("Nothing to replay.")


def _replay(
    warehouse: Warehouse, connection: Connection, number: int, repaired: Path | None, reporter: Reporter
) -> None:
    """Lands the payload of an entry, or a repaired one in its place, no newer than what was received after the entry.

    Raises AtlasError for an entry that is closed or of a row, and for a repaired payload that is of another record.
    """
    found = quarantine.entry(connection, number)
    if found["granularity"] != "payload":
        what = f"a {found['granularity']} of {found['table_name'] or found['external_id']}"
        source, _, _ = found["stream"].partition(".")
        mend = f"or the SELECT, and run: atlas transform {source} --full"
        if found["stage"] == "land":
            mend = "or the contract: the next landing of the record closes the entry"
        raise AtlasError(
            f"Entry {number} is {what}, not a payload: repair its record at the source, {mend}", usage=True
        )
    if found["closed_at"]:
        raise AtlasError(f"Entry {number} is closed: its record has landed.", usage=True)
    of, kind = project.find_stream(found["stream"])
    if found["reason"] == NOT_KEPT and not repaired:
        raise AtlasError(
            f"Entry {number} has no bytes: {found['stream']} has redacted paths, and what cannot be read is not kept. "
            f"Fetch it again: atlas run {of.name} --partition {found['partition_key']}",
            usage=True,
        )
    payload = Payload(bytes(found["bytes"]), found["request"], found["external_id"], kind=kind)
    if repaired:
        self_named = of.source.contracts[kind].external_id is not Contract.external_id
        external_id = None if self_named else found["external_id"]
        payload = Payload(_document(repaired), f"{repaired.name} (repairs entry {number})", external_id, kind=kind)
    run = land.land_items(
        warehouse,
        of,
        found["partition_key"],
        [payload],
        received_at=found["received_at"],
        replaces_entry=number if repaired else None,
        notify=reporter,
    )
    if repaired and run.status == "completed" and not quarantine.entry(connection, number)["closed_at"]:
        raise AtlasError(
            f"{repaired.name} has landed, but it is of another record than entry {number}, which stays open: "
            f"that is of {found['external_id']}."
        )


def _document(file: Path) -> bytes:
    """The JSON document in a file. Raises AtlasError where it holds none."""
    if not file.is_file():
        raise AtlasError(f"There is no file {file}.", usage=True)
    body = file.read_bytes().strip()
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AtlasError(f"{file.name} should hold one JSON document: {error}.", usage=True) from None
    return body


def _days(name: str, what: str) -> object:
    """An option that overrides a `keep_…_days` setting."""
    return typer.Option(
        f"--{name}-days", min=0, help=f"Days to keep {what}, instead of ATLAS_KEEP_{name.upper()}_DAYS."
    )


def prune(
    versions: Annotated[int | None, _days("versions", "superseded versions")] = None,
    quarantine: Annotated[int | None, _days("quarantine", "closed quarantine entries")] = None,
    events: Annotated[int | None, _days("events", "Dagster's events")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would be removed.")] = False,
) -> None:
    """Remove what is older than the settings keep. What the rows of tables are derived from stays."""
    settings = context.current_settings(
        keep_versions_days=versions, keep_quarantine_days=quarantine, keep_events_days=events
    )
    with context.warehouse() as warehouse, show.reporting() as reporter:
        if dry_run:
            removed = dict(sorted(retention.count_prunable(warehouse, settings).items()))
        else:
            removed = retention.prune(warehouse, settings, notify=reporter).stats["removed"]
    show.result({"dry_run": dry_run, "removed": removed})
    title = "Would be removed" if dry_run else "Removed"
    show.table(title, [{"what": kind, "number": number} for kind, number in removed.items()])


def erase(
    stream: StreamName,
    external_id: Annotated[str, typer.Argument(help="The source's own id of the record.")],
    lift: Annotated[bool, typer.Option("--lift", help="Allow an erased record to land again.")] = False,
    yes: Yes = False,
) -> None:
    """Remove a record from staging, quarantine and tables for good; it does not land again. Asks first."""
    of, _ = project.find_stream(stream)
    with context.warehouse() as warehouse:
        if lift:
            if not erasure.lift(warehouse, stream, external_id):
                raise AtlasError(f"No record {external_id!r} of {stream} is erased.", usage=True)
            show.result({"lifted": True})
            show.say(f"{stream} {external_id} may land again.")
            return
        stored = erasure.preview(warehouse, stream, external_id)
        same_person = [
            {"stream": other, "external_id": its_id, "command": erased_rows.command(other, its_id)}
            for other, its_id in stored.reach.same_person
        ]
        for each in same_person:
            show.note(f"{each['stream']} {each['external_id']} names the same person. Erase it too: {each['command']}")
        if not yes:
            there = [
                show.number_of(number, name.replace("_", " ")) for name, number in stored.staging.items() if number
            ]
            there += _of_applications(stored.reach.rows, stored.reach.cleared)
            question = f"Erase {stream} {external_id} for good ({', '.join(there)})?"
            context.confirm(question, "Nothing is erased. To erase without being asked: --yes.")
        run = erasure.erase(warehouse, of, stream, external_id)
    erased = run.stats["erased"]
    words = f"{show.number_of(erased['versions'], 'versions')}, {show.number_of(run.counts.deleted, 'rows')}"
    rows = {name: number for name, number in erased.items() if name.startswith(f"{of.source.domain}.")}
    if of_applications := _of_applications(rows, run.stats["cleared"]):
        words += f" ({', '.join(of_applications)})"
    words += "."
    if shared := erased["shared_bodies"]:
        words += f" {show.number_of(shared, 'bodies')} kept: another record has the same."
    show.result({"run": show.run_as_dict(run), "same_person": same_person})
    show.say(f"Erased by run {run.id}: {words}")


def _of_applications(rows: Mapping[str, int], cleared: Mapping[str, int]) -> list[str]:
    """What an erasure does to rows of applications, in words."""
    return [
        *(f"{show.number_of(number, 'rows')} of applications in {name}" for name, number in rows.items()),
        *(f"{show.number_of(number, 'references')} in {column} cleared" for column, number in cleared.items()),
    ]
