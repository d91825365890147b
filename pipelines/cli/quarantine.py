"""`atlas quarantine`: lists payloads and rows that were rejected, shows why, and lands payloads again.

Belongs here: options and output. Not here: the entries (`pipelines.quarantine`), landing (`landing.land`).
"""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from pipelines import project, quarantine
from pipelines.cli import context, show
from pipelines.cli.context import AsJson
from pipelines.errors import AtlasError
from pipelines.landing import land
from pipelines.source import Contract, Payload, Window
from pipelines.warehouse.database import Connection, Warehouse

app = typer.Typer(help="Payloads and rows that were rejected, and why.", no_args_is_help=True)

Number = Annotated[int, typer.Argument(help="Number of the entry, as `list` shows it.", metavar="ID")]


@app.command("list")
def list_(
    stream: Annotated[
        str | None, typer.Argument(help="Only this domain, source or stream.", metavar="[SOURCE]")
    ] = None,
    closed: Annotated[bool, typer.Option("--closed", help="Show closed entries too.")] = False,
    json: AsJson = False,
) -> None:
    """List the entries, oldest first."""
    names = None
    if stream:
        kinds = {each for source in project.sources().values() for each in source.streams.values()}
        names = [stream] if stream in kinds else [source.name for source in project.find_sources([stream])]
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        rows = quarantine.entries(connection, names=names, closed=closed)
    if json:
        show.as_json(rows)
        return
    show.table("Quarantine", [_brief(row) for row in rows])


def _brief(row: dict[str, Any]) -> dict[str, Any]:
    """An entry as the list shows it."""
    where = row["path"] or (f"byte {row['byte_offset']}" if row["byte_offset"] is not None else row["constraint_name"])
    return {
        "id": row["quarantine_id"],
        "source": row["stream"],
        "what": row["table_name"] or row["request"],
        "record": row["external_id"],
        "reason": row["reason"],
        "where": where,
        "detail": row["detail"],
        "seen": row["seen"],
        "state": "closed" if row["closed_at"] else "open",
    }


@app.command("show")
def show_(quarantine_id: Number, json: AsJson = False) -> None:
    """Show all of an entry, with its exact bytes (in JSON: base64) or its row."""
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        found = quarantine.entry(connection, quarantine_id)
    found["digest"] = found["digest"] and found["digest"].hex()
    if json:
        show.as_json(found)
        return
    exact = found.pop("bytes")
    for name, value in found.items():
        if value is not None:
            words = show.document(value) if name == "row" else value
            show.out.print(f"{name:>15}  {words}", highlight=False, markup=False)
    if exact is not None:
        words = show.visible(bytes(exact))
        show.out.print(f"{'bytes':>15}  {words}", highlight=False, markup=False)


@app.command()
def replay(
    quarantine_id: Annotated[
        int | None, typer.Argument(help="Number of one entry; without one, all entries.", metavar="[ID]")
    ] = None,
    repaired: Annotated[Path | None, typer.Option("--with", help="File with the repaired payload.")] = None,
    json: AsJson = False,
) -> None:
    """Land payloads again after a contract has changed, or land a repaired payload.

    Rejected rows are validated again by `atlas transform --full`, or when their record changes.
    """
    if repaired and quarantine_id is None:
        raise AtlasError(
            "A repaired payload is for one entry. Give its number: atlas quarantine replay ID --with FILE",
            usage=True,
        )
    with context.warehouse() as warehouse, show.reporting() as reporter:
        if repaired and quarantine_id is not None:
            _land_repaired(warehouse, quarantine_id, repaired, reporter)
        else:
            _land_again(warehouse, quarantine_id, reporter)
    if json:
        show.as_json([show.run_as_dict(run) for run in reporter.runs])
    else:
        show.out.print("\n".join(map(show.run_line, reporter.runs)) or "Nothing to replay.", highlight=False)
    context.end(reporter.runs)


def _entry(connection: Connection, quarantine_id: int) -> dict[str, Any]:
    """An open entry of a payload. Raises AtlasError for one that is closed, or of a row."""
    found = quarantine.entry(connection, quarantine_id)
    if found["stage"] != "land":
        raise AtlasError(
            f"Entry {quarantine_id} is a row of {found['table_name']}, not a payload: repair its record at the source, "
            f"or the SELECT, and run: atlas transform {found['stream']} --full",
            usage=True,
        )
    if found["closed_at"]:
        raise AtlasError(f"Entry {quarantine_id} is closed: its record has landed.", usage=True)
    return found


def _received(found: dict[str, Any]) -> datetime:
    """When the payload of an entry was received: a repaired one is not newer than what was received after it."""
    seen: datetime = found["last_at"]
    return min(Window.of(found["partition_key"]).last, seen)


def _land_repaired(warehouse: Warehouse, quarantine_id: int, repaired: Path, reporter: show.Reporter) -> None:
    """Lands a repaired payload in place of the one of an entry. Raises AtlasError where it is of another record."""
    with warehouse.connect() as connection:
        found = _entry(connection, quarantine_id)
    if not repaired.is_file():
        raise AtlasError(f"There is no file {repaired}.", usage=True)
    body = repaired.read_bytes().strip()
    try:
        msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise AtlasError(f"{repaired.name} should hold one JSON document: {error}.", usage=True) from None
    source, kind = project.find_stream(found["stream"])
    self_named = source.contracts[kind].external_id is not Contract.external_id
    external_id = None if self_named else found["external_id"]
    payload = Payload(body, f"{repaired.name} (repairs entry {quarantine_id})", external_id, kind=kind)
    land.land_items(
        warehouse,
        source,
        found["partition_key"],
        [payload],
        fetched_at=_received(found),
        replaces_entry=quarantine_id,
        notify=reporter,
    )
    with warehouse.connect() as connection:
        left = quarantine.entry(connection, quarantine_id)
    if reporter.runs[-1].status == "completed" and not left["closed_at"]:
        raise AtlasError(
            f"{repaired.name} has landed, but it is of another record than entry {quarantine_id}, which stays open: "
            f"that is of {left['external_id']}."
        )


def _land_again(warehouse: Warehouse, quarantine_id: int | None, reporter: show.Reporter) -> None:
    """Lands one entry again, or all of them one by one, each as of the day it was received."""
    with warehouse.connect() as connection:
        if quarantine_id is None:
            chosen = [row["quarantine_id"] for row in quarantine.entries(connection) if row["stage"] == "land"]
        else:
            chosen = [quarantine_id]
        for number in chosen:
            found = _entry(connection, number)
            source, kind = project.find_stream(found["stream"])
            payload = Payload(bytes(found["bytes"]), found["request"], found["external_id"], kind=kind)
            land.land_items(
                warehouse,
                source,
                found["partition_key"],
                [payload],
                fetched_at=_received(found),
                notify=reporter,
            )
