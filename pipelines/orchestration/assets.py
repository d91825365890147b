"""The assets of a source: its staging asset, which lands it, and one asset for each of its SELECT files.

    catalog/civitai ──> catalog/civitai/models, catalog/civitai/images, …

A run processes a range of partitions; each has its own ledger row and its own materialization. Where a partition
fails, the others are materialized first, then the run fails and names it.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from pipelines import project, settings
from pipelines.errors import AtlasError
from pipelines.landing import extract
from pipelines.landing.land import land_intake
from pipelines.ledger import Run
from pipelines.orchestration.resources import Atlas
from pipelines.source import Source, Window
from pipelines.transform.run import transform
from pipelines.warehouse.database import Warehouse

FOLLOW = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)
MOST_CHANGES = 50  # of a drift table in the UI
HOW_TO_TRACE = """`atlas trace {table} KEY` shows which payload and run a row comes from; for all rows:
```sql
select * from ops.trace where table_name = '{table}'
```"""


def op_name(source: Source) -> str:
    """The name of the op that lands a source."""
    return f"{source.domain}__{source.stem}"


def staging_key(source: Source) -> dg.AssetKey:
    return dg.AssetKey(source.name.split("/"))


def table_keys(source: Source) -> dict[dg.AssetKey, str]:
    """The assets of a source's SELECT files, with the names of their tables."""
    selects = project.selects(source.name)
    return {dg.AssetKey(each.file.address.split("/")): each.table.fullname for each in selects}


def staging_asset(source: Source) -> dg.AssetsDefinition:
    """The staging asset of a source, which lands it."""
    spec = dg.AssetSpec(
        staging_key(source),
        group_name=source.domain,
        kinds={"python", "json", "postgres"},
        owners=source.owners,
        description=source.description,
        code_version=source.code_version,
        metadata={"base_url": source.base_url},
    )
    config = {
        "full_refresh": _flag("Reads all of the source, not only what is new."),
        "shrink": _flag("Accepts that a listing loses more than a fifth of its records."),
    }

    def land(atlas: Atlas, warehouse: Warehouse, partition: str, *, full_refresh: bool, **options: Any) -> Run:
        window, mode = Window.of(partition), atlas.mode or settings.load().mode
        intake = extract.open_intake(warehouse, source, window, mode, full_refresh=full_refresh)
        return land_intake(warehouse, source, partition, intake, **options)

    return _daily(source, op_name(source), [spec], config, land, {staging_key(source): None})


def table_assets(source: Source) -> dg.AssetsDefinition:
    """The assets of a source's tables, which are written in one transaction, and so are materialized together."""
    tables = table_keys(source)
    specs = [
        dg.AssetSpec(
            key,
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
        for key, select in zip(tables, project.selects(source.name), strict=True)
    ]
    config = {
        "full": _flag("Applies all latest versions of the partition again, not only pending ones."),
        "shrink": _flag("Accepts that a table loses more than a fifth of its rows, or that a SELECT fails often."),
    }

    def apply(_: Atlas, warehouse: Warehouse, partition: str, **options: Any) -> Run:
        return transform(warehouse, source, partition, **options)

    return _daily(source, f"{op_name(source)}__tables", specs, config, apply, tables)


def _flag(description: str) -> dg.Field:
    return dg.Field(bool, default_value=False, description=description)


def _daily(
    source: Source,
    name: str,
    specs: list[dg.AssetSpec],
    config: dict[str, dg.Field],
    work: Callable[..., Run],
    tables: Mapping[dg.AssetKey, str | None],
) -> dg.AssetsDefinition:
    """Assets with one partition a day, from the source's first day to today, of which a run takes a range.

    work: lands or transforms a partition. tables: the assets with the names of their tables.
    """

    @dg.multi_asset(
        name=name,
        specs=specs,
        config_schema=config,
        partitions_def=dg.DailyPartitionsDefinition(start_date=source.start_date.isoformat(), end_offset=1),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=source.domain,
        required_resource_keys={"atlas"},
    )
    def assets(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        atlas: Atlas = context.resources.atlas
        options = dict(context.op_execution_context.op_config, dagster_run_id=context.run.run_id, notify=atlas.notify)
        done: dict[str, Run] = {}
        failed: dict[str, str] = {}
        with atlas.opened(wait_for_migration=True) as warehouse:
            for partition in context.partition_keys:
                try:
                    done[partition] = work(atlas, warehouse, partition, **options)
                except AtlasError as error:
                    failed[partition] = str(error)
                except Exception as error:
                    context.log.exception("partition %s failed", partition)
                    failed[partition] = f"{type(error).__name__}: {error}"
        for key, table in tables.items():
            for partition, run in done.items():
                metadata = run_metadata(run, table)
                if failed:
                    context.log_event(dg.AssetMaterialization(key, metadata=metadata, partition=partition))
                else:
                    context.add_asset_metadata(metadata, asset_key=key, partition_key=partition)
        _log_taken_along(context, done.values())
        if failed:
            reasons = "; ".join(f"partition {partition}: {reason}" for partition, reason in failed.items())
            raise dg.Failure(reasons, metadata={"failed_partitions": sorted(failed)}, allow_retries=False)
        yield from map(dg.MaterializeResult, tables)

    return assets


def _log_taken_along(context: dg.AssetExecutionContext, runs: Collection[Run]) -> None:
    """Logs an observation of each asset of another source of which a run applied records again."""
    for run in runs:
        for stream, records in run.stats.get("taken_along", {}).items():
            source, _ = project.find_stream(stream)
            metadata = {"fetch_run_id": str(run.id), "stream": stream, "records": records, "run_of": run.source}
            for key in table_keys(source):
                words = "A run of another source applied records again"
                context.log_event(dg.AssetObservation(key, description=words, metadata=metadata))


def run_metadata(run: Run, table: str | None) -> dict[str, Any]:
    """The counts of a run, or of one table in it, as in the ledger."""
    metadata: dict[str, Any] = {"fetch_run_id": str(run.id), "status": run.status}
    if table:
        proof = dg.MetadataValue.md(HOW_TO_TRACE.format(table=table))
        return {**metadata, **run.stats["tables"][table], "proof": proof}
    metadata |= asdict(run.counts) | {name: value for name, value in run.stats.items() if isinstance(value, int)}
    if run.stats.get("drift"):
        metadata["drift"] = dg.MetadataValue.md(drift_table(run.stats["drift"]))
    return metadata


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
