"""The checks `ledger_agrees` on every asset and `proven` on each table.

    newest materialization = row of ops.fetch_runs        every row of a table ──ops.trace──> payload, run, SQL

Belongs here: checks that compare Dagster, ledger and tables. Not here: the check `drift` (`drift_checks`).
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg

from pipelines import project
from pipelines.ledger import Counts
from pipelines.lineage import trace
from pipelines.orchestration.assets import staging_key, table_key
from pipelines.orchestration.resources import Atlas
from pipelines.source import Source


def ledger_checks(source: Source) -> dg.AssetChecksDefinition:
    """A check for each asset of a source: its newest materialization has the counts of its ledger row."""
    tables: dict[dg.AssetKey, str | None] = {staging_key(source): None}
    tables |= {table_key(select): select.table.fullname for select in project.selects(source.name)}

    @dg.multi_asset_check(
        name=f"{source.domain}__{source.stem}__ledger",
        specs=[
            dg.AssetCheckSpec(
                "ledger_agrees", asset=key, description="The metadata has the same counts as ops.fetch_runs."
            )
            for key in tables
        ],
        required_resource_keys={"atlas"},
        can_subset=True,
    )
    def ledger_agrees(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        atlas: Atlas = context.resources.atlas
        with atlas.opened() as warehouse, warehouse.connect() as connection:
            for check in context.selected_asset_check_keys:
                event = context.instance.get_latest_materialization_event(check.asset_key)
                reported = _reported(event.asset_materialization) if event else {}
                row = connection.execute(
                    "select * from ops.fetch_runs where fetch_run_id::text = %s", [reported.pop("fetch_run_id", None)]
                ).fetchone()
                recorded = _recorded(row, tables[check.asset_key]) if row else {}
                yield dg.AssetCheckResult(
                    passed=bool(recorded) and reported == recorded,
                    check_name=check.name,
                    asset_key=check.asset_key,
                    metadata={"materialization": reported, "ledger": recorded},
                )

    return ledger_agrees


def proof_checks(source: Source) -> dg.AssetChecksDefinition:
    """A check for each table of a source: each of its rows, of other sources too, leads to its payload."""
    tables = {table_key(select): select.table.fullname for select in project.selects(source.name)}

    @dg.multi_asset_check(
        name=f"{source.domain}__{source.stem}__proven",
        specs=[dg.AssetCheckSpec("proven", asset=key, description="Each row leads to its payload.") for key in tables],
        required_resource_keys={"atlas"},
        can_subset=True,
    )
    def proven(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        atlas: Atlas = context.resources.atlas
        with atlas.opened() as warehouse, warehouse.connect() as connection:
            for check in context.selected_asset_check_keys:
                counted = next(iter(trace.unproven(connection, tables[check.asset_key])), {"rows": 0, "unproven": 0})
                yield dg.AssetCheckResult(
                    passed=not counted["unproven"], check_name=check.name, asset_key=check.asset_key, metadata=counted
                )

    return proven


NAMES = tuple(vars(Counts()))


def _reported(materialization: dg.AssetMaterialization | None) -> dict[str, Any]:
    """The id of the run and its counts in the metadata of a materialization."""
    metadata = materialization.metadata if materialization else {}
    return {name: value.value for name, value in metadata.items() if name in (*NAMES, "fetch_run_id")}


def _recorded(row: dict[str, Any], table: str | None) -> dict[str, Any]:
    """The counts in a ledger row: of the run, or of one table in it."""
    counts = row["stats"]["tables"][table] if table else row
    return {name: counts[name] for name in NAMES}
