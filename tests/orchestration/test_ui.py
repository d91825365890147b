"""The Dagster UI for real: `atlas ui` as a process of its own, asked over HTTP and looked at with a browser.

docs/graph.png is what the browser sees here, with every source materialized; it is made anew by
`UI_PICTURE=docs/graph.png .venv/bin/python -m pytest tests/orchestration/test_ui.py -k background`.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from psycopg.rows import dict_row

from pipelines import project
from pipelines.ledger import Counts
from pipelines.source import Source
from pipelines.warehouse import embedded
from tests import launcher

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")

DAY = "2026-11-01"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PICTURE = os.environ.get("UI_PICTURE")
LISTENING = "0A"
ROW_HEIGHT = 240
"""Of a table in the drawn graph."""
PATIENCE_S = 240

Sources = dict[str, list[str]]
"""Names of staging assets, each with the tables that it feeds."""


@dataclass
class Ui:
    """A UI that answers."""

    launcher: "subprocess.Popen[bytes]"
    home: Path
    port: int
    client: httpx.Client

    def ask(self, query: str, **variables: Any) -> Any:
        answer = self.client.post("/graphql", json={"query": query, "variables": variables}).json()
        assert "errors" not in answer, answer
        return answer["data"]

    def warehouse_rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with embedded.running(self.home) as url, psycopg.connect(url, dbname="atlas", row_factory=dict_row) as asked:
            return asked.execute(query, values).fetchall()


@contextmanager
def launched(home: Path, port: int, *before: str) -> Iterator["subprocess.Popen[bytes]"]:
    """`atlas ui` over a warehouse under home; its words go to home/words."""
    home.mkdir(exist_ok=True)
    with (home / "words").open("wb") as written:
        process = subprocess.Popen(
            [*before, sys.executable, "-m", "pipelines.cli.main", "ui", "--port", str(port)],
            stdin=subprocess.DEVNULL,
            stdout=written,
            stderr=subprocess.STDOUT,
            cwd=project.ROOT,
            env={**os.environ, "ATLAS_HOME": str(home)},
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()
        for left in ours(home):  # a failed test is no reason to leave them
            with suppress(ProcessLookupError):
                os.kill(int(left.name), signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def started(home: Path, *before: str) -> Iterator[Ui]:
    """A UI that answers, over a warehouse under home."""
    port = free_port()
    with launched(home, port, *before) as process:
        words = home / "words"
        line = f"The Dagster UI is at http://127.0.0.1:{port} (Ctrl-C ends it)"
        wait(lambda: line in words.read_text() or process.poll() is not None)
        assert process.poll() is None, words.read_text()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield Ui(process, home, port, client)


def wait(done: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + patience_s
    while not done():
        assert time.monotonic() < deadline, f"not within {patience_s} s"
        time.sleep(0.5)


def processes(home: Path) -> dict[Path, str]:
    """Every process whose environment names the home, however it was detached, with its command line."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.fsencode(home) in (process / "environ").read_bytes():
                found[process] = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def ours(home: Path) -> dict[Path, str]:
    """The same less the server, which a killed launcher leaves to the next."""
    found = {}
    for process, command in processes(home).items():
        with suppress(OSError):
            if (process / "exe").readlink().name != "postgres":
                found[process] = command
    return found


def listening(home: Path) -> set[tuple[str, int]]:
    """Addresses, as /proc writes them, and ports on which processes of the home take TCP connections."""
    sockets = set()
    for process in processes(home):
        with suppress(OSError):
            sockets |= {os.readlink(each) for each in (process / "fd").iterdir()}
    rows = [
        row.split() for name in ("tcp", "tcp6") for row in Path("/proc/net", name).read_text().splitlines()[1:] if row
    ]
    ours = [row[1] for row in rows if row[3] == LISTENING and f"socket:[{row[9]}]" in sockets]
    return {(address, int(port, 16)) for address, port in (local.split(":") for local in ours)}


def stop_sensors(ui: Ui) -> None:
    """Turns automation off, so that the runs asked for are the only ones."""
    (repository,) = ui.ask(
        "{ repositoriesOrError { ... on RepositoryConnection { nodes { sensors { id sensorState { status } } } } } }"
    )["repositoriesOrError"]["nodes"]
    for sensor in repository["sensors"]:
        assert sensor["sensorState"]["status"] == "RUNNING"
        ui.ask("mutation ($id: String!) { stopSensor(id: $id) { __typename } }", id=sensor["id"])


def run_status(ui: Ui, run: str) -> str:
    return str(
        ui.ask("query ($id: ID!) { runOrError(runId: $id) { ... on Run { status } } }", id=run)["runOrError"]["status"]
    )


def launch(ui: Ui, *assets: str) -> str:
    """What the button does for assets and one partition, checks included; the run."""
    keys = [{"path": asset.split("/")} for asset in assets]
    checks = [{"assetKey": key, "name": "ledger_agrees"} for key in keys]
    checks += [{"assetKey": key, "name": "drift"} for key in keys if len(key["path"]) == len(("domain", "source"))]
    launched = ui.ask(
        """mutation ($params: ExecutionParams!) {
            launchPipelineExecution(executionParams: $params) { __typename ... on LaunchRunSuccess { run { runId } } }
        }""",
        params={
            "selector": {
                "repositoryLocationName": "modelatlas",
                "repositoryName": "__repository__",
                "pipelineName": "__ASSET_JOB",
                "assetSelection": keys,
                "assetCheckSelection": checks,
            },
            "mode": "default",
            "runConfigData": {},
            "executionMetadata": {"tags": [{"key": "dagster/partition", "value": DAY}]},
        },
    )["launchPipelineExecution"]
    assert launched["__typename"] == "LaunchRunSuccess", launched
    return str(launched["run"]["runId"])


def materialize(ui: Ui, *assets: str) -> str:
    """Launches a run; it, once it has succeeded."""
    run = launch(ui, *assets)
    wait(lambda: run_status(ui, run) in {"SUCCESS", "FAILURE", "CANCELED"})
    assert run_status(ui, run) == "SUCCESS", (ui.home / "words").read_text()
    return run


def told(ui: Ui, run: str) -> dict[str, dict[str, Any]]:
    """The metadata of each materialization of a run, by asset."""
    found = ui.ask(
        """query ($id: ID!) { runOrError(runId: $id) { ... on Run { assetMaterializations {
            partition assetKey { path }
            metadataEntries { label ... on IntMetadataEntry { intValue } ... on TextMetadataEntry { text } }
        } } } }""",
        id=run,
    )["runOrError"]["assetMaterializations"]
    assert {each["partition"] for each in found} == {DAY}
    return {
        "/".join(each["assetKey"]["path"]): {
            entry["label"]: entry.get("intValue", entry.get("text")) for entry in each["metadataEntries"]
        }
        for each in found
    }


def verdicts(ui: Ui, run: str) -> dict[tuple[str, str], bool]:
    """What the checks of a run found, by asset and name."""
    events = ui.ask(
        """query ($id: ID!) { runOrError(runId: $id) { ... on Run { eventConnection { events {
            ... on AssetCheckEvaluationEvent { evaluation { success checkName assetKey { path } } }
        } } } } }""",
        id=run,
    )["runOrError"]["eventConnection"]["events"]
    found = [event["evaluation"] for event in events if event]
    return {("/".join(each["assetKey"]["path"]), each["checkName"]): each["success"] for each in found}


def counts(of: dict[str, Any]) -> dict[str, int]:
    return {name: of[name] for name in asdict(Counts())}


def ledger_rows(ui: Ui, run: str, kind: str) -> dict[str, dict[str, Any]]:
    """The runs of a kind of a Dagster run, by stream."""
    found = ui.warehouse_rows("select * from ops.fetch_runs where dagster_run_id = %s and kind = %s", run, kind)
    assert {(row["partition_key"], row["status"]) for row in found} == {(DAY, "completed")}
    return {row["stream"]: row for row in found}


@pytest.fixture
def expected() -> Sources:
    """What there must be, by the files alone."""
    return {
        source: sorted(
            path.relative_to(project.SQL).with_suffix("").as_posix() for path in (project.SQL / source).glob("*")
        )
        for source in project.sources()
    }


@pytest.mark.timeout(900)
@pytest.mark.long("a whole UI, and runs in it")
@pytest.mark.parametrize("end", ["Ctrl-C", "a kill"])
@pytest.mark.sample(1)
def test_a_background_job_of_a_shell_shows_materializes_and_ends(
    tmp_path: Path, expected: Sources, civitai: Source, subtests: pytest.Subtests, end: str
) -> None:
    home = tmp_path / "home"
    ignoring_sigint = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")
    with started(home, *ignoring_sigint) as ui:
        with subtests.test("every source and table is an asset of the one code location, by domain and day"):
            shows_every_asset(ui, expected)
        with subtests.test("it listens on 127.0.0.1 alone, the server and code servers on no port at all"):
            assert len(ours(home)) >= 4
            assert listening(home) == {("0100007F", ui.port)}
        with subtests.test("what is materialized arrives, and the ledger tells the same counts"):
            materializes(ui, civitai, expected[civitai.name])
        with subtests.test("a browser draws the graph"):
            if CHROMIUM is None:
                pytest.skip("no chromium here to look at the graph with")
            draws_the_graph(ui, expected, tmp_path)
        if end == "Ctrl-C":
            with subtests.test("Ctrl-C ends a run in progress, and the ledger says so"):
                is_ended_with_its_run(ui, "catalog/danbooru.posts")
            assert ui.launcher.wait(30) == 0
            assert (home / "words").read_text().count("Stopping.") == 1
        else:
            with subtests.test("a killed launcher takes its children with it, and leaves the server to the next"):
                is_killed(ui)
        assert processes(home) == {}


def shows_every_asset(ui: Ui, expected: Sources) -> None:
    (repository,) = ui.ask(
        """{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name } assetNodes {
            assetKey { path } dependencyKeys { path } groupName isPartitioned isMaterializable partitionKeys
            hasAssetChecks owners { ... on TeamAssetOwner { team } } kinds
        } } } } }"""
    )["repositoriesOrError"]["nodes"]
    assert repository["location"]["name"] == "modelatlas"
    parents = {
        "/".join(node["assetKey"]["path"]): ["/".join(key["path"]) for key in node["dependencyKeys"]]
        for node in repository["assetNodes"]
    }
    streams = {name: {stream.name for stream in source.streams} for name, source in project.sources().items()}
    tables = {table: source for source, of_source in expected.items() for table in of_source}
    assert parents.keys() == set().union(*streams.values()) | tables.keys()
    for asset, above in parents.items():
        assert bool(above) == (asset in tables) and set(above) <= streams[tables.get(asset, "catalog/civitai")], asset
    for node in repository["assetNodes"]:
        domain, stem, *_ = node["assetKey"]["path"]
        assert node["groupName"] == f"{domain}_{stem.partition('.')[0]}"
        assert node["isPartitioned"] and node["isMaterializable"] and node["hasAssetChecks"]
        assert DAY in node["partitionKeys"]
        assert node["owners"] and node["kinds"]


def materializes(ui: Ui, source: Source, tables: list[str]) -> None:
    recorded = json.loads((project.SAMPLES / source.name / f"{DAY}.json").read_bytes())
    answered = {
        (exchange["request"].partition("?")[0], record["id"])
        for exchange in recorded["exchanges"]
        for record in exchange["body"]["items"]
    }
    models = [number for request, number in answered if request.endswith("/models")]

    stop_sensors(ui)
    streams = [stream.name for stream in source.streams]
    run = materialize(ui, *streams, *tables)
    by_table = told(ui, run)
    landed = ledger_rows(ui, run, "land")
    assert sum(row["fetched"] for row in landed.values()) == len(answered)
    for name in streams:
        metadata = by_table.pop(name)
        assert (counts(metadata), metadata["fetch_run_id"]) == (counts(landed[name]), str(landed[name]["fetch_run_id"]))

    transformed = {str(row["fetch_run_id"]): row for row in ledger_rows(ui, run, "transform").values()}
    assert sorted(by_table) == tables
    for asset, metadata in by_table.items():
        table = ".".join((source.domain, asset.split("/")[-1]))
        of_runs = [transformed[each]["stats"]["tables"][table] for each in metadata["fetch_run_id"].split(", ")]
        assert counts(metadata) == {name: sum(each[name] for each in of_runs) for name in counts(metadata)}
        ((rows,),) = (each.values() for each in ui.warehouse_rows(f"select count(*) from {table}"))
        assert rows == metadata["created"] > 0
    assert by_table[f"{source.name}/models"]["created"] == len(models)

    agreed = {(asset, "ledger_agrees"): True for asset in (*streams, *tables)}
    assert verdicts(ui, run) == agreed | {(name, "drift"): True for name in streams}


def draws_the_graph(ui: Ui, expected: Sources, folder: Path) -> None:
    """Looks until the graph is laid out: that happens in a worker, beside the page's virtual time."""
    if PICTURE:
        for source in expected.keys() - {"catalog/civitai"}:
            materialize(ui, *(stream.name for stream in project.sources()[source].streams), *expected[source])
    streams = {name: [each.name for each in source.streams] for name, source in project.sources().items()}
    wanted = {f'href="/assets/{asset}?' for source in expected for asset in (*streams[source], *expected[source])}
    height = ROW_HEIGHT * sum(map(len, expected.values()))

    def drawn() -> bool:
        page = browse(ui, folder, "--dump-dom", height)
        return all(each in page for each in wanted)

    wait(drawn)
    if PICTURE:
        browse(ui, folder, f"--screenshot={project.ROOT / PICTURE}", height)


def is_ended_with_its_run(ui: Ui, source: str) -> None:
    """Sends SIGINT while a landing of a source that has none waits for the lock under which versions are published."""
    bodies = "select from staging.payloads"
    before = len(ui.warehouse_rows(bodies))
    with embedded.running(ui.home) as url, psycopg.connect(url, dbname="atlas") as stopper:
        stopper.execute("lock table staging.versions in exclusive mode")
        launch(ui, source)
        wait(lambda: len(ui.warehouse_rows(bodies)) > before)
        ui.launcher.send_signal(signal.SIGINT)
        assert ui.launcher.wait(30) == 0
        assert ours(ui.home) == {}
        stopper.rollback()
        shown = launcher.run("--home", ui.home, "runs", source, "--json", folder=project.ROOT, environment=os.environ)
        (run,) = json.loads(shown.stdout)
        assert run["status"] == "failed"
        assert ui.warehouse_rows("select from staging.versions where stream = %s", source) == []


def browse(ui: Ui, folder: Path, what: str, height: int) -> str:
    """The graph in a window high enough for all of it: what is not in sight is not drawn."""
    assert CHROMIUM
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--hide-scrollbars", f"--window-size=1560,{height}", "--force-device-scale-factor=0.6"]
    command += [f"--user-data-dir={folder / 'chromium'}", "--virtual-time-budget=15000", what]
    seen = subprocess.run(
        [*command, f"http://127.0.0.1:{ui.port}/asset-groups"], capture_output=True, timeout=PATIENCE_S
    )
    return seen.stdout.decode()


def is_killed(ui: Ui) -> None:
    ui.launcher.kill()
    ui.launcher.wait()
    wait(lambda: ours(ui.home) == {}, 60)
    assert processes(ui.home) != {}
    with embedded.running(ui.home):
        pass
