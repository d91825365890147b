"""The checks of assets: `ledger_agrees`, `last_run` and `quarantine` on each, `proven` on each table, `drift` on each
staging asset.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import dagster as dg

from pipelines import project, quarantine
from pipelines.landing import contract_changes, schema_drift
from pipelines.ledger import Counts
from pipelines.lineage import trace
from pipelines.orchestration.assets import Output, drift_table, op_name, outputs_of, staging_key, table_keys
from pipelines.orchestration.resources import Atlas
from pipelines.source import Source
from pipelines.warehouse.database import Connection

Verdict = dict[str, Any]  # what a check found: the arguments of its AssetCheckResult
LAST_RUN, QUARANTINE = "last_run", "quarantine"
MOST_SENTENCES = 5  # of the description of a check


def ledger_checks(source: Source) -> dg.AssetChecksDefinition:
    """A check for each asset of a source: its newest materialization has the counts of its ledger row."""

    def agrees(instance: dg.DagsterInstance, connection: Connection, key: dg.AssetKey, table: str | None) -> Verdict:
        event = instance.get_latest_materialization_event(key)
        materialization = event.asset_materialization if event else None
        metadata = {name: value.value for name, value in materialization.metadata.items()} if materialization else {}
        rows = connection.execute(
            "select * from ops.fetch_runs where fetch_run_id::text = any(string_to_array(%s, ', '))",
            [metadata.get("fetch_run_id")],
        ).fetchall()
        reported = _counts(metadata)
        found = [Counts(**_counts(row["stats"]["tables"].get(table, {}) if table else row)) for row in rows]
        recorded = asdict(sum(found, Counts()))
        passed = bool(rows) and reported == recorded
        return {"passed": passed, "metadata": {"materialization": reported, "ledger": recorded}}

    words = "The metadata has the same counts as ops.fetch_runs."
    tables = {**dict.fromkeys(map(staging_key, source.streams)), **table_keys(source)}
    return _checks(source, "ledger_agrees", words, tables, agrees)


def last_run_checks(source: Source) -> dg.AssetChecksDefinition:
    """A check for each asset of a source: the last run that writes it has not failed, in Dagster or outside of it."""
    return _checks_of_runs(source, LAST_RUN, "The last run that writes it has not failed.", _ended_well)


def _ended_well(connection: Connection, _: Source, output: Output) -> Verdict:
    row = connection.execute(
        """
        select * from ops.fetch_runs where stream = any(%s) and kind = %s and ended_at is not null
        order by ended_at desc limit 1
        """,
        [sorted(output.streams), "transform" if output.table else "land"],
    ).fetchone()
    return last_run_verdict(row) if row else {"passed": True, "description": "no run has ended yet"}


def last_run_verdict(row: Mapping[str, Any]) -> Verdict:
    """What the check `last_run` says of a run."""
    metadata = {name: str(row[name]) for name in ("fetch_run_id", "kind", "partition_key", "status")}
    return {"passed": row["status"] != "failed", "description": row["error_text"], "metadata": metadata}


def proof_checks(source: Source) -> dg.AssetChecksDefinition:
    """A check for each table of a source: each of its rows, of other sources too, leads to its payload."""

    def proven(_: dg.DagsterInstance, connection: Connection, __: dg.AssetKey, table: str | None) -> Verdict:
        counted = next(iter(trace.unproven(connection, table)), {"rows": 0, "unproven": 0})
        return {"passed": not counted["unproven"], "metadata": counted}

    return _checks(source, "proven", "Each row leads to its payload.", table_keys(source), proven)


def drift_checks(source: Source) -> dg.AssetChecksDefinition:
    """A check for each stream of a source: warns where its payloads no longer have what SELECT files rely on.

    That is a path that vanished, for as long as it is gone, a new type, for `schema_drift.DAYS`, and a SELECT that
    cannot be followed. New keys that nothing reads are listed in the metadata, and the check passes.
    """

    streams = {staging_key(stream): stream for stream in source.streams}

    def drift(_: dg.DagsterInstance, connection: Connection, key: dg.AssetKey, __: str | None) -> Verdict:
        changes = schema_drift.changes(connection, streams[key])
        problems = unfollowed(source)
        warned = [each for each in changes if each["warns"]]
        others = [each for each in changes if not each["warns"]]
        metadata: dict[str, Any] = {"changes": len(changes)}
        metadata |= {"watched": dg.MetadataValue.md(drift_table(warned))} if warned else {}
        metadata |= {"others": dg.MetadataValue.md(drift_table(others))} if others else {}
        metadata |= {"unparsed": problems} if problems else {}
        sentences = [f"{file} cannot be followed: {reason}" for file, reason in problems.items()]
        sentences += [schema_drift.sentence(each) for each in warned]
        description = "\n".join(sentences[:MOST_SENTENCES]) or None
        return {"passed": not sentences, "description": description, "metadata": metadata}

    words = "The JSON paths that SELECT files rely on are there, with the types they had."
    return _checks(source, "drift", words, dict.fromkeys(streams), drift, dg.AssetCheckSeverity.WARN)


def quarantine_checks(source: Source) -> dg.AssetChecksDefinition:
    """Warns where the newest run of an asset found something new to quarantine, or a changed contract lets in payloads.

    It is an error where the run refused more than `refused_share` of what it fetched.
    """
    words = (
        "The newest run found nothing new to quarantine, and a changed contract would let in nothing of it; an error "
        "where the run refused much of what it fetched."
    )
    return _checks_of_runs(source, QUARANTINE, words, quarantine_verdict)


def quarantine_verdict(
    connection: Connection, source: Source, output: Output, publish_seq: int | None = None
) -> Verdict:
    """What the check `quarantine` says of an asset. publish_seq: after that run, not now."""
    streams = [stream for stream in source.streams if stream.name in output.streams]
    found = quarantine.newest(connection, streams, output.table, publish_seq)
    refused, fetched, new = found["quarantined"], found["fetched"], found["new"]
    reasons = [f"{each['entries']:,} {each['granularity']} {quarantine.reason(each)}" for each in found["groups"]]
    sentences = [f"{refused:,} of {fetched:,} refused in the newest run."] if refused else []
    sentences += [f"{new:,} new: {'; '.join(reasons[:MOST_SENTENCES])}."] if new else []
    sentences += [f"See them with: atlas quarantine list {source.name} --each"] if sentences else []
    names = [name for stream in streams for name in stream.names.values()]
    let_in = 0 if output.table else len(contract_changes.let_in(connection, names, contract_changes.NEWEST))
    words = f"The contract has changed: of the newest payloads in quarantine it lets in {let_in:,}."
    sentences += [f"{words} See: atlas quarantine check {source.name}"] if let_in else []
    too_many = refused > fetched * source.refused_share
    return {
        "passed": not (new or too_many or let_in),
        "severity": dg.AssetCheckSeverity.ERROR if too_many else dg.AssetCheckSeverity.WARN,
        "description": "\n".join(sentences) or None,
        "metadata": {"new": new, "refused": refused, "fetched": fetched, "open": found["open"]},
    }


def unfollowed(source: Source) -> dict[str, str]:
    """The SELECT files of which not all paths are known, with the reason."""
    from pipelines import columns  # sqlglot takes a while to import, and the definitions do not need it

    result = {}
    for select in project.selects(source.name):
        found = columns.reads(source, select)
        unresolved = ", ".join(sorted(".".join(map(str, steps)) for steps in found.unresolved))
        reason = found.problem or (unresolved and f"it reads {unresolved} in a value of unknown origin")
        if reason:
            result[f"sql/{select.file.address}.sql"] = reason
    return result


def _checks_of_runs(
    source: Source, name: str, description: str, check: Callable[[Connection, Source, Output], Verdict]
) -> dg.AssetChecksDefinition:
    """A check of one name on each asset of a source, which looks at the runs that write it."""
    outputs = {output.spec.key: output for output in outputs_of(source)}

    def of_runs(_: dg.DagsterInstance, connection: Connection, key: dg.AssetKey, __: str | None) -> Verdict:
        return check(connection, source, outputs[key])

    return _checks(source, name, description, dict.fromkeys(outputs), of_runs)


def _checks(
    source: Source,
    name: str,
    description: str,
    tables: Mapping[dg.AssetKey, str | None],
    check: Callable[[dg.DagsterInstance, Connection, dg.AssetKey, str | None], Verdict],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    """A check of one name on each of some assets, which can be run alone."""

    @dg.multi_asset_check(
        name=f"{op_name(source)}__{name}",
        specs=[dg.AssetCheckSpec(name, asset=key, description=description) for key in tables],
        required_resource_keys={"atlas"},
        can_subset=True,
    )
    def checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        atlas: Atlas = context.resources.atlas
        with atlas.opened() as warehouse, warehouse.connect() as connection:
            for key in (each.asset_key for each in context.selected_asset_check_keys):
                verdict: Verdict = {"severity": severity} | check(context.instance, connection, key, tables[key])
                yield dg.AssetCheckResult(check_name=name, asset_key=key, **verdict)

    return checks


def _counts(found: dict[str, Any]) -> dict[str, Any]:
    return {name: found[name] for name in vars(Counts()) if name in found}
