"""The check `drift` on each staging asset: the JSON paths that SELECT files rely on are still there, of the same types.

    ops.schema_drift ──changes──> a warning in the Dagster UI, with the SELECT and the columns that it concerns

It warns of a path that vanished, for as long as it is gone, of a new type, for `schema_drift.DAYS`, and of a SELECT
that cannot be followed. New keys that nothing reads are listed in the metadata, and the check passes.
Belongs here: the check. Not here: what counts as drift (`pipelines.landing.schema_drift`).
"""

import dagster as dg

from pipelines import project
from pipelines.landing import schema_drift
from pipelines.orchestration.assets import drift_table, staging_key
from pipelines.orchestration.resources import Atlas
from pipelines.source import Source

MOST_SENTENCES = 5
"""How many changes the description of a check names."""


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
        with atlas.opened() as warehouse, warehouse.connect() as connection:
            changes = schema_drift.changes(connection, source)
        problems = unfollowed(source)
        warned = [each for each in changes if each["warns"]]
        others = [each for each in changes if not each["warns"]]
        tables = {name: found for name, found in (("watched", warned), ("others", others)) if found}
        sentences = [f"{file} cannot be followed: {reason}" for file, reason in problems.items()]
        sentences += [schema_drift.sentence(each) for each in warned]
        return dg.AssetCheckResult(
            passed=not sentences,
            severity=dg.AssetCheckSeverity.WARN,
            description="\n".join(sentences[:MOST_SENTENCES]) or None,
            metadata={
                "changes": len(changes),
                **{name: dg.MetadataValue.md(drift_table(found)) for name, found in tables.items()},
                **({"unparsed": problems} if problems else {}),
            },
        )

    return drift


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
