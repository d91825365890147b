"""`atlas drift`: JSON paths that SELECTs read and that vanished or changed their type, and new keys.

Belongs here: its options and output. Not here: what counts as drift (`pipelines.landing.schema_drift`).
"""

from typing import Annotated

import typer

from pipelines import project
from pipelines.cli import context, show
from pipelines.cli.context import AsJson
from pipelines.landing import schema_drift


def drift_(
    names: Annotated[
        list[str] | None, typer.Argument(help="Domains and sources; without any, all of them.", metavar="[SOURCE]")
    ] = None,
    json: AsJson = False,
) -> None:
    """Show what changed since the first landing of a stream: JSON paths and types that SELECTs read, and new keys."""
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        found = [
            each for source in project.find_sources(names or []) for each in schema_drift.changes(connection, source)
        ]
    if json:
        show.as_json(found)
        return
    rows = [
        {
            "what": each["what"],
            "stream": each["stream"],
            "path": each["path"],
            "type": each["type"],
            "share": "" if each["share"] is None else f"{each['share']:.1%}",
            "lacking": each["lacking"],
            "run": str(each["run"])[: show.ID_LENGTH],
            "sample": each["payload_id"],
        }
        for each in found
    ]
    show.table("Changed JSON paths", rows)
    for each in found:
        if each["effects"]:
            typer.echo(schema_drift.sentence(each))
