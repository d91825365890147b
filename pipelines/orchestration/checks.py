"""The checks `ledger_agrees` on every asset and `proven` on each table.

    newest materialization = row of ops.fetch_runs        every row of a table ──ops.trace──> payload, run, SQL

Belongs here: checks that compare Dagster, ledger and tables. Not here: the check `drift` (`drift_checks`).
"""

from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from pipelines import project
from pipelines.ledger import Counts
from pipelines.lineage import trace
from pipelines.orchestration.assets import staging_key, table_key
from pipelines.orchestration.resources import Atlas
from pipelines.source import Source
from pipelines.warehouse.database import Connection

Tables = dict[dg.AssetKey, str | None]
"""The assets of a source with the names of their tables; None for the staging asset."""
Verdict = tuple[bool, dict[str, Any]]
"""Whether a check passes, and its metadata."""


def ledger_checks(source: Source) -> dg.AssetChecksDefinition:
    """A check for each asset of a source: its newest materialization has the counts of its ledger row."""

    def agrees(instance: dg.DagsterInstance, connection: Connection, key: dg.AssetKey, table: str | None) -> Verdict:
        event = instance.get_latest_materialization_event(key)
        materialization = event.asset_materialization if event else None
        metadata = {name: value.value for name, value in materialization.metadata.items()} if materialization else {}
        row = connection.execute(
            "select * from ops.fetch_runs where fetch_run_id::text = %s", [metadata.get("fetch_run_id")]
        ).fetchone()
        reported = _counts(metadata)
        recorded = _counts(row["stats"]["tables"][table] if table else row) if row else {}
        return bool(recorded) and reported == recorded, {"materialization": reported, "ledger": recorded}

    words = "The metadata has the same counts as ops.fetch_runs."
    return _checks(source, "ledger_agrees", words, {staging_key(source): None, **_tables(source)}, agrees)


def proof_checks(source: Source) -> dg.AssetChecksDefinition:
    """A check for each table of a source: each of its rows, of other sources too, leads to its payload."""

    def proven(_: dg.DagsterInstance, connection: Connection, __: dg.AssetKey, table: str | None) -> Verdict:
        counted = next(iter(trace.unproven(connection, table)), {"rows": 0, "unproven": 0})
        return not counted["unproven"], counted

    return _checks(source, "proven", "Each row leads to its payload.", _tables(source), proven)


def _checks(
    source: Source,
    name: str,
    description: str,
    tables: Tables,
    check: Callable[[dg.DagsterInstance, Connection, dg.AssetKey, str | None], Verdict],
) -> dg.AssetChecksDefinition:
    """A check of one name on each of some assets, which can be run alone."""

    @dg.multi_asset_check(
        name=f"{source.domain}__{source.stem}__{name}",
        specs=[dg.AssetCheckSpec(name, asset=key, description=description) for key in tables],
        required_resource_keys={"atlas"},
        can_subset=True,
    )
    def checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        atlas: Atlas = context.resources.atlas
        with atlas.opened() as warehouse, warehouse.connect() as connection:
            for key in (each.asset_key for each in context.selected_asset_check_keys):
                passed, metadata = check(context.instance, connection, key, tables[key])
                yield dg.AssetCheckResult(passed=passed, check_name=name, asset_key=key, metadata=metadata)

    return checks


def _tables(source: Source) -> Tables:
    return {table_key(select): select.table.fullname for select in project.selects(source.name)}


def _counts(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in vars(Counts()) if name in found}
