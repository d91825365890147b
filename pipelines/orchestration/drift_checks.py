"""The check `drift` on each staging asset: the JSON paths that SELECT files rely on are still there, of the same types.

    ops.schema_drift ──changes──> those of paths that SELECT files or the contract read ──> a warning in the Dagster UI

It warns of a path that vanished, for as long as it is gone, and of a type that is new or vanished, for `DAYS`. New
paths, a first value after nulls, and paths that are not watched are listed in the metadata, and the check passes.
The paths that a SELECT reads by name are watched. Keys that it reads as data (`.*`) are not.
Belongs here: which changes deserve a warning. Not here: what counts as drift (`pipelines.landing.schema_drift`).
"""

import re
from typing import Any

import dagster as dg
import msgspec

from pipelines import project
from pipelines.landing import schema_drift
from pipelines.landing.json_paths import ROOT, contract_paths
from pipelines.orchestration.assets import drift_table, staging_key
from pipelines.orchestration.resources import Atlas
from pipelines.source import Source
from pipelines.warehouse.database import Connection

DAYS = 30
"""How many days a changed type is worth a warning: the check cannot know when the SELECT has been adapted to it."""

Change = dict[str, Any]

_KEY = re.compile(r'\[(?:\*|\d+)\]|(\*|"(?:[^"\\]|\\.)*"|[^.\[]+)')


def drift_check(source: Source) -> dg.AssetChecksDefinition:
    """Warns where the payloads of a source no longer have what its SELECT files rely on."""

    @dg.asset_check(
        name="drift",
        asset=staging_key(source),
        description="The JSON paths that SELECT files rely on are there, with the types they had.",
        required_resource_keys={"atlas"},
    )
    def drift(context: dg.AssetCheckExecutionContext) -> dg.AssetCheckResult:
        atlas: Atlas = context.resources.atlas
        paths = WatchedPaths(source)
        with atlas.opened() as warehouse, warehouse.connect() as connection:
            changes = schema_drift.changes(connection, list(source.streams.values()))
            warned = warnings(connection, source, paths, changes)
        others = [each for each in changes if each not in warned]
        tables = {name: found for name, found in (("watched", warned), ("others", others)) if found}
        return dg.AssetCheckResult(
            passed=not warned,
            severity=dg.AssetCheckSeverity.WARN,
            description=", ".join(f"{each['what']} {each['path']} ({each['type']})" for each in warned[:5]) or None,
            metadata={
                "changes": len(changes),
                **{name: dg.MetadataValue.md(drift_table(found)) for name, found in tables.items()},
                **({"unparsed": paths.problems} if paths.problems else {}),
            },
        )

    return drift


def warnings(connection: Connection, source: Source, paths: "WatchedPaths", changes: list[Change]) -> list[Change]:
    """The changes that may leave a column NULL although no row is rejected."""
    parameters = {
        "streams": list(source.streams.values()),
        "runs": [each["run"] for each in changes],
        "days": DAYS,
    }
    recent = {row["fetch_run_id"] for row in connection.execute(RECENT_RUNS, parameters)}
    several_types = {(row["stream"], row["path"]) for row in connection.execute(SEVERAL_TYPES, parameters)}

    def deserves_warning(change: Change) -> bool:
        match change["what"]:
            case "vanished path":
                return True
            case "vanished type":
                return change["run"] in recent
            case "new type":
                another = change["type"] != "null" and (change["stream"], change["path"]) in several_types
                return another and change["run"] in recent
        return False

    return [each for each in changes if deserves_warning(each) and paths.contains(each["stream"], each["path"])]


class WatchedPaths:
    """The JSON paths that the SELECT files or the contract of a source read.

    problems: the SELECT files that could not be parsed, with the reason. If there is one, every path is watched.
    """

    def __init__(self, source: Source) -> None:
        from pipelines import columns  # sqlglot takes a while to import, and the definitions do not need it

        found = {select.file.address: columns.reads(source, select) for select in project.selects(source.name)}
        self.problems = {f"sql/{address}.sql": reads.problem for address, reads in found.items() if reads.problem}
        self.read = {
            (source.streams[kind], _without_elements(steps)) for reads in found.values() for kind, steps in reads.paths
        }
        self.unresolved = {
            step for reads in found.values() for steps in reads.unresolved for step in _without_elements(steps)
        }
        self.contracts = {
            source.streams[kind]: {path for path, _ in contract_paths(msgspec.inspect.type_info(contract))}
            for kind, contract in source.contracts.items()
        }

    def contains(self, stream: str, path: str) -> bool:
        """Whether a path, written as in `ops.schema_drift`, is watched."""
        if self.problems or path == ROOT or path in self.contracts[stream]:
            return True
        keys = [msgspec.json.decode(key) if key.startswith('"') else key for key in _KEY.findall(path) if key]
        if keys and keys[-1] in self.unresolved:
            return True
        return any(_leads_to(keys, read) for of_stream, read in self.read if of_stream == stream)


def _without_elements(steps: tuple[str | int, ...]) -> tuple[str, ...]:
    """The keys of a path: a lax JSON path steps into arrays by itself, so steps to elements are not compared."""
    return tuple(step for step in steps if isinstance(step, str) and step != "[*]")


def _leads_to(keys: list[str], read: tuple[str, ...]) -> bool:
    """Whether keys are those of a path that is read, or its first ones; `*` in them stands for keys without a name."""
    if len(keys) > len(read) or not all(
        key == step or "*" in (key, step) or (step.startswith("~") and re.search(step[1:], key))
        for key, step in zip(keys, read, strict=False)
    ):
        return False
    is_data = bool(keys) and (read[len(keys) - 1] == "*" or read[len(keys) - 1].startswith("~"))
    return not is_data or keys[-1] == "*"


RECENT_RUNS = """
select fetch_run_id from ops.fetch_runs
where fetch_run_id = any(%(runs)s) and ended_at > now() - make_interval(days => %(days)s)
"""

SEVERAL_TYPES = """
select stream, path from ops.schema_drift
where stream = any(%(streams)s) and type <> 'null'
group by stream, path having count(*) > 1
"""
