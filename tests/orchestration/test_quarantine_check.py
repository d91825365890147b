"""The check `quarantine`: what it says of the newest landing, and of the newest transform into each table."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from pipelines import project
from pipelines.orchestration import resources
from pipelines.orchestration.assets import staging_asset, staging_key, table_assets
from pipelines.orchestration.checks import quarantine_checks
from pipelines.source import Source
from pipelines.warehouse.database import Warehouse
from tests.library import Json, author, cover

pytestmark = pytest.mark.usefixtures("toy")

Materialize = Callable[..., dict[str, dg.AssetCheckEvaluation]]


@pytest.fixture
def shelves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("ATLAS_SHELF_BASE_URL", str(folder))
    monkeypatch.setenv("ATLAS_MODE", "live")
    return folder


@pytest.fixture
def materialize(
    shelves: Path, with_dagster: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Materialize]:
    """Puts files on the shelf, materializes its assets for today, and returns the check of each by its last name."""
    for name in ("DAGSTER_HOME", "ATLAS_DAGSTER_URL"):
        monkeypatch.setenv(name, "set by the instance, taken back after the test")
    with resources.instance(with_dagster, tmp_path) as dagster:

        def run(source: Source, **files: Json | str) -> dict[str, dg.AssetCheckEvaluation]:
            for name, body in files.items():
                (shelves / f"{name}.json").write_text(body if isinstance(body, str) else json.dumps(body))
            result = dg.materialize(
                [*map(staging_asset, source.streams), table_assets(source), quarantine_checks(source)],
                instance=dagster,
                resources={"atlas": resources.Atlas(with_dagster)},
                partition_key=datetime.now(UTC).date().isoformat(),
            )
            return {each.asset_key.path[-1]: each for each in result.get_asset_check_evaluations()}

        yield run


def verdicts(found: dict[str, dg.AssetCheckEvaluation]) -> dict[str, str]:
    """`WARN` or `ERROR` of the checks that did not pass."""
    return {name: each.severity.value for name, each in found.items() if not each.passed}


def counts(check: dg.AssetCheckEvaluation) -> list[Any]:
    return [check.metadata[name].value for name in ("new", "refused", "fetched", "open")]


@pytest.mark.long
def test_a_landing_of_which_all_is_refused_is_an_error(materialize: Materialize, shelf: Source) -> None:
    found = materialize(shelf, one="{", two='{"')
    assert verdicts(found) == {"shelf": "ERROR"}
    assert found["shelf"].asset_key == staging_key(shelf.streams[0])
    assert found["shelf"].description == (
        "2 of 2 refused in the newest run.\n2 new: 2 payload not_json.\n"
        "See them with: atlas quarantine list toy/shelf --each"
    )
    assert counts(found["shelf"]) == [2, 2, 2, 2]


@pytest.mark.long("processes that run Dagster")
def test_a_few_new_ones_are_a_warning_and_no_longer_when_nothing_is_new(
    materialize: Materialize, shelf: Source
) -> None:
    good: dict[str, Any] = {f"good{number}": {"authors": [author(number)]} for number in range(10)}
    found = materialize(shelf, one="{", **good)
    assert (verdicts(found), counts(found["shelf"])) == ({"shelf": "WARN"}, [1, 1, 11, 1])
    found = materialize(shelf)
    assert (verdicts(found), counts(found["shelf"])) == ({}, [0, 1, 11, 1])


@pytest.mark.long("processes that run Dagster")
def test_a_table_is_judged_by_its_own_rows(materialize: Materialize, shelf: Source) -> None:
    covers = [cover(1, width=1), cover(2, width=0), cover(3, width=0)]
    found = materialize(shelf, one={"authors": [author(1)], "covers": covers})
    assert verdicts(found) == {"covers": "ERROR"}
    assert "2 new: 2 row check at covers_width_check." in str(found["covers"].description)
    assert counts(found["covers"]) == [2, 2, 3, 2]
    assert counts(found["authors"]) == [0, 0, 1, 0]


@pytest.mark.long("processes that run Dagster")
def test_a_value_is_a_warning(materialize: Materialize, shelf: Source) -> None:
    found = materialize(shelf, one={"words": "some", "number": "many"})
    assert verdicts(found) == {"notes": "WARN"}
    assert counts(found["notes"]) == [1, 0, 1, 1]


@pytest.mark.long("processes that run Dagster")
def test_a_source_may_set_its_share(materialize: Materialize, shelf: Source) -> None:
    found = materialize(replace(shelf, refused_share=0.5), one="{", two={"authors": [author(1)]})
    assert (verdicts(found), counts(found["shelf"])) == ({"shelf": "WARN"}, [1, 1, 2, 1])


def test_every_asset_has_the_check() -> None:
    from pipelines.definitions import SOURCES

    for source in SOURCES:
        keys = {spec.asset_key for spec in quarantine_checks(source).check_specs}
        assert set(map(staging_key, source.streams)) <= keys
        assert len(keys) == len(source.streams) + len(project.selects(source.name))
