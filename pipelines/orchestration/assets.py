"""The assets of a source: its staging asset, which lands it, and one asset for each of its SELECT files.

    catalog/civitai ──> catalog/civitai/models, catalog/civitai/images, …

A run processes a range of partitions; each has its own ledger row and its own materialization. Where a partition
fails, the others are materialized first, then the run fails and names it. The tables of a source are written in one
transaction, so they are materialized together.
Belongs here: asset specs, and what a run reports as metadata. Not here: what a run does (`landing`, `transform`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import dagster as dg
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.landing import extract
from pipelines.landing.land import land_intake
from pipelines.ledger import Run
from pipelines.orchestration.resources import Atlas
from pipelines.project import Select
from pipelines.source import Source, Window
from pipelines.transform.run import transform
from pipelines.warehouse.database import Warehouse

Work = Callable[..., Run]
"""Lands or transforms a partition, which is given as `partition`, in a warehouse."""


class LandConfig(dg.Config):
    """full_refresh: reads all of the source, not only what is new.

    shrink: accepts a listing that has lost more than a fifth of its records.
    """

    full_refresh: bool = False
    shrink: bool = False


class TransformConfig(dg.Config):
    """full: applies all latest versions of the partition again, not only pending ones.

    shrink: accepts that a table loses more than a fifth of its rows, or that a SELECT fails on many records.
    """

    full: bool = False
    shrink: bool = False


def staging_key(source: Source) -> dg.AssetKey:
    return dg.AssetKey(source.name.split("/"))


def table_key(select: Select) -> dg.AssetKey:
    return dg.AssetKey(select.file.address.split("/"))


def _daily(source: Source) -> dict[str, Any]:
    """What all assets of a source share: one partition a day, from its first day to today; a run takes a range."""
    return {
        "partitions_def": dg.DailyPartitionsDefinition(start_date=source.start_date.isoformat(), end_offset=1),
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "pool": source.domain,
        "required_resource_keys": {"atlas"},
    }


def landing_op(source: Source) -> str:
    return f"{source.domain}__{source.stem}"


def staging_asset(source: Source) -> dg.AssetsDefinition:
    """The staging asset of a source, which lands it."""

    @dg.multi_asset(
        name=landing_op(source),
        specs=[
            dg.AssetSpec(
                staging_key(source),
                group_name=source.domain,
                kinds={"python", "json", "postgres"},
                owners=source.owners,
                description=source.description,
                code_version=source.code_version,
                metadata={"base_url": source.base_url},
            )
        ],
        **_daily(source),
    )
    def land(context: dg.AssetExecutionContext, config: LandConfig) -> Any:
        atlas: Atlas = context.resources.atlas

        def work(warehouse: Warehouse, *, partition: str) -> Run:
            return land_intake(
                warehouse,
                source,
                partition,
                extract.open_intake(
                    warehouse, source, Window.of(partition), atlas.source_mode, full_refresh=config.full_refresh
                ),
                shrink=config.shrink,
                dagster_run_id=context.run.run_id,
                notify=atlas.notify,
            )

        yield from _each_partition(context, atlas, work, {staging_key(source): None})

    return land


def table_assets(source: Source) -> dg.AssetsDefinition:
    """The assets of a source's tables, which are transformed together."""
    selects = project.selects(source.name)

    @dg.multi_asset(
        name=f"{source.domain}__{source.stem}__tables",
        specs=[
            dg.AssetSpec(
                table_key(select),
                deps=[staging_key(source)],
                group_name=source.domain,
                kinds={"sql", "postgres", "table"},
                owners=source.owners,
                description=f"{select.file.sentence}\n\n```sql\n{select.file.text}\n```",
                code_version=select.file.digest[:16],
                metadata={
                    "dagster/column_schema": column_schema(select.table),
                    "dagster/table_name": select.table.fullname,
                },
                automation_condition=FOLLOW,
            )
            for select in selects
        ],
        **_daily(source),
    )
    def tables(context: dg.AssetExecutionContext, config: TransformConfig) -> Any:
        atlas: Atlas = context.resources.atlas

        work = partial(
            transform,
            source=source,
            full=config.full,
            shrink=config.shrink,
            dagster_run_id=context.run.run_id,
            notify=atlas.notify,
        )
        yield from _each_partition(context, atlas, work, {table_key(each): each.table.fullname for each in selects})

    return tables


FOLLOW = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)


def _each_partition(
    context: dg.AssetExecutionContext, atlas: Atlas, work: Work, keys: Mapping[dg.AssetKey, str | None]
) -> Any:
    """Calls `work` for each partition of the run; yields a result for each asset. Raises dg.Failure if one failed."""
    done: dict[str, Run] = {}
    failed: dict[str, str] = {}
    with atlas.opened(wait_for_migration=True) as warehouse:
        for partition in context.partition_keys:
            try:
                done[partition] = work(warehouse, partition=partition)
            except AtlasError as error:
                failed[partition] = str(error)
            except Exception as error:
                context.log.exception("partition %s failed", partition)
                failed[partition] = f"{type(error).__name__}: {error}"
    if failed:
        for partition, run in done.items():
            for key, table in keys.items():
                context.log_event(dg.AssetMaterialization(key, metadata=run_metadata(run, table), partition=partition))
        reasons = "; ".join(f"partition {partition}: {reason}" for partition, reason in failed.items())
        raise dg.Failure(reasons, metadata={"failed_partitions": sorted(failed)}, allow_retries=False)
    for key, table in keys.items():
        for partition, run in done.items():
            context.add_asset_metadata(run_metadata(run, table), asset_key=key, partition_key=partition)
        yield dg.MaterializeResult(key)


MOST_CHANGES = 50
"""How many rows a drift table in the UI has at most."""


def run_metadata(run: Run, table: str | None) -> dict[str, Any]:
    """The counts of a run, or of one table in it, as in the ledger."""
    metadata: dict[str, Any] = {"fetch_run_id": str(run.id), "status": run.status}
    if table:
        return {
            **metadata,
            **run.stats["tables"][table],
            "proof": dg.MetadataValue.md(HOW_TO_TRACE.format(table=table)),
        }
    metadata |= asdict(run.counts) | {name: value for name, value in run.stats.items() if isinstance(value, int)}
    if run.stats.get("drift"):
        metadata["drift"] = dg.MetadataValue.md(drift_table(run.stats["drift"]))
    return metadata


HOW_TO_TRACE = """`atlas trace {table} KEY` shows which payload and run a row comes from; for all rows:
```sql
select * from ops.trace where table_name = '{table}'
```"""


def drift_table(changes: Sequence[Mapping[str, Any]]) -> str:
    """Changed JSON paths as a Markdown table."""
    lines = ["| what | stream | path | type | share | effects | sample |", "|---|---|---|---|---|---|---|"]
    for each in changes[:MOST_CHANGES]:
        path = each["path"].replace("|", r"\|")
        share = "" if each["share"] is None else f"{each['share']:.1%}"
        effects = "<br>".join(each["effects"])
        cells = [each["what"], each["stream"], f"`{path}`", each["type"], share, effects, each["payload_id"]]
        lines.append(f"| {' | '.join(cells)} |")
    if len(changes) > MOST_CHANGES:
        lines.append(f"\n{len(changes) - MOST_CHANGES:,} more: `atlas drift`")
    return "\n".join(lines)


def column_schema(table: Table) -> dg.TableSchema:
    """The columns of a table with their types and comments, as Dagster's catalog shows them."""
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                type=column.type.compile(dialect=dialect).lower(),
                description=column.comment,
                constraints=dg.TableColumnConstraints(nullable=bool(column.nullable), unique=column.primary_key),
            )
            for column in table.columns
        ]
    )
