"""Budgets of time, measured through real HTTP and a real Postgres: `make bench`. Medians; ratios within one run.

Not part of `make test`: on a machine that is busy otherwise they say little.
"""

import copy
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pipelines import fetching, house, landing
from pipelines.ledger import Run
from pipelines.source import Source, Window
from pipelines.transform import transform
from pipelines.warehouse.engine import Warehouse
from tests import hostile
from tests.hostile import CivitAI, HuggingFace, Server

MODELS = 20_000
ROUNDS = 3
NEWS = 0.05
"""Of the time of a full load, for one percent of news."""
BEYOND_START_S = 2.0

NOTHING = """
import os
import dagster as dg
from dagster._core.instance import InstanceRef

@dg.asset
def nothing() -> None: ...

logs = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
reference = InstanceRef.from_dir(os.environ["DAGSTER_HOME"], overrides={"compute_logs": logs})
with dg.DagsterInstance.from_ref(reference) as instance:
    for _ in range(2):
        assert dg.materialize([nothing], instance=instance, run_config=quiet).success
"""
"""Dagster alone: two runs that do nothing, as `atlas run` makes two, in the storage that it has made."""


@contextmanager
def served(api: hostile.Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with Server(api.answer) as server:
        for name, value in hostile.environment({api.source: server.url}).items():
            monkeypatch.setenv(name, value)
        yield


def published(moment: datetime, number: int, model: dict[str, Any]) -> dict[str, Any]:
    """A model's newest version again, as another one, published at a moment."""
    newest: dict[str, Any] = copy.deepcopy(model["modelVersions"][0])
    return newest | {"id": number, "publishedAt": hostile.iso(moment)}


def models(number: int) -> dict[str, Any]:
    """So many models in the shape of the recorded ones, each with ids and checksums of its own."""
    recorded = CivitAI()
    recorded.load()
    found = {}
    for each in range(number):
        model = copy.deepcopy(list(recorded.records["models"].values())[each % len(recorded.records["models"])])
        model["id"] = each
        for place, version in enumerate(model["modelVersions"]):
            version["id"] = each * 100 + place
            version["publishedAt"] = hostile.iso(datetime.now(UTC) - timedelta(days=1, hours=number - each))
            for nth, file in enumerate(version.get("files", [])):
                file["id"] = each * 1_000 + place * 10 + nth
                file["hashes"] = {"SHA256": hashlib.sha256(str(file["id"]).encode()).hexdigest().upper()}
            for nth, image in enumerate(version.get("images", [])):
                image["id"] = each * 1_000 + place * 10 + nth
                image["url"] = f"https://image.civitai.com/x/original=true/{image['id']}.jpeg"
        found[str(each)] = model
    return found


def load(warehouse: Warehouse, source: Source, *, sweep: bool) -> tuple[float, Run]:
    """Seconds that a landing and its transform take, and the landing."""
    today = datetime.now(UTC).date().isoformat()
    started = time.perf_counter()
    opened = fetching.opened(warehouse, source, Window.of(today), "live", sweep=sweep)
    run = landing.take_in(warehouse, source, today, opened)
    transform(warehouse, source, today)
    return time.perf_counter() - started, run


def test_one_percent_of_news_costs_a_twentieth_of_a_full_load_at_most(
    new_warehouse: Callable[[], Warehouse], monkeypatch: pytest.MonkeyPatch
) -> None:
    ratios = []
    for _ in range(ROUNDS):
        api, warehouse = CivitAI(), new_warehouse()
        api.records["models"] = models(MODELS)
        source = replace(house.sources()["catalog/civitai"], rate=None)
        with served(api, monkeypatch):
            full, first = load(warehouse, source, sweep=True)
            for key in list(api.records["models"])[::100]:
                model = api.records["models"][key]
                news = published(datetime.now(UTC), int(key) * 100 + 99, model) | {"files": [], "images": []}
                api.records["models"][key] = model | {"modelVersions": [news, *model["modelVersions"]]}
            some, second = load(warehouse, source, sweep=False)
        assert (first.counts.created, second.counts.updated) == (MODELS, MODELS // 100)
        ratios.append(some / full)
        print(f"{MODELS} models {full:.2f} s, {MODELS // 100} changed {some:.2f} s: {some / full:.1%}")
        warehouse.drop_database(warehouse.database)
    assert statistics.median(ratios) <= NEWS


def test_a_run_with_nothing_new_takes_two_seconds_beyond_what_dagster_takes_to_start(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api = HuggingFace()
    for number in range(2_000):
        api.make("models", datetime.now(UTC) - timedelta(seconds=4_000 - number))
    with served(api, monkeypatch):
        environment = os.environ | {
            "DATABASE_URL": warehouse.conninfo,
            "ATLAS_HOME": str(tmp_path),
            "ATLAS_DAGSTER_URL": warehouse.dagster_url.render_as_string(hide_password=False),
            "DAGSTER_HOME": str(tmp_path / "dagster"),
            "DAGSTER_EVENT_BATCH_SIZE": "100",
        }

        def seconds(*command: str) -> tuple[float, str]:
            started = time.perf_counter()
            done = subprocess.run(command, cwd=house.ROOT, env=environment, capture_output=True, text=True, check=True)
            return time.perf_counter() - started, done.stdout

        atlas = [sys.executable, "-m", "pipelines.cli.main", "run", "catalog/huggingface", "--live", "--json"]
        seconds(*atlas)
        runs, starts = [], []
        for _ in range(5):
            taken, told = seconds(*atlas)
            runs.append(taken)
            both = json.loads(told)["runs"]
            assert [run["kind"] for run in both] == ["land", "transform"]
            for run in both:
                assert (run["status"], run["created"], run["updated"], run["deleted"]) == ("completed", 0, 0, 0)
            starts.append(seconds(sys.executable, "-c", NOTHING)[0])
    run_s, start_s = statistics.median(runs), statistics.median(starts)
    print(f"nothing new {run_s:.2f} s, Dagster's own start {start_s:.2f} s: {run_s - start_s:+.2f} s")
    assert run_s - start_s < BEYOND_START_S
