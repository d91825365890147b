"""Checks: what Dagster was told of a run is what the ledger says; each row of a table leads to its payload."""

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
    """One check an asset of the source: the counts in its newest materialization are the ledger's."""
    tables: dict[dg.AssetKey, str | None] = {staging_key(source): None}
    tables |= {table_key(select): select.table.fullname for select in project.selects(source.name)}

    @dg.multi_asset_check(
        name=f"{source.domain}__{source.stem}__ledger",
        specs=[
            dg.AssetCheckSpec(
                "ledger_agrees", asset=key, description="Metadata and ops.fetch_runs tell the same counts."
            )
            for key in tables
        ],
        required_resource_keys={"atlas"},
        can_subset=True,
    )
    def agrees(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        atlas: Atlas = context.resources.atlas
        with atlas.opened() as warehouse, warehouse.connect() as connection:
            for check in context.selected_asset_check_keys:
                event = context.instance.get_latest_materialization_event(check.asset_key)
                told = _told(event.asset_materialization) if event else {}
                row = connection.execute(
                    "select * from ops.fetch_runs where fetch_run_id::text = %s", [told.pop("fetch_run_id", None)]
                ).fetchone()
                written = _written(row, tables[check.asset_key]) if row else {}
                yield dg.AssetCheckResult(
                    passed=bool(written) and told == written,
                    check_name=check.name,
                    asset_key=check.asset_key,
                    metadata={"materialization": told, "ledger": written},
                )

    return agrees


def proof_checks(source: Source) -> dg.AssetChecksDefinition:
    """One check a table of the source: it has no row that nothing proves, whichever source it is from."""
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


def _told(materialization: dg.AssetMaterialization | None) -> dict[str, Any]:
    metadata = materialization.metadata if materialization else {}
    return {name: value.value for name, value in metadata.items() if name in (*NAMES, "fetch_run_id")}


def _written(row: dict[str, Any], table: str | None) -> dict[str, Any]:
    counts = row["stats"]["tables"][table] if table else row
    return {name: counts[name] for name in NAMES}
