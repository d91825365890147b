"""`atlas quarantine`: lists payloads and rows that were rejected, shows why, and lands payloads again.

Belongs here: options and output. Not here: the entries (`pipelines.quarantine`), landing (`landing.land`).
"""

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from pipelines import project, quarantine
from pipelines.cli import context, show
from pipelines.cli.context import AsJson
from pipelines.cli.show import Reporter
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
    show.rows("Quarantine", rows if json else [_brief(row) for row in rows], json=json)


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
    found["row"] = found["row"] and show.document(found["row"])
    found["bytes"] = exact and show.visible(bytes(exact))
    show.fields({name: value for name, value in found.items() if value is not None})


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
    with context.runs(json) as (warehouse, reporter), warehouse.connect() as connection:
        if repaired and quarantine_id is not None:
            _land_repaired(warehouse, _entry(connection, quarantine_id), repaired, reporter)
            return
        open_ones = [row["quarantine_id"] for row in quarantine.entries(connection) if row["stage"] == "land"]
        for number in open_ones if quarantine_id is None else [quarantine_id]:
            found = _entry(connection, number)
            payload = Payload(bytes(found["bytes"]), found["request"], found["external_id"], kind=_kind(found))
            _land(warehouse, found, payload, reporter)
        if not (json or reporter.runs):
            show.say("Nothing to replay.")


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


def _kind(found: dict[str, Any]) -> str:
    return project.find_stream(found["stream"])[1]


def _land(
    warehouse: Warehouse, found: dict[str, Any], payload: Payload, reporter: Reporter, replaces: int | None = None
) -> None:
    """Lands the payload of an entry, or a repaired one, which is not newer than what was received after the entry's."""
    received = min(Window.of(found["partition_key"]).last, found["last_at"])
    source, _ = project.find_stream(found["stream"])
    land.land_items(
        warehouse,
        source,
        found["partition_key"],
        [payload],
        fetched_at=received,
        replaces_entry=replaces,
        notify=reporter,
    )


def _land_repaired(warehouse: Warehouse, found: dict[str, Any], repaired: Path, reporter: Reporter) -> None:
    """Lands a repaired payload in place of the one of an entry. Raises AtlasError where it is of another record."""
    number = found["quarantine_id"]
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
    payload = Payload(body, f"{repaired.name} (repairs entry {number})", external_id, kind=kind)
    _land(warehouse, found, payload, reporter, replaces=number)
    with warehouse.connect() as connection:
        left = quarantine.entry(connection, number)
    if reporter.runs[-1].status == "completed" and not left["closed_at"]:
        raise AtlasError(
            f"{repaired.name} has landed, but it is of another record than entry {number}, which stays open: "
            f"that is of {left['external_id']}."
        )
