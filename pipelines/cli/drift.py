"""`atlas drift`: JSON paths and types that are new in payloads, or have vanished from them.

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
    """Show JSON paths and types that are new since the first landing of a stream, or have vanished; newest first."""
    streams = [stream for source in project.find_sources(names or []) for stream in source.streams.values()]
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        found = schema_drift.changes(connection, streams)
    if json:
        show.as_json(found)
        return
    rows = [
        {
            "what": each["what"],
            "stream": each["stream"],
            "path": each["path"],
            "type": each["type"],
            "share": f"{each['share']:.1%}",
            "missed": each["missed"],
            "run": str(each["run"])[: show.ID_LENGTH],
            "sample": each["payload_id"],
        }
        for each in found
    ]
    show.table("New and vanished JSON paths", rows)
