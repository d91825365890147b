"""The assets of a source: a staging asset for each of its streams, and one asset for each of its SELECT files.

    catalog/civitai.models ──> catalog/civitai/models, catalog/civitai/model_versions, …
    catalog/civitai.images ──> catalog/civitai/images, …

A run processes a range of partitions; each has its own ledger row for each stream, and its own materialization. Where
a partition fails, the others are materialized first, then the run fails and names it.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

import dagster as dg
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql

from pipelines import project, settings
from pipelines.errors import AtlasError
from pipelines.landing import extract
from pipelines.landing.land import land_intake
from pipelines.ledger import Counts, EndedRun, Run
from pipelines.orchestration.resources import Atlas
from pipelines.source import Source, Stream, Window
from pipelines.transform.run import transform
from pipelines.warehouse.database import Warehouse

FOLLOW = (
    dg.AutomationCondition.any_deps_updated().since_last_handled()
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
)
CODE_VERSION_TAG = "dagster/code_version"
MOST_CHANGES = 50  # of a drift table in the UI
HOW_TO_TRACE = """`atlas trace {table} KEY` shows which payload and run a row comes from; for all rows:
```sql
select * from ops.trace where table_name = '{table}'
```"""


def op_name(of: Source | Stream) -> str:
    """The name of the op that lands a stream, and the beginning of what else is named after a source or a stream."""
    return re.sub("[/.]", "__", of.name)


def staging_key(stream: Stream) -> dg.AssetKey:
    return dg.AssetKey(stream.name.split("/"))


def group(source: Source) -> str:
    """The group of a source's assets in Dagster's graph."""
    return f"{source.domain}_{source.stem}"


def table_keys(source: Source) -> dict[dg.AssetKey, str]:
    """The assets of a source's SELECT files, with the names of their tables."""
    selects = project.selects(source.name)
    return {dg.AssetKey(each.file.address.split("/")): each.table.fullname for each in selects}


@dataclass(frozen=True)
class Output:
    """An asset, its table if it has one, and the names of the streams that it is made of."""

    spec: dg.AssetSpec
    table: str | None
    streams: Collection[str]

    def metadata(self, done: Mapping[tuple[str, str], Run], partition: str) -> dict[str, Any] | None:
        """The metadata of a partition; None where the run of one of the streams has failed or was skipped."""
        runs = [done[partition, each] for each in sorted(self.streams) if (partition, each) in done]
        return run_metadata(runs, self.table) if len(runs) == len(self.streams) else None


def staging_output(stream: Stream) -> Output:
    """The staging asset of a stream."""
    source = stream.source
    spec = dg.AssetSpec(
        staging_key(stream),
        group_name=group(source),
        kinds={"python", "json", "postgres"},
        owners=source.owners,
        description=source.description,
        code_version=source.code_version,
        metadata={"base_url": source.other_urls.get(stream.kind, source.base_url)},
        skippable=True,
    )
    return Output(spec, None, {stream.name})


def outputs_of(source: Source) -> list[Output]:
    """All assets of a source."""
    return [*map(staging_output, source.streams), *table_outputs(source)]


def table_outputs(source: Source) -> list[Output]:
    """The assets of a source's tables."""
    return [
        Output(
            dg.AssetSpec(
                each.file.address.split("/"),
                deps=[staging_key(stream) for stream in project.streams_read(source, each)],
                group_name=group(source),
                kinds={"sql", "postgres", "table"},
                owners=source.owners,
                description=f"{each.file.sentence}\n\n```sql\n{each.file.text}\n```",
                code_version=each.file.digest[:16],
                metadata={
                    "dagster/column_schema": column_schema(each.table),
                    "dagster/table_name": each.table.fullname,
                },
                automation_condition=FOLLOW,
                skippable=True,
            ),
            each.table.fullname,
            {stream.name for stream in project.streams_read(source, each)},
        )
        for each in project.selects(source.name)
    ]


def staging_asset(stream: Stream) -> dg.AssetsDefinition:
    """What lands a stream. A day that has nothing to read is skipped."""
    config = {
        "full_refresh": _flag("Reads all of the stream, not only what is new."),
        "shrink": _flag("Accepts that a listing loses more than a fifth of its records."),
    }

    def land(atlas: Atlas, warehouse: Warehouse, partition: str, *, full_refresh: bool, **options: Any) -> Run | str:
        window, mode = Window.of(partition), atlas.mode or settings.load().mode
        if reason := extract.why_not_read(stream, window.day, mode):
            return reason
        intake = extract.open_intake(warehouse, stream, window, mode, full_refresh=full_refresh)
        return land_intake(warehouse, stream, partition, intake, **options)

    name, work = op_name(stream), {stream.name: land}
    return _daily(stream.source, name, name, [staging_output(stream)], config, work)


def table_assets(source: Source, streams: Sequence[Stream] | None = None) -> dg.AssetsDefinition:
    """What transforms a source, each of its streams by itself. streams: only these."""
    config = {
        "full": _flag("Applies all latest versions of the partition again, not only pending ones."),
        "shrink": _flag("Accepts that a table loses more than a fifth of its rows, or that a SELECT fails often."),
    }

    def apply(stream: Stream, _: Atlas, warehouse: Warehouse, partition: str, **options: Any) -> Run:
        return transform(warehouse, stream, partition, **options)

    work = {stream.name: partial(apply, stream) for stream in streams or source.streams}
    return _daily(source, f"{op_name(source)}__tables", source.domain, table_outputs(source), config, work)


def _flag(description: str) -> dg.Field:
    return dg.Field(bool, default_value=False, description=description)


def _daily(
    source: Source,
    name: str,
    pool: str,
    outputs: Sequence[Output],
    config: dict[str, dg.Field],
    work: Mapping[str, Callable[..., Run | str]],
) -> dg.AssetsDefinition:
    """Assets with one partition a day, from the source's first day to today, of which a run takes a range.

    work: by stream what lands or transforms a partition; it returns the run, or why there is nothing to do.
    """

    @dg.multi_asset(
        name=name,
        specs=[output.spec for output in outputs],
        config_schema=config,
        partitions_def=dg.DailyPartitionsDefinition(start_date=source.start_date.isoformat(), end_offset=1),
        backfill_policy=dg.BackfillPolicy.single_run(),
        pool=pool,
        required_resource_keys={"atlas"},
    )
    def assets(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        atlas: Atlas = context.resources.atlas
        options = dict(context.op_execution_context.op_config, dagster_run_id=context.run.run_id, notify=atlas.notify)
        with atlas.opened(wait_for_migration=True) as warehouse:
            calls = {stream: partial(each, atlas, warehouse, **options) for stream, each in work.items()}
            done, failed = _try_each(context, calls)
        whole = len(done) == len(context.partition_keys) * len(work)
        for output, partition in product(outputs, context.partition_keys):
            metadata = output.metadata(done, partition)
            if whole:
                context.add_asset_metadata(metadata or {}, asset_key=output.spec.key, partition_key=partition)
            elif metadata is not None:
                context.log_event(materialization(output, metadata, partition, output.spec.code_version))
        _log_taken_along(context, done.values())
        if failed:
            reasons = "; ".join(f"partition {day} of {stream}: {reason}" for (day, stream), reason in failed.items())
            days = sorted({day for day, _ in failed})
            raise dg.Failure(reasons, metadata={"failed_partitions": days}, allow_retries=False)
        if whole:
            yield from (dg.MaterializeResult(output.spec.key) for output in outputs)

    return assets


def _try_each(
    context: dg.AssetExecutionContext, work: Mapping[str, Callable[[str], Run | str]]
) -> tuple[dict[tuple[str, str], Run], dict[tuple[str, str], str]]:
    """Works on each partition of each stream; by these the runs, and why the others failed."""
    done: dict[tuple[str, str], Run] = {}
    failed: dict[tuple[str, str], str] = {}
    for partition, stream in product(context.partition_keys, work):
        try:
            result = work[stream](partition)
            if isinstance(result, str):
                context.log.info("partition %s of %s is skipped: %s", partition, stream, result)
            else:
                done[partition, stream] = result
        except AtlasError as error:
            failed[partition, stream] = str(error)
        except Exception as error:
            context.log.exception("partition %s of %s failed", partition, stream)
            failed[partition, stream] = f"{type(error).__name__}: {error}"
    return done, failed


def materialization(
    output: Output, metadata: Mapping[str, Any], partition: str, code_version: str | None
) -> dg.AssetMaterialization:
    """The event of one partition of an asset, with the version of the code that made it."""
    tags = {CODE_VERSION_TAG: code_version} if code_version else {}
    return dg.AssetMaterialization(output.spec.key, metadata=metadata, partition=partition, tags=tags)


def _log_taken_along(context: dg.AssetExecutionContext, runs: Collection[Run]) -> None:
    """Logs an observation of each asset of another source of which a run applied records again."""
    for run in runs:
        for stream, records in run.stats.get("taken_along", {}).items():
            found, _ = project.find_stream(stream)
            metadata = {"fetch_run_id": str(run.id), "stream": stream, "records": records, "run_of": run.stream}
            for key in table_keys(found.source):
                words = "A run of another source applied records again"
                context.log_event(dg.AssetObservation(key, description=words, metadata=metadata))


def run_metadata(runs: Sequence[Run | EndedRun], table: str | None) -> dict[str, Any]:
    """The counts of runs together, or of one table in them, as in the ledger; and the ids and statuses of the runs."""
    statuses = {run.status for run in runs}
    metadata: dict[str, Any] = {
        "fetch_run_id": ", ".join(str(run.id) for run in runs),
        "status": statuses.pop() if len(statuses) == 1 else "partial_success",
    }
    if table:
        proof = dg.MetadataValue.md(HOW_TO_TRACE.format(table=table))
        counts = sum((Counts(**run.stats["tables"].get(table, {})) for run in runs), Counts())
        return {**metadata, **asdict(counts), "proof": proof}
    for run in runs:
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
