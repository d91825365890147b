"""Assets of a source: its staging asset, which lands, and one asset a SELECT file, which are transformed together.

    catalog/civitai ──> catalog/civitai/models, catalog/civitai/images, …

A run takes a range of partitions; each has its own ledger row and its own materialization. A partition that fails
spoils only itself: the good ones are recorded, then the run fails and names the bad ones. The tables of a source
cannot be chosen one by one, since they show together or not at all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.landing import extract
from pipelines.landing import land as landing
from pipelines.ledger import Run
from pipelines.orchestration.resources import Atlas
from pipelines.project import Select
from pipelines.source import Source, Window
from pipelines.transform.run import transform
from pipelines.warehouse.database import Warehouse

Work = Callable[[Warehouse, str], Run]


class LandConfig(dg.Config):
    """sweep: asks for everything, not only for what is new. shrink: believes a listing that has lost many records."""

    full_refresh: bool = False
    shrink: bool = False


class TransformConfig(dg.Config):
    """full: takes in all latest versions of the partition again, not only those that wait."""

    full: bool = False


def staging_key(source: Source) -> dg.AssetKey:
    return dg.AssetKey(source.name.split("/"))


def table_key(select: Select) -> dg.AssetKey:
    return dg.AssetKey(select.file.address.split("/"))


def days(source: Source) -> dg.DailyPartitionsDefinition:
    """A partition a day, today's included."""
    return dg.DailyPartitionsDefinition(start_date=source.start_date.isoformat(), end_offset=1)


def landing_op(source: Source) -> str:
    return f"{source.domain}__{source.stem}"


def staging_asset(source: Source) -> dg.AssetsDefinition:
    """The asset that lands a source."""

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
        partitions_def=days(source),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=source.domain,
        required_resource_keys={"atlas"},
    )
    def land(context: dg.AssetExecutionContext, config: LandConfig) -> Any:
        atlas: Atlas = context.resources.atlas

        def work(warehouse: Warehouse, partition: str) -> Run:
            return landing.land_intake(
                warehouse,
                source,
                partition,
                extract.opened(
                    warehouse, source, Window.of(partition), atlas.source_mode, full_refresh=config.full_refresh
                ),
                shrink=config.shrink,
                dagster_run_id=context.run.run_id,
                notify=atlas.notify,
            )

        yield from _each_partition(context, atlas, work, {staging_key(source): None})

    return land


def table_assets(source: Source) -> dg.AssetsDefinition:
    """The assets of a source's tables."""
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
        partitions_def=days(source),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=source.domain,
        required_resource_keys={"atlas"},
    )
    def tables(context: dg.AssetExecutionContext, config: TransformConfig) -> Any:
        atlas: Atlas = context.resources.atlas

        def work(warehouse: Warehouse, partition: str) -> Run:
            return transform(
                warehouse,
                source,
                partition,
                full=config.full,
                dagster_run_id=context.run.run_id,
                notify=atlas.notify,
            )

        yield from _each_partition(
            context, atlas, work, {table_key(select): select.table.fullname for select in selects}
        )

    return tables


FOLLOW = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)


def _each_partition(
    context: dg.AssetExecutionContext, atlas: Atlas, work: Work, keys: Mapping[dg.AssetKey, str | None]
) -> Any:
    """Does the work for each partition of the run and yields a result an asset."""
    done: dict[str, Run] = {}
    failed: dict[str, str] = {}
    with atlas.opened(patient=True) as warehouse:
        for partition in context.partition_keys:
            try:
                done[partition] = work(warehouse, partition)
            except Exception as error:
                context.log.error("partition %s failed", partition, exc_info=not isinstance(error, AtlasError))
                failed[partition] = (
                    f"{type(error).__name__}: {error}" if not isinstance(error, AtlasError) else str(error)
                )
    if failed:
        for partition, run in done.items():
            for key, table in keys.items():
                context.log_event(dg.AssetMaterialization(key, metadata=measured(run, table), partition=partition))
        raise dg.Failure(
            "; ".join(f"partition {partition}: {words}" for partition, words in failed.items()),
            metadata={"failed_partitions": sorted(failed)},
            allow_retries=False,
        )
    for key, table in keys.items():
        for partition, run in done.items():
            context.add_asset_metadata(measured(run, table), asset_key=key, partition_key=partition)
        yield dg.MaterializeResult(key)


MOST_CHANGES = 50
"""So many lines the UI shows of what has drifted."""


def measured(run: Run, table: str | None) -> dict[str, Any]:
    """The ledger's numbers of a run, or of one table in it, as metadata."""
    counts = run.stats["tables"][table] if table else asdict(run.counts)
    extra: dict[str, Any] = (
        {} if table else {name: value for name, value in run.stats.items() if isinstance(value, int)}
    )
    if not table and run.stats.get("drift"):
        extra["drift"] = dg.MetadataValue.md(drift_table(run.stats["drift"]))
    proof = {"proof": dg.MetadataValue.md(PROOF.format(table=table))} if table else {}
    return {"fetch_run_id": str(run.id), "status": run.status, **counts, **extra, **proof}


PROOF = """`atlas trace {table} KEY` shows what proves a row; for all rows:
```sql
select * from ops.trace where table_name = '{table}'
```"""


def drift_table(changes: Sequence[Mapping[str, Any]]) -> str:
    """Paths that a landing was the first to see, and those that are gone, as Markdown."""
    lines = ["| what | stream | path | type | share | sample |", "|---|---|---|---|---|---|"]
    for each in changes[:MOST_CHANGES]:
        path = each["path"].replace("|", r"\|")
        cells = [each["what"], each["stream"], f"`{path}`", each["type"], f"{each['share']:.1%}", each["payload_id"]]
        lines.append(f"| {' | '.join(cells)} |")
    if len(changes) > MOST_CHANGES:
        lines.append(f"\n{len(changes) - MOST_CHANGES:,} more: `atlas drift`")
    return "\n".join(lines)


def column_schema(table: Table) -> dg.TableSchema:
    """The table's columns with their types and comments, for the catalogue in the UI."""
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
