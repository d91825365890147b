"""The commands that are crashed, the databases they begin with, and one crash from its fault to its repair.

    copy of a prepared database ──command, struck by a fault──> before or after, never between
        ──the same command──> what an undisturbed one makes, a truthful ledger, nothing left over

What a fault leaves is often what another fault left; from each state the command is run again once. Belongs here:
scenarios, and which faults each statement gets. Not here: how faults strike (`proxy`), how commands run (`runner`).
"""

import json
import signal
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from psycopg import sql

from pipelines import project
from pipelines.landing import bulk_files, extract, land
from pipelines.source import Window
from pipelines.transform.run import transform
from pipelines.warehouse.database import Warehouse
from tests.crashes import outcome
from tests.crashes.outcome import Contents, assert_nothing_left, assert_truthful, contents, different, ledger_of, shown
from tests.crashes.payloads import AFTER, DAY, EARLIER, FIRST, LATER, NEWS, UNFIT, a_model
from tests.crashes.proxy import Address, Fault, Kind, Moment, Proxy, Statement
from tests.crashes.runner import Ended, Runner

FIRST_DAY, SECOND_DAY = "2026-11-01", "2026-11-02"
SOURCES = ("catalog/ollama", "catalog/danbooru")
POST = "10243390"
KINDS: tuple[Kind, ...] = ("kill", "cut", "cancel")


@dataclass(frozen=True)
class Scenario:
    """A command. prepared: the method of `Stage` that makes its database. parts: into how many tests its cases go.

    most: how many cases are enough. again: what it ends with where everything is done. piecemeal: it publishes what it
    does in several steps.
    """

    prepared: str
    command: str
    parts: int = 1
    most: int | None = None
    again: int = 0
    piecemeal: bool = False


SCENARIOS = {
    "land ollama": Scenario("one_day", f"extract catalog/ollama {SECOND_DAY}", parts=2),
    "land danbooru": Scenario("one_day", f"extract catalog/danbooru {SECOND_DAY}", parts=2),
    "transform ollama": Scenario("landed", "transform catalog/ollama", parts=6),
    "transform danbooru": Scenario("landed", "transform catalog/danbooru", parts=2),
    "rebuild": Scenario("spoiled", "rebuild catalog --workers 1", parts=12),
    "prune": Scenario("two_days", "prune --versions-days 0 --quarantine-days 0", parts=2, piecemeal=True),
    "erase": Scenario("two_days", f"erase catalog/danbooru.posts {POST} --yes", parts=3, again=2),
    "live": Scenario("fetched", "extract catalog/ollama {today} live", parts=2),
    "resumed": Scenario("interrupted", "extract catalog/ollama {today} live", most=100),
    "dead runs": Scenario("died", f"land catalog/civitai.models --from {{news}} --partition {DAY}", most=100),
    "rejected": Scenario("rejected", "transform catalog/civitai", most=100),
    "replay": Scenario("refused", "quarantine replay 1 --with {mended}", most=100, again=2),
    "as-of": Scenario("two_days", "as-of {run} --schema kept --workers 1", most=100, again=2),
}


def faults(statement: Statement) -> list[Fault]:
    """The faults of a statement: three, or all at each moment where its effect can outlive the connection.

    In a transaction, lost before a statement or after it is the same to the client, which fails at this statement, and
    to the server, which rolls back.
    """
    moments: list[tuple[Kind, Moment]] = [("kill", "after"), ("cut", "before"), ("cancel", "before")]
    if statement.lasting:
        moments += [("kill", "before"), ("cut", "after"), ("cancel", "after")]
    if statement.blocks:
        moments += [(kind, "midway") for kind in KINDS]
    return [Fault(kind, moment, statement.at) for kind, moment in moments]


class Ollama:
    """A server of one's own and the library's listing, before and after a day. answering: called before each answer."""

    def __init__(self) -> None:
        self.later = False
        self.answering: Callable[[], None] = lambda: None
        ollama = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.answer(ollama.tags() if self.path == "/api/tags" else ollama.library())

            def do_POST(self) -> None:
                name = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
                kind = name.removesuffix(" renamed")
                self.answer({"details": {}, "modelfile": f"FROM {kind}", "system": f"You are {kind}."})

            def answer(self, document: object) -> None:
                ollama.answering()
                body = json.dumps(document).encode()
                self.send_response(200)
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


@dataclass(frozen=True)
class Undisturbed:
    """A scenario that nothing disturbs: what is there before and after, how it ends, what it sends."""

    before: Contents
    after: Contents
    ended: Ended
    statements: list[Statement]


@dataclass
class Stage:
    """Prepared databases, and crashes of commands on copies of them."""

    folder: Path
    new_warehouse: Callable[[], Warehouse]
    proxy: Proxy
    runner: Runner
    ollama: Ollama
    made: dict[str, Warehouse] = field(default_factory=dict)
    known: dict[tuple[str, str | None], Undisturbed] = field(default_factory=dict)
    mended: set[object] = field(default_factory=set)

    def close(self) -> None:
        self.runner.close()
        self.proxy.close()
        self.ollama.server.shutdown()
        self.ollama.server.server_close()
        for warehouse in self.made.values():
            warehouse.drop_database(warehouse.database)

    def prepared(self, name: str) -> Warehouse:
        if name not in self.made:
            self.made[name] = getattr(self, f"make_{name}")(self.new_warehouse())
        return self.made[name]

    def make_one_day(self, warehouse: Warehouse) -> Warehouse:
        for name in SOURCES:
            self.fetch(warehouse, name, FIRST_DAY)
            transform(warehouse, project.sources()[name], FIRST_DAY)
        return warehouse

    def make_landed(self, warehouse: Warehouse) -> Warehouse:
        self.make_one_day(warehouse)
        for name in SOURCES:
            self.fetch(warehouse, name, SECOND_DAY)
        return warehouse

    def make_two_days(self, warehouse: Warehouse) -> Warehouse:
        self.make_landed(warehouse)
        for name in SOURCES:
            transform(warehouse, project.sources()[name], SECOND_DAY)
        return warehouse

    def make_spoiled(self, warehouse: Warehouse) -> Warehouse:
        self.make_two_days(warehouse)
        with warehouse.connect() as connection:
            connection.execute("update catalog.models set name = 'by hand' where external_id < 'm'")
            connection.execute("delete from catalog.image_tags")
            connection.execute("insert into catalog.tags (tag_id, name, normalized_name) select ops.key('x'), 'x', 'x'")
        return warehouse

    def make_civitai(self, warehouse: Warehouse) -> Warehouse:
        self.bring(warehouse, EARLIER, FIRST)
        self.bring(warehouse, LATER, AFTER)
        for day in (EARLIER, LATER):
            transform(warehouse, project.sources()["catalog/civitai"], day)
        return warehouse

    def make_rejected(self, warehouse: Warehouse) -> Warehouse:
        self.make_civitai(warehouse)
        self.bring(warehouse, DAY, UNFIT)
        return warehouse

    def make_refused(self, warehouse: Warehouse) -> Warehouse:
        self.bring(warehouse, DAY, NEWS[-1:])
        return warehouse

    def make_died(self, warehouse: Warehouse) -> Warehouse:
        self.make_civitai(warehouse)
        self.die("dead runs", warehouse, lambda each: each.text.startswith("create temp table classified"))
        return warehouse

    def make_fetched(self, warehouse: Warehouse) -> Warehouse:
        self.ollama.later = False
        assert self.run("live", warehouse).code == 0
        self.ollama.later = True
        return warehouse

    def make_interrupted(self, warehouse: Warehouse) -> Warehouse:
        self.make_fetched(warehouse)
        self.die("live", warehouse, lambda each: each.text.startswith("insert into staging.checkpoints"))
        with warehouse.connect() as connection:
            assert connection.execute("select from staging.checkpoints").rowcount == 1
        return warehouse

    def die(self, name: str, warehouse: Warehouse, at: Callable[[Statement], bool]) -> None:
        """Kills a command after the transaction of a statement."""
        copy = self.copy_of(warehouse)
        self.run(name, copy)
        copy.drop_database(copy.database)
        number, statement = next((n, each) for n, each in enumerate(self.proxy.statements) if at(each))
        same = (each for each in self.proxy.statements[number:] if each.at.connection == statement.at.connection)
        end = next((each for each in same if each.text == "COMMIT"), statement)
        fault = Fault("kill", "after" if "checkpoints" in statement.text else "before", end.at)
        assert self.run(name, warehouse, fault).code == -signal.SIGKILL
        outcome.settled(warehouse)

    def fetch(self, warehouse: Warehouse, name: str, day: str) -> None:
        source = project.sources()[name]
        intake = extract.open_intake(warehouse, source, Window.of(day), "recorded")
        land.land_intake(warehouse, source, day, intake)

    def bring(self, warehouse: Warehouse, day: str, payloads: list[bytes]) -> None:
        (file := self.folder / f"{day}.ndjson").write_bytes(b"\n".join(payloads))
        source = project.sources()["catalog/civitai"]
        intake = bulk_files.intake(source, "models", file, Window.of(day))
        land.land_intake(warehouse, source, day, nullcontext(intake))

    def copy_of(self, origin: Warehouse) -> Warehouse:
        copy = Warehouse(origin.url.set(database=f"crash_of_{origin.database}"))
        with origin.connect("postgres") as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(copy.database)))
            connection.execute(
                sql.SQL("create database {} template {} strategy file_copy").format(
                    sql.Identifier(copy.database), sql.Identifier(origin.database)
                )
            )
        return copy

    def run(self, name: str, warehouse: Warehouse, fault: Fault | None = None, *, harm: str | None = None) -> Ended:
        """Runs the command of a scenario to its end, struck by a fault."""
        (news := self.folder / "news.ndjson").write_bytes(b"\n".join(NEWS))
        (mended := self.folder / "mended.json").write_bytes(a_model(91))
        runs = (run for run in ledger_of(warehouse) if run["kind"] == "transform")
        words = {
            "{news}": str(news),
            "{mended}": str(mended),
            "{today}": datetime.now(UTC).date().isoformat(),
            "{run}": str(next(runs, {"fetch_run_id": "none"})["fetch_run_id"]),
        }
        environment = {
            "DATABASE_URL": self.proxy.url(warehouse.database),
            "ATLAS_HOME": str(self.folder),
            "ATLAS_OLLAMA_BASE_URL": self.ollama.url,
            "ATLAS_OLLAMA_LIBRARY_BASE_URL": f"{self.ollama.url}/library",
        }
        command = [words.get(word, word) for word in SCENARIOS[name].command.split()]
        self.proxy.begin(fault)
        ended = self.runner.run(command, environment, harm=harm, begun=self.proxy.serve)
        self.proxy.join()
        return ended

    def undisturbed(self, name: str, harm: str | None = None) -> Undisturbed:
        """What a scenario makes where nothing disturbs it."""
        if (name, harm) not in self.known:
            origin = self.prepared(SCENARIOS[name].prepared)
            warehouse = self.copy_of(origin)
            ended = self.run(name, warehouse, harm=harm)
            assert ended.code in (0, 3), ended.said
            made = Undisturbed(contents(origin), contents(warehouse), ended, self.proxy.statements)
            assert_truthful(ledger_of(warehouse))
            assert_nothing_left(warehouse)
            self.known[name, harm] = made
        return self.known[name, harm]

    def crash(self, name: str, fault: Fault, harm: str | None = None) -> None:
        """Strikes a command, and asserts what it leaves and what the same command makes of that."""
        origin = self.prepared(SCENARIOS[name].prepared)
        scenario, undisturbed = SCENARIOS[name], self.undisturbed(name, harm)
        warehouse = self.copy_of(origin)
        already = len(ledger_of(warehouse))

        died = self.run(name, warehouse, fault, harm=harm)
        assert self.proxy.struck, "the statement was not sent"
        runs = ledger_of(outcome.settled(warehouse))
        found = contents(warehouse)
        published = any(run["publish_seq"] for run in runs[already:])
        done = published or (len(runs) == already and found == undisturbed.after != undisturbed.before)
        if fault.kind == "kill":
            assert died.code == -signal.SIGKILL, died
        else:
            assert "Traceback" not in died.said, died.said
            assert died.code in ({1, undisturbed.ended.code} if done else {1}), died
        if not scenario.piecemeal:
            expected = undisturbed.after if done else undisturbed.before
            assert not different(shown(found), shown(expected)), f"shows neither before nor after; done: {done}"
        assert_truthful([run for run in runs if run["status"] != "in_progress"])

        state = (name, harm, *found.items(), *(run[each] for run in runs for each in ("kind", "status", "error_text")))
        if state not in self.mended:
            self.mend(name, warehouse, undisturbed, done=done, harm=harm, silent=fault.kind == "kill", already=already)
            self.mended.add(state)

    def mend(
        self,
        name: str,
        warehouse: Warehouse,
        undisturbed: Undisturbed,
        *,
        done: bool,
        harm: str | None,
        silent: bool,
        already: int,
    ) -> None:
        """Runs a command again, and asserts that it ends as if nothing had been. silent: its process was killed."""
        again = self.run(name, warehouse, harm=harm)
        ends = {0, undisturbed.ended.code, SCENARIOS[name].again} if done else {undisturbed.ended.code}
        assert again.code in ends, again
        runs = ledger_of(warehouse)
        differing = different(contents(warehouse), undisturbed.after)
        assert not differing, f"the same command again makes another {', '.join(differing)}"
        assert_truthful(runs)
        if silent:
            failed = [run["error_text"] for run in runs[already:] if not run["publish_seq"]]
            assert all("ended before it closed the run" in text for text in failed), failed
        assert_nothing_left(warehouse)


def address(text: str) -> Address:
    connection, statement = text.split(".")
    return Address(int(connection), int(statement))
