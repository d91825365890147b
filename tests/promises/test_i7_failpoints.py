"""I7, crash anywhere: killed or cut off at any failpoint, a command run again ends as one that nothing disturbed.

    a copy of a prepared database ──command, dies at a failpoint──> before or after, never between
        ──the same command──> what an undisturbed one makes, a truthful ledger, nothing left over

`make test` takes a sample that FAULTS_SEED chooses, `make test-faults` all of them. Which command reaches which
failpoint is declared in `SCENARIOS`, and a test holds that against what the commands say they reach.
"""

import ast
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines import failpoints, project
from pipelines.landing import bulk_files, land
from pipelines.maintenance import erase_sql
from pipelines.source import Source, Window
from pipelines.transform.run import transform
from pipelines.warehouse.database import Warehouse
from pipelines.warehouse.declare import metadata
from tests.crashes import (
    AFTER,
    DAY,
    EARLIER,
    FIRST,
    LATER,
    NEWS,
    PATIENCE_S,
    UNFIT,
    Contents,
    a_model,
    assert_nothing_left,
    assert_truthful,
    contents,
    ledger_of,
    settled,
    shown,
)

SAMPLE = 4
SEED = int(os.environ["FAULTS_SEED"])

project.load_tables()
TABLES = [select.table.name for select in project.selects("catalog/civitai")]
SOURCES = [source.stem for source in project.find_sources(["catalog"])]
ALL_TABLES = [table.name for table in metadata.sorted_tables if table.schema == "catalog"]

LABELS = {
    "erase.prepared": list("0123456"),
    "erase.deleted": list(erase_sql.DELETE),
    "publish.split_repeated": ["0", "1", "2"],
    "publish.discarded": ["arrivals", "rejects", "checkpoints"],
    "dead_runs.discarded": ["arrivals", "rejects", "checkpoints"],
    "ledger.discarded": ["arrivals", "rejects"],
    "transform.effective": list("01234"),
    "dependents.found": TABLES,
    "apply.select": TABLES,
    "write.unique": TABLES,
    "write.pruned": [name for name in TABLES if name != "tags"],
    "write.merged": TABLES,
    "write.unreferenced": ["tags"],
    "constraints.valid": TABLES,
    "constraints.consistent": TABLES,
    "constraints.referenced": ["tags"],
    "table_digests.kept": [f"catalog.{name}" for name in ALL_TABLES],
    "rebuild.merged": ALL_TABLES,
    "rebuild.deleted": ALL_TABLES,
    "rebuild.source_recorded": SOURCES,
    "shadow.source": SOURCES,
    "shadow.effective": SOURCES,
    "shadow.applied": ["civitai"],
}
"""Failpoints in loops: what each is of."""

SCENARIOS = {
    "fetch": ["extract", "http", "rate_limit", "land", "bodies.checkpointed", "publish.renamed"],
    "resume": ["land.resumed"],
    "refused": ["land.faulty"],
    "land": ["bodies", "publish", "ledger", "drift"],
    "failing": ["ledger.failing", "ledger.failed", "ledger.closed", "ledger.discarded"],
    "dead_runs": ["dead_runs"],
    "transform": ["transform", "change_set", "apply", "write", "dependents", "table_digests"],
    "rejected": ["apply.rejected", "apply.validated", "constraints", "rejects", "change_set.extended"],
    "rebuild": ["rebuild", "shadow", "table_digests.kept"],
    "prune": ["prune"],
    "erase": ["erase"],
    "mend": ["publish.closed_replaced"],
    "look back": ["shadow.kept"],
}
"""The command that reaches failpoints, by their beginning; the longest counts."""

PIECEMEAL = ("prune",)
"""Scenarios that publish what they do in several steps."""

RAW = ("fetch", "resume", "refused")
"""Scenarios that are no `atlas` command."""

ONCE = {"erase": 2, "look back": 2, "mend": 2}
"""What a command ends with that finds everything done."""

FAILING = ("failing", "refused")
"""Scenarios of runs that fail by themselves."""

BEGUN = {"failing": "publish.classified=cut"}
"""What happens before, for a failpoint that only a failing run reaches."""


ALWAYS = {("land.read", "kill")}
"""In every sample: then the next run takes up all that was read, down to what a complete listing did not tell."""


def declared() -> dict[str, bool]:
    """The failpoints in the source, and whether each is one of several that share the name."""
    found: dict[str, bool] = {}
    for path in sorted((project.ROOT / "pipelines").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "failpoints.reached":
                name = ast.literal_eval(node.args[0])
                assert name not in found, f"two failpoints are called {name}"
                found[name] = len(node.args) > 1
    return found


def cases() -> list[str]:
    """Every failpoint by its full name."""
    return [
        f"{name}.{label}" if label else name
        for name, several in declared().items()
        for label in (LABELS.get(name, []) if several else [""])
    ]


def scenario_of(name: str) -> str:
    return max((len(begin), scenario) for scenario, all_ in SCENARIOS.items() for begin in all_ if fits(name, begin))[1]


def fits(name: str, begin: str) -> bool:
    return f"{name}.".startswith(f"{begin}.")


def chosen() -> list[tuple[str, str]]:
    """What this run of the tests strikes: everything, or a sample."""
    everything = [(name, fault) for name in cases() for fault in ("kill", "cut", "cancel")]
    if os.environ.get("FAULTS") == "all":
        return everything
    return sorted({*ALWAYS, *random.Random(SEED).sample(everything, SAMPLE)})


class Ollama:
    """A server of one's own and the library's listing, before and after a day; it may refuse all answers."""

    def __init__(self) -> None:
        self.later = self.refuses = False
        ollama = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(ollama.tags() if self.path == "/api/tags" else ollama.library())

            def do_POST(self) -> None:
                name = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
                kind = name.removesuffix(" renamed")
                self.answer({"details": {}, "modelfile": f"FROM {kind}", "system": f"You are {kind}."})

            def answer(self, document: object) -> None:
                body = json.dumps(document).encode()
                self.send_response(403 if ollama.refuses else 200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Says nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def tags(self) -> object:
        names = [f"model {number}" for number in range(6)]
        if self.later:
            names[0] += " renamed"
        return {"models": [{"name": name, "size": 7 + (self.later and name == "model 1")} for name in names]}

    def library(self) -> object:
        numbers = range(1, 7) if self.later else range(6)
        return {"models": {f"lib {each}": {"tags": {}, "pullCount": f"{each + self.later}K"} for each in numbers}}


FETCH = """
from datetime import UTC, datetime
from pipelines import project, settings
from pipelines.landing import extract, land
from pipelines.source import Window
from pipelines.warehouse import database

source = project.sources()["catalog/ollama"]
day = datetime.now(UTC).date().isoformat()
with database.open_warehouse(settings.load()) as warehouse:
    land.land_intake(warehouse, source, day, extract.open_intake(warehouse, source, Window.of(day), "live"))
"""
"""What a Dagster run does to land a live source, without the seconds that Dagster takes to begin."""


@dataclass(frozen=True)
class Ended:
    """A process that has ended."""

    code: int
    said: str


@dataclass
class Stage:
    """The databases that tests copy, made when first wanted, and what undisturbed commands make of them."""

    folder: Path
    new_warehouse: Callable[[], Warehouse]
    civitai: Source
    ollama: Ollama
    made: dict[str, Warehouse] = field(default_factory=dict)
    undisturbed: dict[str, tuple[Contents, Contents, Ended]] = field(default_factory=dict)

    def template(self, scenario: str) -> Warehouse:
        name = {"refused": "fetch", "failing": "land", "erase": "prune", "look back": "prune"}.get(scenario, scenario)
        if name not in self.made:
            self.made[name] = getattr(self, f"make_{name}")(self.new_warehouse())
        return self.made[name]

    def make_land(self, warehouse: Warehouse) -> Warehouse:
        self.bring(warehouse, EARLIER, FIRST)
        self.bring(warehouse, LATER, AFTER)
        for day in (EARLIER, LATER):
            transform(warehouse, self.civitai, day)
        return warehouse

    def make_transform(self, warehouse: Warehouse) -> Warehouse:
        self.make_land(warehouse)
        self.bring(warehouse, DAY, NEWS)
        return warehouse

    def make_rejected(self, warehouse: Warehouse) -> Warehouse:
        self.make_land(warehouse)
        self.bring(warehouse, DAY, UNFIT)
        return warehouse

    def make_prune(self, warehouse: Warehouse) -> Warehouse:
        self.make_transform(warehouse)
        transform(warehouse, self.civitai, DAY)
        return warehouse

    def make_mend(self, warehouse: Warehouse) -> Warehouse:
        self.bring(warehouse, DAY, NEWS[-1:])
        return warehouse

    def make_rebuild(self, warehouse: Warehouse) -> Warehouse:
        self.make_transform(warehouse)
        transform(warehouse, self.civitai, DAY)
        with warehouse.connect() as connection:
            connection.execute("update catalog.models set name = 'by hand' where external_id < '2'")
            connection.execute("delete from catalog.prompts")
            connection.execute("insert into catalog.tags (tag_id, name, normalized_name) select ops.key('x'), 'x', 'x'")
        return warehouse

    def make_dead_runs(self, warehouse: Warehouse) -> Warehouse:
        self.make_land(warehouse)
        assert self.run("land", warehouse, "bodies.committed=kill").code == -signal.SIGKILL
        return settled(warehouse)

    def make_fetch(self, warehouse: Warehouse) -> Warehouse:
        self.ollama.later = False
        assert self.run("fetch", warehouse).code == 0
        self.ollama.later = True
        return warehouse

    def make_resume(self, warehouse: Warehouse) -> Warehouse:
        self.make_fetch(warehouse)
        assert self.run("fetch", warehouse, "land.checkpointed=kill").code == -signal.SIGKILL
        return settled(warehouse)

    def bring(self, warehouse: Warehouse, day: str, payloads: list[bytes]) -> None:
        (file := self.folder / f"{day}.ndjson").write_bytes(b"\n".join(payloads))
        intake = bulk_files.intake(self.civitai, "models", file, Window.of(day))
        land.land_intake(warehouse, self.civitai, day, nullcontext(intake))

    def run(self, scenario: str, warehouse: Warehouse, failpoint: str = "") -> Ended:
        """Runs the command of a scenario."""
        news = self.folder / "news.ndjson"
        news.write_bytes(b"\n".join(NEWS))
        (mended := self.folder / "mended.json").write_bytes(a_model(91))
        atlas = ["-m", "pipelines.cli.main"]
        command = {
            "land": [*atlas, "land", "catalog/civitai.models", "--from", str(news), "--partition", DAY],
            "transform": [*atlas, "transform", "catalog/civitai"],
            "rebuild": [*atlas, "rebuild", "catalog"],
            "prune": [*atlas, "prune", "--versions-days", "0", "--quarantine-days", "0"],
            "erase": [*atlas, "erase", "catalog/civitai.models", "6", "--yes"],
            "mend": [*atlas, "quarantine", "replay", "1", "--with", str(mended)],
            "look back": [*atlas, "as-of", self.first_transform(warehouse), "--schema", "kept"],
            "fetch": ["-c", FETCH],
        }
        same = {"failing": "land", "dead_runs": "land", "rejected": "transform", "refused": "fetch", "resume": "fetch"}
        process = subprocess.run(
            [sys.executable, *command[same.get(scenario, scenario)]],
            cwd=project.ROOT,
            env=os.environ
            | {
                "DATABASE_URL": warehouse.conninfo,
                "ATLAS_HOME": str(self.folder),
                "ATLAS_FAILPOINT": failpoint,
                "ATLAS_OLLAMA_BASE_URL": self.ollama.url,
                "ATLAS_OLLAMA_LIBRARY_BASE_URL": f"{self.ollama.url}/library",
            },
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        return Ended(process.returncode, process.stderr + process.stdout)

    def first_transform(self, warehouse: Warehouse) -> str:
        runs = (run for run in ledger_of(warehouse) if run["kind"] == "transform")
        return str(next(runs, {"fetch_run_id": "none"})["fetch_run_id"])

    def outcome(self, scenario: str, copied: Callable[[Warehouse], Warehouse]) -> tuple[Contents, Contents, Ended]:
        """What is there before and after an undisturbed command, and what that says it reaches."""
        if scenario not in self.undisturbed:
            template = self.template(scenario)
            warehouse = copied(template)
            ended = told = self.struck(scenario, warehouse, "*=print")
            if scenario in FAILING:
                ended = self.run(scenario, warehouse := copied(template))
            assert ended.code in (0, 3), ended.said
            self.undisturbed[scenario] = (contents(template), contents(warehouse), Ended(ended.code, told.said))
        return self.undisturbed[scenario]

    def struck(self, scenario: str, warehouse: Warehouse, failpoint: str) -> Ended:
        """Runs the command of a scenario with a failpoint on, in a world where it fails if that is what it is about."""
        self.ollama.refuses = scenario == "refused"
        ended = self.run(scenario, warehouse, ",".join(filter(None, [BEGUN.get(scenario), failpoint])))
        self.ollama.refuses = False
        return ended


@pytest.fixture(scope="module")
def stage(
    template: Warehouse,
    new_warehouse: Callable[[], Warehouse],
    civitai: Source,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("stage"), new_warehouse, civitai, Ollama())
    with template.connect("postgres") as connection:  # processes die here, the machine does not; a copy takes half
        connection.execute("alter system set fsync = off")
        connection.execute("select pg_reload_conf()")
    yield stage
    stage.ollama.server.shutdown()
    stage.ollama.server.server_close()
    for warehouse in stage.made.values():
        warehouse.drop_database(warehouse.database)


@pytest.mark.parametrize(("name", "fault"), chosen())
def test_the_next_run_makes_good(stage: Stage, copied: Callable[[Warehouse], Warehouse], name: str, fault: str) -> None:
    scenario = scenario_of(name)
    before, after, undisturbed = stage.outcome(scenario, copied)
    warehouse = copied(stage.template(scenario))
    already = len(ledger_of(warehouse))

    died = stage.struck(scenario, warehouse, f"{name}={fault}")
    assert f"failpoint {name}: {fault}" in died.said
    settled(warehouse)
    published = any(run["publish_seq"] for run in ledger_of(warehouse)[already:])
    if fault == "kill":
        assert died.code == -signal.SIGKILL
    else:
        assert (
            died.code == (-signal.SIGINT if scenario in RAW else 1)
            if fault == "cancel"
            else died.code == 1 or (died.code == undisturbed.code and published)
        ), died.said
        assert scenario in RAW or "Traceback" not in died.said
    if scenario not in PIECEMEAL:
        assert shown(contents(warehouse)) == shown(after if published else before)

    again = stage.run(scenario, warehouse)
    done = {0, undisturbed.code, ONCE.get(scenario, 0)} if published or scenario == "look back" else {undisturbed.code}
    assert again.code in done, again.said
    assert contents(warehouse) == after
    runs = ledger_of(warehouse)
    assert_truthful(runs)
    assert runs[-1]["publish_seq"]
    if fault == "kill" and scenario not in FAILING:
        silent = [run for run in runs[already:] if not run["publish_seq"]]
        assert all("ended before it closed the run" in run["error_text"] for run in silent)
    assert_nothing_left(warehouse)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_failpoint_is_reached_by_the_command_it_is_tried_with(
    stage: Stage, copied: Callable[[Warehouse], Warehouse], scenario: str
) -> None:
    _, _, ended = stage.outcome(scenario, copied)
    lines = [line for line in ended.said.splitlines() if line.startswith("failpoint ")]
    told = {line.removeprefix("failpoint ").split(":")[0] for line in lines}
    assert told <= set(cases()), "LABELS should name these too"
    assert {name for name in cases() if scenario_of(name) == scenario} <= told


def test_there_are_failpoints_between_every_two_steps() -> None:
    assert len(declared()) >= 50
    assert {name.split(".")[0] for name in declared()} >= {
        "extract",
        "land",
        "publish",
        "transform",
        "ledger",
        "rebuild",
    }
    assert LABELS.keys() == {name for name, several in declared().items() if several}


def test_a_failpoint_that_is_off_costs_nanoseconds() -> None:
    """What a landing can spare for each of 75,000 payloads a second."""
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(10_000):
            failpoints.reached("off", "off")
        times.append((time.perf_counter() - began) / 10_000)
    print(f"{min(times) * 1e9:.0f} ns")
    assert min(times) < 1e-6


def test_a_failpoint_that_cannot_be_read_is_explained(stage: Stage, template: Warehouse) -> None:
    ended = stage.run("transform", template, "publish.classified=explode")
    assert ended.code == 2
    assert "ATLAS_FAILPOINT has 'publish.classified=explode'" in ended.said
