"""The databases that commands begin with, and one crash from its fault to its repair.

    copy of a prepared database ──command, struck by a fault──> before or after, never between
        ──the same command──> what an undisturbed one makes, a truthful ledger, nothing left over

What a fault leaves is often what another fault left; from each state the command is run again once. A database that is
as it was before, but for rows of the ledger, which are deleted, serves the next crash. Belongs here: databases and
crashes. Not here: which commands (`scenarios`) and faults (`faults`) there are, what must hold of a database
(`outcome`).
"""

import os
import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from pipelines import project
from pipelines.landing import bulk_files
from pipelines.source import Window
from pipelines.warehouse.database import Warehouse
from tests import databases
from tests.crashes import outcome, people
from tests.crashes.faults import Answer, Fault, Statement
from tests.crashes.ollama import Ollama
from tests.crashes.outcome import Contents, assert_nothing_left, assert_truthful, contents, different, ledger_of, shown
from tests.crashes.payloads import AFTER, DAY, EARLIER, FIRST, LATER, NEWS, UNFIT, a_model
from tests.crashes.proxy import Proxy
from tests.crashes.runner import Ended, Runner
from tests.crashes.scenarios import FIRST_DAY, SCENARIOS, SECOND_DAY, SOURCES
from tests.runs import land_intake, land_recorded, pending_partitions, transform


@dataclass(frozen=True)
class Undisturbed:
    """A scenario that nothing disturbs: what is there before and after, how it ends, what it sends.

    runs: the ledger before.
    """

    before: Contents
    after: Contents
    ended: Ended
    statements: list[Statement]
    runs: list[outcome.Run]


@dataclass
class Stage:
    """Prepared databases, and crashes of commands on copies of them."""

    folder: Path
    new_warehouse: Callable[[], Warehouse]
    proxy: Proxy
    ollama: Ollama
    runners: dict[Path, Runner] = field(default_factory=dict)
    made: dict[str, Warehouse] = field(default_factory=dict)
    known: dict[tuple[str, str | None], Undisturbed] = field(default_factory=dict)
    mended: set[object] = field(default_factory=set)
    spare: dict[str, Warehouse] = field(default_factory=dict)

    def close(self) -> None:
        for runner in self.runners.values():
            runner.close()
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

    def make_people_landed(self, warehouse: Warehouse) -> Warehouse:
        people.land_later(people.apply_earlier(warehouse))
        return warehouse

    def make_people(self, warehouse: Warehouse) -> Warehouse:
        self.make_people_landed(warehouse)
        (day,) = pending_partitions(warehouse, project.sources()["toy/mail"])
        transform(warehouse, project.sources()["toy/mail"], day)
        people.write(warehouse, people.ANN_OWNS)
        return warehouse

    def make_people_spoiled(self, warehouse: Warehouse) -> Warehouse:
        self.make_people(warehouse)
        with warehouse.connect() as connection:
            for statement in people.SPOIL:
                connection.execute(statement)
        return warehouse

    def make_fetched(self, warehouse: Warehouse) -> Warehouse:
        self.ollama.later = False
        ended = self.run("live", warehouse)
        assert ended.code == 0, ended
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
        with outcome.settled(warehouse):
            pass

    def fetch(self, warehouse: Warehouse, name: str, day: str) -> None:
        source = project.sources()[name]
        land_recorded(warehouse, source, Window.of(day))

    def bring(self, warehouse: Warehouse, day: str, payloads: list[bytes]) -> None:
        (file := self.folder / f"{day}.ndjson").write_bytes(b"\n".join(payloads))
        source = project.sources()["catalog/civitai"]
        intake = bulk_files.intake(source, "models", file, Window.of(day).start)
        land_intake(warehouse, source, day, nullcontext(intake))

    def copy_of(self, origin: Warehouse) -> Warehouse:
        return databases.copy_of(origin, f"crash_of_{origin.database}")

    def run(
        self, name: str, warehouse: Warehouse, fault: Fault | Answer | None = None, *, harm: str | None = None
    ) -> Ended:
        """Runs the command of a scenario to its end, struck by a fault."""
        (news := self.folder / "news.ndjson").write_bytes(b"\n".join(NEWS))
        (mended := self.folder / "mended.json").write_bytes(a_model(91))
        words = {
            "{news}": str(news),
            "{mended}": str(mended),
            "{today}": datetime.now(UTC).date().isoformat(),
        }
        if "{run}" in SCENARIOS[name].command:
            words["{run}"] = next(
                str(run["fetch_run_id"]) for run in ledger_of(warehouse) if run["kind"] == "transform"
            )
        environment = {
            "DATABASE_URL": self.proxy.url(warehouse.database),
            "ATLAS_HOME": str(self.folder),
            "ATLAS_OLLAMA_BASE_URL": self.ollama.url,
            "ATLAS_OLLAMA_LIBRARY_BASE_URL": f"{self.ollama.url}/library",
        }
        command = [words.get(word, word) for word in SCENARIOS[name].command.split()]
        self.proxy.begin(fault if isinstance(fault, Fault) else None)
        self.ollama.answering = self.kills_at(fault.number) if isinstance(fault, Answer) else lambda: None
        if project.ROOT not in self.runners:
            self.runners[project.ROOT] = Runner(self.folder)
        ended = self.runners[project.ROOT].run(command, environment, harm=harm, begun=self.proxy.serve)
        self.proxy.join()
        return ended

    def kills_at(self, number: int) -> Callable[[], None]:
        """Kills the process when called so many times."""
        calls = count(1)

        def called() -> None:
            if next(calls) == number:
                self.proxy.struck = True
                os.kill(self.proxy.process, signal.SIGKILL)

        return called

    def undisturbed(self, name: str, harm: str | None = None) -> Undisturbed:
        """What a scenario makes where nothing disturbs it."""
        if (name, harm) not in self.known:
            origin = self.prepared(SCENARIOS[name].prepared)
            warehouse = self.copy_of(origin)
            ended = self.run(name, warehouse, harm=harm)
            assert ended.code in (0, 3), ended.said
            made = Undisturbed(contents(origin), contents(warehouse), ended, self.proxy.statements, ledger_of(origin))
            assert_truthful(ledger_of(warehouse))
            assert_nothing_left(warehouse)
            self.known[name, harm] = made
        return self.known[name, harm]

    def crash(self, name: str, fault: Fault | Answer, harm: str | None = None) -> None:
        """Strikes a command, and asserts what it leaves and what the same command makes of that."""
        scenario, undisturbed = SCENARIOS[name], self.undisturbed(name, harm)
        warehouse = self.spare.pop(name, None) or self.copy_of(self.prepared(scenario.prepared))
        died = self.run(name, warehouse, fault, harm=harm)
        assert self.proxy.struck, "the command ended before"
        with outcome.settled(warehouse) as connection:
            runs, found = outcome.runs_of(connection), outcome.contents_of(connection)
        new = runs[len(undisturbed.runs) :]
        published = any(run["publish_seq"] for run in new)
        done = published or (not new and found == undisturbed.after != undisturbed.before)
        if fault.kind == "kill":
            assert died.code == -signal.SIGKILL, died
        else:
            assert "Traceback" not in died.said, died.said
            assert died.code in ({1, undisturbed.ended.code} if done else {1}), died
        if not scenario.piecemeal:
            expected = undisturbed.after if done else undisturbed.before
            differing = different(shown(found), shown(expected))
            assert not differing, f"shows neither before nor after in {', '.join(differing)}; done: {done}"
        assert_truthful([run for run in runs if run["status"] != "in_progress"])

        left = [run[each] for run in runs for each in ("kind", "status", "error_text")]
        state = (name, harm, *found.values(), *left)
        if state not in self.mended:
            self.mend(name, warehouse, undisturbed, done=done, harm=harm, silent=fault.kind == "kill")
            self.mended.add(state)
        elif scenario.fresh and found == undisturbed.before and runs[: len(undisturbed.runs)] == undisturbed.runs:
            with warehouse.connect() as connection:
                connection.execute(
                    "delete from ops.fetch_runs where fetch_run_id = any(%s)", [[run["fetch_run_id"] for run in new]]
                )
            self.spare[name] = warehouse

    def mend(
        self,
        name: str,
        warehouse: Warehouse,
        undisturbed: Undisturbed,
        *,
        done: bool,
        harm: str | None,
        silent: bool,
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
            failed = [run["error_text"] for run in runs[len(undisturbed.runs) :] if not run["publish_seq"]]
            assert all("ended before it closed the run" in text for text in failed), failed
        assert_nothing_left(warehouse)
