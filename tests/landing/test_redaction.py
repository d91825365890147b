"""Redacted values reach nothing that is stored, shown or logged: canaries in payloads of every kind of harm."""

import hmac
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import stamina
from sqlalchemy import make_url

from pipelines import project, settings
from pipelines.errors import AtlasError
from pipelines.landing import bulk_files, extract, schema_drift
from pipelines.landing.jsonb import LARGE, Unlandable
from pipelines.landing.land import land_intake
from pipelines.landing.redaction import NOT_KEPT, Redactor, redactor
from pipelines.landing.validate import Arrival, Rejected, Validator
from pipelines.source import Contract, Payload, Source, Window
from pipelines.warehouse import embedded
from pipelines.warehouse.database import Warehouse
from tests import launcher, toy_project
from tests.corruptions import BROKEN, OF_ANOTHER_TYPE, REPAIRED
from tests.hostile import Answer, Asked, Server
from tests.launcher import words
from tests.library import author, book, rows
from tests.runs import land_items, stream_of

pytestmark = pytest.mark.usefixtures("toy")

DAY = "2026-11-01"
NOW = datetime(2026, 11, 1, tzinfo=UTC)
KEY = "0123456789abcdef"
CANARY = "k4narienv0gel"
PATHS = ("password", "tokens[*].value", "by.*.secret", "deep[*][*]")


def hashed(value: str) -> str:
    return f"redacted:{hmac.digest(KEY.encode(), value.encode(), 'sha256').hex()}"


@pytest.fixture
def redact() -> Callable[[str], str]:
    return lambda body: Redactor(PATHS, KEY).redact(body.encode()).decode()


@pytest.mark.parametrize(
    "value", ['"k4"', '"a\\u0062\\""', "7", "1.50", "true", '{"a": [1, "}"]}', "[[]]", '""', "NaN"]
)
def test_a_value_becomes_its_keyed_hash(redact: Callable[[str], str], value: str) -> None:
    assert redact(f'{{"password":{value}, "x": 1}}') == f'{{"password":"{hashed(value)}", "x": 1}}'


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"password": null, "tokens": null}', '{"password": null, "tokens": null}'),
        ('{"password": 1, "password": 2}', '{"password": #1#, "password": #2#}'),
        ('{"pass\\u0077ord": 1}', '{"pass\\u0077ord": #1#}'),
        ('{"Password": 1, " password": 2}', '{"Password": 1, " password": 2}'),
        ('{"tokens": [{"value": 1, "name": 2}, {}]}', '{"tokens": [{"value": #1#, "name": 2}, {}]}'),
        ('{"tokens": [{}], "tokens": [{"value": 1}]}', '{"tokens": [{}], "tokens": [{"value": #1#}]}'),
        ('{"tokens": {"value": 1}}', '{"tokens": #{"value": 1}#}'),
        ('{"tokens": "text"}', '{"tokens": #"text"#}'),
        ('{"tokens": ["a", [{"value": 1}]]}', '{"tokens": [#"a"#, #[{"value": 1}]#]}'),
        ('{"by": {"a": {"secret": 1}, "b": {"secret": {}}}}', '{"by": {"a": {"secret": #1#}, "b": {"secret": #{}#}}}'),
        ('{"deep": [[1, [2]], 3]}', '{"deep": [[#1#, #[2]#], #3#]}'),
        ('["password"]', '#["password"]#'),
        ('"password"', '#"password"#'),
        ("\ufeff {}", "\ufeff {}"),
    ],
)
def test_values_at_the_paths_and_of_another_type_on_the_way(
    redact: Callable[[str], str], body: str, expected: str
) -> None:
    assert redact(body) == re.sub("#(.*?)#", lambda found: f'"{hashed(found[1])}"', expected)


def test_what_is_redacted_stays_as_it_is(redact: Callable[[str], str]) -> None:
    once = redact('{"password": "x"}')
    assert redact(once) == once
    assert redact('{"password": "y"}') != once
    assert Redactor(PATHS, "another").redact(b'{"password": "x"}').decode() != once


@pytest.mark.parametrize("body", ["", "{", f'{{"password": "{CANARY}', f'{{"x": "\\{CANARY}"}}', "[" * 100_000])
def test_of_a_payload_that_cannot_be_read_length_and_hash_are_kept(body: str) -> None:
    made = Redactor(PATHS, KEY)
    with pytest.raises(Unlandable) as raised:
        made.redact(body.encode())
    assert (raised.value.reason, CANARY in raised.value.detail) == (NOT_KEPT, False)
    assert json.loads(made.described(body.encode())) == {
        "bytes": len(body),
        "hmac_sha256": hashed(body).removeprefix("redacted:"),
    }


class Member(Contract):
    redacted = ("token", "stats.token", "books[*].token", "choice")
    volatile = ("stats", "token")
    envelope = "items"

    id: int
    name: str
    books: list[dict[str, msgspec.Raw]] = []
    stats: dict[str, msgspec.Raw] | None = None
    token: str | None = None

    def external_id(self) -> str:
        return str(self.id)


def validated(body: str) -> Arrival | Rejected:
    return Validator("toy/x", Member, Redactor(Member.redacted, KEY)).validate(Payload(body.encode(), "r"), 1, NOW)


def test_a_redacted_value_that_is_volatile_is_an_observation_of_its_hash() -> None:
    one, other = (validated(f'{{"id":1,"name":"n","token":"{each}","stats":{{"token":{each}}}}}') for each in (1, 2))
    assert isinstance(one, Arrival) and isinstance(other, Arrival) and one.volatile and other.volatile
    assert one.digest == other.digest and one.volatile.digest != other.volatile.digest
    assert json.loads(one.volatile.values) == {"stats": {"token": hashed("1")}, "token": hashed('"1"')}


def test_a_changed_secret_is_a_changed_version() -> None:
    digests = {validated(f'{{"id":1,"name":"n","choice":"{each}"}}').digest for each in (1, 2)}  # type: ignore[union-attr]
    assert len(digests) == 2


def test_no_key_no_landing(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ATLAS_REDACTION_KEY")
    staff = project.sources()["toy/staff"]

    def items() -> Iterator[Any]:
        raise AssertionError("something was read")
        yield

    with pytest.raises(AtlasError, match="ATLAS_REDACTION_KEY is not set: nothing was read"):
        land_items(warehouse, staff, DAY, items())
    assert rows(warehouse, "select count(*) from ops.fetch_runs") == [(0,)]
    (tmp_path / "a.json").write_text("{}")
    environment = os.environ | {"DATABASE_URL": warehouse.conninfo}
    command = ("land", "toy/staff", "--from", tmp_path, "--partition", DAY)
    done = launcher.run(*command, folder=project.ROOT, environment=environment)
    assert done.returncode == launcher.FAILED
    assert 'python -c "import secrets; print(secrets.token_hex(32))"' in words(done.stderr)
    assert "not a setting" not in done.stderr


def test_the_key_is_of_the_environment_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "atlas.toml").write_text(f'redaction_key = "{CANARY}"')
    with pytest.raises(AtlasError, match="There is no setting 'redaction_key'"):
        settings.load()
    assert redactor("toy/library.authors", project.sources()["toy/library"].contracts["authors"]) is None


def test_what_is_not_kept_is_no_drift(warehouse: Warehouse) -> None:
    """Of such a payload there are length and hash, which are no keys that the source sent."""
    staff = project.sources()["toy/staff"]
    good = [json.dumps({"users": [{"id": str(number), "username": "ann"}]}) for number in range(30)]
    for day, bodies in ((DAY, good), ("2026-11-02", [f"no JSON {number}" for number in range(10)])):
        named = ((f"{day} {number}.json", body) for number, body in enumerate(bodies))
        land_items(warehouse, staff, day, [Payload(body.encode(), name, name) for name, body in named])
    with warehouse.connect() as connection:
        assert schema_drift.changes(connection, staff.streams[0]) == []


# On a server of its own, whose files are searched


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, toy: None) -> Iterator[tuple[Path, Warehouse]]:
    """The home of a server, and a warehouse there."""
    home = tmp_path_factory.mktemp("home")
    with embedded.running(home) as url:
        warehouse = Warehouse(make_url(url).set(database="secrets"))
        warehouse.create_database(warehouse.database)
        toy_project.create_tables(warehouse)
        yield home, warehouse


def occurrences(home: tuple[Path, Warehouse], text: str) -> dict[str, int]:
    """How often a text is in the files of a server, by their names; those in memory are written before."""
    folder, warehouse = home
    with psycopg.connect(warehouse.conninfo, autocommit=True) as connection:
        connection.execute("checkpoint")
    counts = {path: path.read_bytes().count(text.encode()) for path in folder.rglob("*") if path.is_file()}
    return {path.name: number for path, number in counts.items() if number}


SECRETS = {
    "at its path": f'{{"users": [{{"id": "1", "username": "ann", "password_hash": "{CANARY}"}}]}}',
    "in a list": f'{{"users": [{{"id": "2", "tokens": [{{"name": "t", "value": "{CANARY}"}}]}}]}}',
    "as a key twice": f'{{"users": [{{"id": "3", "password_hash": "{CANARY}", "password_hash": "{CANARY}2"}}]}}',
    "as a list twice": f'{{"users": [{{"password_hash": "{CANARY}"}}], "users": [{{"tokens": "{CANARY}"}}]}}',
    "with an escaped key": f'{{"users": [{{"id": "4", "password\\u005fhash": "{CANARY}"}}]}}',
    "in an object": f'{{"users": [{{"id": "5", "password_hash": {{"x": ["{CANARY}"]}}}}]}}',
    "instead of a list": f'{{"users": "{CANARY}"}}',
    "instead of an object": f'{{"users": ["{CANARY}", ["{CANARY}"]]}}',
    "instead of the payload": f'"{CANARY}"',
    "in a list of payloads": f'[{{"users": [{{"password_hash": "{CANARY}"}}]}}]',
    "cut": f'{{"users": [{{"id": "6", "password_hash": "{CANARY}"',
    "with a wrong escape": f'{{"users": [{{"id": "6", "password_hash": "\\{CANARY}"}}]}}',
    "with a control character": f'{{"users": [{{"id": "6", "password_hash": "{CANARY}\n"}}]}}',
    "not JSON": f"password_hash={CANARY}",
    "with NaN in it": f'{{"users": [{{"id": "7", "password_hash": "{CANARY}", "x": NaN}}]}}',
    "with NUL in it": f'{{"users": [{{"id": "8", "password_hash": "{CANARY}\\u0000", "x": "\\u0000"}}]}}',
    "with half an emoji in it": f'{{"users": [{{"id": "9", "password_hash": "{CANARY}\\ud83d"}}]}}',
    "with a large number in it": f'{{"users": [{{"id": "10", "password_hash": "{CANARY}"}}], "x": 1e999999}}',
    "behind a byte order mark": f'\ufeff{{"users": [{{"id": "11", "password_hash": "{CANARY}"}}]}}',
    "in a large payload": f'{{"x": "{"y" * LARGE}", "users": [{{"id": "12", "password_hash": "{CANARY}"}}]}}',
    "in a large payload that is cut": f'{{"users": [{{"password_hash": "{CANARY}", "x": "{"y" * LARGE}',
    "in a large payload with a key twice": f'{{"x": "{"y" * LARGE}", "x": 1, "users": "{CANARY}"}}',
    "too deep": f'{{"users": [{{"password_hash": "{CANARY}", "x": {"[" * 100_000}{"]" * 100_000}}}]}}',
}


@pytest.mark.long
@pytest.mark.sample(1, "secrets")
def test_secrets_of_a_folder_are_nowhere(home: tuple[Path, Warehouse], tmp_path: Path) -> None:
    _, warehouse = home
    folder = tmp_path / "staff"
    folder.mkdir()
    for number, body in enumerate(SECRETS.values()):
        (folder / f"{number}.json").write_text(body)
    (folder / "latin.json").write_bytes(b'{"x": "caf\xe9", "users": [{"password_hash": "%s"}]}' % CANARY.encode())
    (folder / "control.json").write_text('{"users": [{"id": "13", "username": "in clear, k4ntr0lle"}]}')
    environment = os.environ | {"DATABASE_URL": warehouse.conninfo, "ATLAS_HOME": str(tmp_path / "home")}
    environment |= {"ATLAS_STAFF_BASE_URL": str(folder), "ATLAS_MODE": "live"}
    said = ""
    for command in (
        ("run", "toy/staff"),
        ("land", "toy/staff", "--from", folder, "--partition", DAY),
        ("transform", "toy/staff", "--full"),
        ("quarantine", "list", "--each"),
        ("quarantine", "check"),
        ("quarantine", "replay"),
        ("quarantine", "show", "1"),
        ("drift",),
        ("runs", "--json"),
    ):
        done = launcher.run(*command, folder=project.ROOT, environment=environment)
        assert done.returncode in (launcher.DONE, launcher.PARTIAL), done.stdout + done.stderr
        said += done.stdout + done.stderr
    assert [line for line in said.splitlines() if CANARY in line] == []
    assert occurrences(home, "k4ntr0lle"), "what is not redacted is found"
    assert occurrences(home, CANARY) == {}
    stored = rows(
        warehouse, "select count(*), count(*) filter (where value ~ '^redacted:[0-9a-f]{64}$') from toy.secrets"
    )
    assert stored[0][0] == stored[0][1] > 5
    kept = rows(warehouse, "select count(*) from staging.quarantine where reason = 'not_kept' and length(bytes) < 120")
    assert kept == [(6,)]
    done = launcher.run("quarantine", "replay", 1, folder=project.ROOT, environment=environment)
    assert done.returncode == launcher.USAGE and "Fetch it again: atlas run toy/staff" in words(done.stderr)


@pytest.fixture
def members(library: Source) -> Source:
    """The toy library, whose authors have redacted paths."""
    return replace(library, rate=None, contracts=dict(library.contracts) | {"authors": Member})


def record(number: int, **more: Any) -> bytes:
    token = {"token": f"{CANARY}{number}", "stats": {"token": CANARY}}
    return json.dumps(author(number, books=[book(number, token=CANARY)]) | token | more).encode()


def answer(page: bytes, asked: Asked) -> Answer:
    return Answer(page if asked.path == "/authors" else {"id": 0})


def broken_records() -> list[bytes]:
    """Records that break their contract or are broken themselves."""
    wrong: list[dict[str, Any]] = [
        {"name": 5},
        {"id": "x"},
        {"id": None},
        {"books": [CANARY]},
        {"books": {"token": CANARY}},
        {"stats": [CANARY]},
        {"choice": [CANARY]},
        {"token": {"token": CANARY}},
    ]
    corruptions = BROKEN | REPAIRED | OF_ANOTHER_TYPE
    return [record(3, **each) for each in wrong] + [corrupt(record(3)) for corrupt in corruptions.values()]


@pytest.mark.long
@pytest.mark.parametrize("form", ["list", "page", "lines"])
@pytest.mark.sample(1, "secrets")
def test_secrets_of_broken_records_of_a_file_are_nowhere(
    home: tuple[Path, Warehouse], members: Source, tmp_path: Path, form: str
) -> None:
    forms = {"list": (b"[", b",", b"]"), "page": (b'{"items": [', b",", b"]}"), "lines": (b"", b"\n", b"")}
    begin, between, end = forms[form]
    for number, broken in enumerate(broken_records()):
        path = tmp_path / f"{number}.{'ndjson' if form == 'lines' else 'json'}"
        path.write_bytes(begin + between.join([record(1), broken, record(2)]) + end)
        intake = bulk_files.intake(members, "authors", path, NOW)
        land_intake(home[1], stream_of(members, "authors"), DAY, nullcontext(intake), shrink=True)
    assert occurrences(home, CANARY) == {}


@pytest.mark.long
@pytest.mark.sample(1, "secrets")
def test_secrets_of_broken_pages_are_nowhere(
    home: tuple[Path, Warehouse], members: Source, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    today, said = datetime.now(UTC).date().isoformat(), ""
    pages = [b'{"items": [' + b",".join([record(1), each, record(2)]) + b"]}" for each in broken_records()]
    pages += [page[: len(page) // 2] for page in pages[:3]] + [record(1), b'"%s"' % CANARY.encode()]
    server = Server(lambda asked: Answer(b'{"items": []}'))
    monkeypatch.setenv("ATLAS_LIBRARY_BASE_URL", server.url)
    with server, stamina.set_testing(True, attempts=1):
        for page in pages:
            server.answer = partial(answer, page)
            opened = extract.open_intake(home[1], stream_of(members, "authors"), Window.of(today), "live")
            try:
                land_intake(home[1], stream_of(members, "authors"), today, opened, shrink=True)
            except AtlasError as error:
                said += str(error)
    assert said and CANARY not in said + caplog.text
    assert rows(home[1], "select count(*) > 0 from ops.fetch_runs where error_text like '%%library%%'") == [(True,)]
    assert occurrences(home, CANARY) == {}
