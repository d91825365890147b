"""A check on each source's staging asset: nothing that its SQL relies on has gone, or changed its type.

It warns of a path that vanished, for as long as it is gone and relied upon; of a type that came beside another or
vanished, for `DAYS`. New paths, a first null, and what no SELECT reads are told and pass. What the SQL relies on is
what a contract names, and each path whose last key stands in quotes in a SELECT file of the source: that may be one
path too many, and is never one too few that is read by name. Keys that are read as data (`.*`) are not looked for.
Belongs here: what of the drift is worth a warning. Not: what drift is (`pipelines.landing.schema_drift`).
"""

import re
from typing import Any

import dagster as dg
import msgspec

from pipelines import project
from pipelines.landing import schema_drift
from pipelines.landing.json_paths import ROOT, named
from pipelines.orchestration.assets import drift_table, staging_key
from pipelines.orchestration.resources import Atlas
from pipelines.source import Source
from pipelines.warehouse.database import Connection

DAYS = 30
"""So long a change of type is worth a warning: there is nothing that tells when the SQL has followed it."""

Change = dict[str, Any]

_COMMENT, _QUOTED = re.compile("--.*"), re.compile("'[^']*'")
_NAMES = re.compile(r'(?:^|\.)("(?:[^"\\]|\\.)*"|[^.\[*"]+)')


def drift_check(source: Source) -> dg.AssetChecksDefinition:
    """Warns where payloads of a source no longer are what its SQL relies on."""

    @dg.asset_check(
        name="drift",
        asset=staging_key(source),
        description="What the SELECT files rely on is there, with the types it had.",
        required_resource_keys={"atlas"},
    )
    def drifted(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        atlas: Atlas = context.resources.atlas
        with atlas.opened() as warehouse, warehouse.connect() as connection:
            changes = schema_drift.changes(connection, list(source.streams.values()))
            worth = worth_a_warning(connection, source, changes)
        others = [each for each in changes if each not in worth]
        tables = {name: found for name, found in (("relied_upon", worth), ("others", others)) if found}
        return dg.AssetCheckResult(
            passed=not worth,
            severity=dg.AssetCheckSeverity.WARN,
            description=", ".join(f"{each['what']} {each['path']} ({each['type']})" for each in worth[:5]) or None,
            metadata={
                "changes": len(changes),
                **{name: dg.MetadataValue.md(drift_table(found)) for name, found in tables.items()},
            },
        )

    return drifted


def worth_a_warning(connection: Connection, source: Source, changes: list[Change]) -> list[Change]:
    """Those changes that may leave a column empty without a word."""
    parameters = {
        "streams": list(source.streams.values()),
        "runs": [each["run"] for each in changes],
        "days": DAYS,
    }
    recent = {row["fetch_run_id"] for row in connection.execute(RECENT, parameters)}
    several = {(row["stream"], row["path"]) for row in connection.execute(SEVERAL, parameters)}

    def is_worth_it(change: Change) -> bool:
        match change["what"]:
            case "vanished path":
                return True
            case "vanished type":
                return change["run"] in recent
            case "new type":
                unlike = change["type"] != "null" and (change["stream"], change["path"]) in several
                return unlike and change["run"] in recent
        return False

    relies = Reliance(source)
    return [each for each in changes if is_worth_it(each) and relies.on(each["stream"], each["path"])]


class Reliance:
    """What the SQL of a source relies on, as far as contracts and what SELECT files quote tell."""

    def __init__(self, source: Source) -> None:
        sql = "\n".join(select.file.text for select in project.selects(source.name))
        self.quoted = "\n".join(_QUOTED.findall(_COMMENT.sub("", sql)))
        self.named = {
            source.streams[kind]: {path for path, _ in named(msgspec.inspect.type_info(contract))}
            for kind, contract in source.contracts.items()
        }

    def on(self, stream: str, path: str) -> bool:
        if path == ROOT or path in self.named[stream]:
            return True
        names = [name.strip('"') for name in _NAMES.findall(path)]
        return not names or re.search(rf"(?<!\w){re.escape(names[-1])}(?!\w)", self.quoted) is not None


RECENT = """
select fetch_run_id from ops.fetch_runs
where fetch_run_id = any(%(runs)s) and ended_at > now() - make_interval(days => %(days)s)
"""

SEVERAL = """
select stream, path from ops.schema_drift
where stream = any(%(streams)s) and type <> 'null'
group by stream, path having count(*) > 1
"""
