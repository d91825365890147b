"""What every test gets: a real Postgres, and a database of its own on it, migrated.

`--database embedded` (the default) shares one embedded server between the workers; `--database container` starts a
`postgres:18` container a worker through testcontainers. Databases are copies of one migrated template.
"""

import fcntl
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
import stamina
from alembic import command
from sqlalchemy import make_url

from pipelines import project
from pipelines.connectors.retries import ATTEMPTS
from pipelines.schema import migrate, objects
from pipelines.source import Source
from pipelines.warehouse import embedded
from pipelines.warehouse.database import Warehouse
from tests import hostile, launcher, toy_project
from tests.databases import copy_of
from tests.forum import Write
from tests.hostile import Answer, Asked, Server
from tests.library import Recorder, empty
from tests.pasts import GENERATORS, Files, changing_files
from tests.samples import drawn

SHARED_DATA = project.ROOT.parent / "shared" / "data"
TEMPLATE = "template_of_tests"
MEMORY = Path("/dev/shm")
ROOM_BYTES = 8 * 1024**3
LONG_S = 3
LONG_TESTS = 8  # that a session runs
FASTER = {"fsync": "off", "full_page_writes": "off", "autovacuum": "off"}
"""Settings of a server whose data end with the tests; a test of what a server keeps starts one of its own."""

CreatedOnce = Callable[[str, Callable[[Warehouse], object]], Warehouse]

for name in [name for name in os.environ if name.startswith("ATLAS_") or name in {"DATABASE_URL", "DAGSTER_HOME"}]:
    del os.environ[name]
os.environ["ATLAS_REDACTION_KEY"] = "5f4dcc3b5aa765d61d8327deb882cf99"  # the toy project has redacted paths
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "1"
os.environ["PYTHONPATH"] = str(project.ROOT)  # of processes that begin in another folder, such as the toy project
os.environ["TESTS_SEED"] = os.environ.get("TESTS_SEED") or str(random.randrange(1 << 32))  # all workers have this one

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of a shell's background; what tests start would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    return f"TESTS_SEED={os.environ['TESTS_SEED']} repeats what this session draws"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says which tests took long that are not marked so, and how many statements were struck by how many crashes."""
    found = Counter[str]()
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if getattr(report, "duration", 0) > LONG_S and "long" not in report.keywords:
            terminalreporter.line(f"{report.duration:.0f} s, and not marked as long: {report.nodeid}")
        if getattr(report, "when", "") == "call":
            found.update(dict(report.user_properties))
    if found["crashes"]:
        seed = os.environ["TESTS_SEED"]
        terminalreporter.line(f"{found['crashes']:,} crashes at {found['statements']:,} statements, TESTS_SEED={seed}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keeps n instances of each test, or of each group of tests, marked `sample(n, group)`, and LONG_TESTS of the other
    long tests, drawn by TESTS_SEED, unless SAMPLES=all. Puts long tests first in each worker's share, which is a part
    of the list.
    """
    instances: dict[tuple[int, str], list[pytest.Item]] = {}
    for item in items:
        sample = item.get_closest_marker("sample")
        if not (sample or "long" in item.keywords):
            continue
        wanted, group = (*sample.args, item.nodeid.partition("[")[0])[:2] if sample else (LONG_TESTS, "long")
        instances.setdefault((wanted, group), []).append(item)
    left_out = set[pytest.Item]()
    for (wanted, group), found in instances.items():
        left_out |= set(found) - set(drawn(found, wanted, group))
    config.hook.pytest_deselected(items=list(left_out))
    kept = [item for item in items if item not in left_out]
    long, short = ([item for item in kept if ("long" in item.keywords) == is_long] for is_long in (True, False))
    jobs = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    size = -(-len(kept) // jobs)
    shares = [long[number::jobs] for number in range(jobs)]
    items[:] = [item for share in shares for item in (*share, *(short.pop(0) for _ in short[: size - len(share)]))]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--database", choices=("embedded", "container"), default="embedded")
    parser.addoption("--source", help="the source, as domain/name, that the conformance tests are run for")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """A temporary folder of this session's own: pytest's usual one is closed to others each time a session begins.

    In memory where there is room: tests create a database each, and take half as long there.
    """
    if not config.option.basetemp and not hasattr(config, "workerinput"):
        roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES
        folder = tempfile.mkdtemp(prefix="atlas-tests-", dir=MEMORY if roomy else None)
        config.option.basetemp = Path(folder) / "pytest"
        config.add_cleanup(lambda: shutil.rmtree(config.option.basetemp.parent, ignore_errors=True))


@pytest.fixture(scope="session")
def server_settings() -> dict[str, str]:
    """What the tests' server has set otherwise than ours; nothing where time is measured."""
    return FASTER


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers have."""
    own = tmp_path_factory.getbasetemp()
    return own if worker_id == "master" else own.parent


@pytest.fixture(scope="session")
def server(request: pytest.FixtureRequest, server_settings: dict[str, str], shared_folder: Path) -> Iterator[str]:
    """URL of a running server."""
    if request.config.getoption("--database") == "container":
        from testcontainers.community.postgres import PostgresContainer

        with PostgresContainer("postgres:18", username="postgres", password="postgres") as container:
            yield container.get_connection_url(driver=None)
        return
    with ExitStack() as stack:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(embedded, "SETTINGS", embedded.SETTINGS | server_settings)
            url = stack.enter_context(embedded.running(shared_folder / "server"))
        yield url


@pytest.fixture(scope="session")
def created_once(server: str, shared_folder: Path) -> CreatedOnce:
    """A database of the server that tests copy, created by the first worker that asks for it."""

    def create(name: str, fill: Callable[[Warehouse], object]) -> Warehouse:
        warehouse = Warehouse(make_url(server).set(database=name))
        with (shared_folder / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if name not in warehouse.databases():
                warehouse.create_database(name)
                fill(warehouse)
                warehouse.close()
        return warehouse

    return create


@pytest.fixture(scope="session")
def template(created_once: CreatedOnce) -> Warehouse:
    """A migrated database."""
    return created_once(TEMPLATE, lambda warehouse: migrate.migrate(warehouse, project.objects()))


@pytest.fixture(scope="session")
def toy_template(created_once: CreatedOnce) -> Warehouse:
    """The same with the tables of the toy domain; only asked for where the toy project is entered."""
    return created_once(f"{TEMPLATE}_toy", toy_project.create_tables)


@pytest.fixture(scope="session")
def used() -> list[Warehouse]:
    """Warehouses of tests that have ended. The server waits a tenth of a second to drop one that was just in use."""
    return []


@pytest.fixture(scope="session")
def new_warehouse(request: pytest.FixtureRequest, used: list[Warehouse], worker_id: str) -> Callable[[], Warehouse]:
    """Makes a warehouse with empty tables, as often as it is called; drops those that were used before."""
    numbers = count()

    def make() -> Warehouse:
        while used:
            each = used.pop()
            each.drop_database(each.database)
        template = request.getfixturevalue("toy_template" if toy_project.is_entered() else "template")
        return copy_of(template, f"test_{worker_id}_{next(numbers)}")

    return make


@pytest.fixture
def empty_database(server: str, worker_id: str) -> Iterator[Callable[[], Warehouse]]:
    """Makes a database without any table, as often as it is called."""
    made: list[Warehouse] = []

    def make() -> Warehouse:
        made.append(Warehouse(make_url(server).set(database=f"empty_{worker_id}_{len(made)}")))
        made[-1].create_database(made[-1].database)
        return made[-1]

    yield make
    for warehouse in made:
        warehouse.drop_database(warehouse.database)


@pytest.fixture(scope="module")
def emptied(new_warehouse: Callable[[], Warehouse], used: list[Warehouse]) -> Iterator[Callable[[], Warehouse]]:
    """One warehouse of a module, emptied each time it is asked for: a tenth of a second less than a new one."""
    made = new_warehouse()

    def again() -> Warehouse:
        empty(made)
        return made

    yield again
    made.close()
    used.append(made)


@pytest.fixture
def warehouse(request: pytest.FixtureRequest) -> Iterator[Warehouse]:
    """A warehouse with empty tables: a new one, or that of a module whose tests are marked `emptied`."""
    if "emptied" in request.keywords:
        yield request.getfixturevalue("emptied")()
        return
    made = request.getfixturevalue("new_warehouse")()
    yield made
    made.close()
    request.getfixturevalue("used").append(made)


@pytest.fixture(scope="session")
def dagster_template(server: str, created_once: CreatedOnce, tmp_path_factory: pytest.TempPathFactory) -> Warehouse:
    """Dagster's database as its instance creates it."""
    origin = Warehouse(make_url(server))

    def create(_: Warehouse) -> None:
        from pipelines.orchestration import resources  # Dagster, a second too: most tests do without it

        with pytest.MonkeyPatch.context() as patch:
            for name in ("DAGSTER_HOME", "ATLAS_DAGSTER_URL"):
                patch.setenv(name, "set by the instance, taken back afterwards")
            with resources.instance(origin, tmp_path_factory.mktemp("dagster")):
                pass

    return created_once(str(origin.dagster_url.database), create)


@pytest.fixture
def with_dagster(warehouse: Warehouse, dagster_template: Warehouse) -> Iterator[Warehouse]:
    """A warehouse with empty tables, and Dagster's database."""
    name = str(warehouse.dagster_url.database)
    copy_of(dagster_template, name)
    yield warehouse
    warehouse.drop_database(name)


@pytest.fixture(scope="session")
def with_recordings(
    created_once: CreatedOnce,
    dagster_template: Warehouse,
    tmp_path_factory: pytest.TempPathFactory,
    shared_folder: Path,
    worker_id: str,
) -> tuple[Warehouse, str]:
    """A warehouse as `make run` leaves it, to be read or copied, and what `atlas run` printed."""
    printed = shared_folder / "recordings.txt"

    def load(warehouse: Warehouse) -> None:
        migrate.migrate(warehouse, project.objects())
        copy_of(dagster_template, str(warehouse.dagster_url.database))
        variables = {"DATABASE_URL": warehouse.conninfo, "ATLAS_HOME": str(tmp_path_factory.mktemp("home"))}
        done = launcher.run("run", folder=project.ROOT, environment=os.environ | variables)
        assert done.returncode == launcher.DONE, done.stderr
        printed.write_text(done.stdout)

    origin = created_once("with_recordings", load)
    return copy_of(origin, f"with_recordings_{worker_id}"), printed.read_text()


@pytest.fixture
def copied(worker_id: str) -> Iterator[Callable[[Warehouse], Warehouse]]:
    """Copies a database for one test, as often as it is called."""
    made: list[Warehouse] = []

    def copy(origin: Warehouse) -> Warehouse:
        made.append(copy_of(origin, f"copy_{worker_id}_{len(made)}"))
        return made[-1]

    yield copy
    for warehouse in made:
        warehouse.drop_database(warehouse.database)
        warehouse.drop_database(str(warehouse.dagster_url.database))


@pytest.fixture
def atlas(warehouse: Warehouse, tmp_path: Path) -> Iterator[launcher.Atlas]:
    """Runs the command on the test's warehouse; whatever happens, nobody is shown a traceback."""

    def run(
        *arguments: object, code: int = launcher.DONE, typed: str = "", **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        variables = os.environ | {"DATABASE_URL": warehouse.conninfo, "ATLAS_HOME": str(tmp_path)} | environment
        done = launcher.run(*arguments, folder=project.ROOT, environment=variables, typed=typed)
        assert "Traceback" not in done.stdout + done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        return done

    yield run
    warehouse.drop_database(str(warehouse.dagster_url.database))


def downgraded(warehouse: Warehouse, revision: str = "base") -> None:
    """Reverses migrations down to a revision, after dropping functions, views, triggers and policies."""
    with warehouse.engine.begin() as connection:
        driver = connection.connection.driver_connection
        assert driver is not None
        objects.drop(driver)
        objects.create(driver, ())
        command.downgrade(migrate.config(connection), revision)


@pytest.fixture(scope="session")
def downgrade() -> Callable[..., None]:
    """Reverses migrations of a warehouse, down to a revision or all of them."""
    return downgraded


@pytest.fixture(scope="module")
def toy() -> Iterator[None]:
    """Makes tests/toy the project, for a whole module: `pytestmark = pytest.mark.usefixtures("toy")`."""
    with toy_project.enter():
        yield


@pytest.fixture
def files(toy: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Files]:
    """SELECT files of the toy project that the test can change."""
    with changing_files(tmp_path_factory.mktemp("project") / "sql", tuple(GENERATORS)) as files:
        yield files


@pytest.fixture(scope="module")
def library(toy: None) -> Source:
    """Of the toy project: payloads of two kinds, with counters."""
    return project.sources()["toy/library"]


@pytest.fixture(scope="module")
def shelf(toy: None) -> Source:
    """Of the toy project: payloads without a contract, any of which may have the rows of any other."""
    return project.sources()["toy/shelf"]


@pytest.fixture(scope="session")
def civitai() -> Source:
    return project.sources()["catalog/civitai"]


@pytest.fixture(scope="session")
def comfyui() -> Source:
    return project.sources()["catalog/comfyui"]


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real payloads, which are not part of the project."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real payloads is not here: ../shared/data")
    return SHARED_DATA


@pytest.fixture
def forum(warehouse: Warehouse) -> Recorder:
    """Names users by their names, from which their keys are computed."""
    return Recorder(warehouse, project.sources()["toy/forum"])


@pytest.fixture
def mail(warehouse: Warehouse) -> Recorder:
    """Has keys of its own for users; its rows win before those of the forum."""
    return Recorder(warehouse, project.sources()["toy/mail"])


@pytest.fixture
def write(warehouse: Warehouse) -> Iterator[Write]:
    """Executes a statement as an application; returns the first value of the first row."""
    with psycopg.connect(warehouse.conninfo, autocommit=True) as application:

        def execute(statement: str, *values: Any) -> Any:
            cursor = application.execute(statement.encode(), values)
            row = cursor.fetchone() if cursor.description else None
            return row and row[0]

        yield execute


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, Callable[[Asked], Answer]], Server]]:
    """Starts a server that is the site of a source, by its stem, as often as it is called; no retry waits."""
    with ExitStack() as stack, stamina.set_testing(True, attempts=ATTEMPTS):

        def start(stem: str, answer: Callable[[Asked], Answer]) -> Server:
            server = stack.enter_context(Server(answer))
            names = {f"ATLAS_{stem.upper()}_BASE_URL": server.url}
            for name, value in (hostile.environment({stem: server.url}) | names).items():
                monkeypatch.setenv(name, value)
            return server

        yield start
