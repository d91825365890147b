"""The `atlas` command as a person types it: exit codes, sentences, JSON, and secrets that stay secret."""

import base64
import hashlib
import json
import re
import socket
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from pipelines import project, settings
from pipelines.cli.main import main
from pipelines.connectors import recording
from pipelines.errors import AtlasError
from pipelines.schema import migrate
from pipelines.warehouse import database
from pipelines.warehouse.database import Warehouse
from tests.launcher import FAILED, PARTIAL, USAGE, Atlas, words

SECRET = "hunter2-and-nothing-else"
EVERYTHING = sorted(migrate.everything(project.objects()))  # objects stand in the order of their declaration


def a_model(number: int, **other: object) -> dict[str, object]:
    return {"id": number, "name": f"Model {number}", "type": "LORA", "tags": [], "modelVersions": [], **other}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """Two models that land and one that does not."""
    path = tmp_path / "models.ndjson"
    path.write_text("\n".join([json.dumps(a_model(1)), json.dumps(a_model(2)), '{"id": 3, "name"']))
    return path


WRONG = [
    (["run", "nowhere"], "There is no domain, source or stream 'nowhere'. There are: catalog/civitai.models, catalog/"),
    (["transform", "catalog/nothing"], "There is no domain, source or stream 'catalog/nothing'"),
    (
        ["land", "catalog", "--from", "pyproject.toml"],
        "There is no stream 'catalog'. There are: catalog/civitai.models, ",
    ),
    (["land", "catalog/civitai", "--from", "pyproject.toml"], "There is no stream 'catalog/civitai'. There are: "),
    (
        ["land", "catalog/civitai.models", "--from", "/nowhere.ndjson"],
        "There is no file or folder /nowhere.ndjson.",
    ),
    (
        ["land", "catalog/civitai.models", "--from", "Makefile"],
        "Makefile is no file of payloads: its name should end in",
    ),
    (["runs", "catalog/nothing"], "There is no domain, source or stream 'catalog/nothing'"),
    (["quarantine", "list", "catalog/nothing"], "There is no domain, source or stream 'catalog/nothing'"),
    (
        ["land", "catalog/civitai.models", "--from", "/dev/stdin"],
        "stdin is no file of payloads: its name should end in",
    ),
    (
        ["land", "catalog/civitai.models", "--from", "pipelines/cli"],
        "cli has no file of payloads: its name should end in",
    ),
    (["quarantine", "show", "7"], "There is no quarantine entry 7. See them with: atlas quarantine list"),
    (["ask", "why"], "There is no question 'why'. There are: "),
    (["run", "--partition", "2026-02-30"], "'2026-02-30' is not a day. Write it as YYYY-MM-DD."),
    (["run", "--partition", "2026-11-01", "--from", "2026-11-01"], "Give either --partition or --from and --to."),
    (["run", "--from", "2026-11-02", "--to", "2026-11-01"], "The range 2026-11-02 to 2026-11-01 is empty."),
]


def test_a_wrong_command_is_told_in_a_sentence(atlas: Atlas, subtests: pytest.Subtests) -> None:
    for arguments, said in WRONG:
        with subtests.test(" ".join(arguments)):
            done = atlas(*arguments, code=USAGE)
            assert f"error: {said}" in words(done.stderr)
            assert done.stdout == ""


@pytest.mark.parametrize("day", ["2026-11-03", "2020-01-01", "2025-01-01"])
def test_a_day_without_a_recording_names_the_days_there_are(atlas: Atlas, day: str) -> None:
    done = atlas("run", "catalog/civitai", "--partition", day, code=USAGE)
    assert "Recorded are catalog/civitai: 2026-11-01, 2026-11-02." in words(done.stderr)
    assert done.stdout == ""


def test_a_past_day_cannot_be_fetched_live(atlas: Atlas, with_dagster: Warehouse) -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    done = atlas("run", "catalog/civitai", "--live", "--partition", yesterday, code=FAILED)
    assert f"{yesterday} cannot be fetched any more" in words(done.stdout + done.stderr)
    assert "atlas transform catalog" in words(done.stdout + done.stderr)


def test_a_past_day_that_cannot_be_fetched_is_not_transformed(atlas: Atlas, with_dagster: Warehouse) -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date().isoformat()
    runs = json.loads(atlas("run", "catalog/civitai", "--live", "--partition", yesterday, "--json", code=FAILED).stdout)
    assert [(run["kind"], run["status"]) for run in runs["runs"]] == [("land", "failed")] * 2


@pytest.mark.long("loads the recordings of all sources")
def test_recordings_fill_every_table_and_then_change_nothing(
    atlas: Atlas, with_recordings: tuple[Warehouse, str], copied: Callable[[Warehouse], Warehouse]
) -> None:
    on_copy = partial(atlas, DATABASE_URL=copied(with_recordings[0]).conninfo)
    first = json.loads(on_copy("runs", "--limit", 1_000, "--json").stdout)
    assert {(run["stream"], run["kind"], run["partition_key"]) for run in first} == {
        (stream.name, kind, str(day))
        for kind in ("land", "transform")
        for stream in project.find_streams([])
        for day in recording.days(stream.source)
    }
    assert all(run["fetched"] for run in first)

    again = json.loads(on_copy("run", "--json").stdout)
    assert all(again["rows"].values())
    assert {(run["created"], run["updated"], run["deleted"]) for run in again["runs"]} == {(0, 0, 0)}
    assert {run["status"] for run in again["runs"]} == {"completed"}

    ledger = json.loads(on_copy("runs", "--limit", 1_000, "--json").stdout)
    assert [run["fetch_run_id"] for run in ledger] == [
        run["fetch_run_id"] for run in [*reversed(again["runs"]), *first]
    ]

    answers = json.loads(on_copy("ask", "--json").stdout)
    assert set(answers) == {question.name for question in project.questions()}
    assert all(answers.values())


@pytest.mark.long("commands, each a process")
def test_one_recorded_day_of_one_source_and_all_of_it_again(atlas: Atlas, warehouse: Warehouse) -> None:
    assert str(warehouse.dagster_url.database) not in warehouse.databases()  # the run makes it
    only = json.loads(atlas("run", "catalog/civitai", "--partition", "2026-11-02", "--json").stdout)
    streams = ["catalog/civitai.models", "catalog/civitai.images"]
    assert [(run["kind"], run["stream"], run["partition_key"]) for run in only["runs"]] == [
        (kind, stream, "2026-11-02") for kind in ("land", "transform") for stream in streams
    ]
    assert all(run["created"] > 0 for run in only["runs"])

    waiting = json.loads(atlas("transform", "catalog/civitai", "--partition", "2026-11-02", "--json").stdout)
    assert [run["fetched"] for run in waiting] == [0, 0]
    again = json.loads(atlas("run", "catalog/civitai", "--partition", "2026-11-02", "--full", "--json").stdout)
    for first, second in zip(only["runs"], again["runs"], strict=True):
        assert (second["created"], second["updated"], second["deleted"]) == (0, 0, 0)
        assert second["unchanged"] >= first["created"]  # records with rows that share a key are read along


@pytest.mark.long("commands, each a process")
def test_json_is_one_document_and_nothing_else(atlas: Atlas, models: Path) -> None:
    (landed,) = json.loads(atlas("land", "catalog/civitai.models", "--from", models, "--json", code=PARTIAL).stdout)
    assert (landed["status"], landed["fetched"], landed["created"]) == ("partial_success", 3, 2)
    (transformed,) = json.loads(atlas("transform", "catalog", "--json").stdout)
    assert (transformed["status"], transformed["created"]) == ("completed", 2)
    ledger = json.loads(atlas("runs", "catalog/civitai", "--limit", "1", "--json").stdout)
    assert [run["fetch_run_id"] for run in ledger] == [transformed["fetch_run_id"]]
    (entry,) = json.loads(atlas("quarantine", "list", "--each", "--json").stdout)
    for name in ("catalog", "catalog/civitai", "catalog/civitai.models"):
        assert json.loads(atlas("quarantine", "list", name, "--each", "--json").stdout) == [entry]
    assert json.loads(atlas("quarantine", "list", "catalog/civitai.images", "--json").stdout) == []
    shown = json.loads(atlas("quarantine", "show", entry["quarantine_id"], "--json").stdout)
    assert shown["reason"] == entry["reason"] == "not_json"
    assert shown["digest"] == hashlib.sha256(base64.b64decode(shown["bytes"])).hexdigest()
    (replayed,) = json.loads(atlas("quarantine", "replay", "--json", code=PARTIAL).stdout)
    assert replayed["quarantined"] == 1
    assert json.loads(atlas("db", "migrate", "--json").stdout)["applied"] == []
    assert json.loads(atlas("db", "status", "--json").stdout)["pending"] == []
    assert json.loads(atlas("db", "apply", "--json").stdout)["applied"] == []
    assert json.loads(atlas("db", "check", "--json").stdout)["pending"] == []


def test_a_person_sees_each_run_and_why_something_is_missing(atlas: Atlas, models: Path) -> None:
    done = atlas("land", "catalog/civitai.models", "--from", models, code=PARTIAL)
    (landed,) = done.stdout.splitlines()
    assert re.fullmatch(
        r"landed catalog/civitai.models .+: 3 fetched, 2 created, .+, 1 quarantined \(partial_success\)", landed
    )
    assert "landed" not in done.stderr
    assert "not_json" in atlas("quarantine", "list").stdout


def test_status_shows_what_is_pending_until_ensure_has_run(atlas: Atlas, warehouse: Warehouse) -> None:
    warehouse.drop_database(warehouse.database)
    status = json.loads(atlas("db", "status", "--json", code=PARTIAL).stdout)
    assert (status["exists"], status["revision"], sorted(status["pending"])) == (False, None, EVERYTHING)
    done = atlas("runs", code=FAILED)
    assert f"The database '{warehouse.database}' does not exist yet. Create it with: atlas db ensure" in words(
        done.stderr
    )

    warehouse.create_database(warehouse.database)
    status = json.loads(atlas("db", "status", "--json", code=PARTIAL).stdout)
    assert (status["exists"], status["revision"], sorted(status["pending"])) == (True, None, EVERYTHING)
    assert "Run: atlas db migrate" in words(atlas("runs", code=FAILED).stderr)

    ensured = json.loads(atlas("db", "ensure", "--json").stdout)
    assert (sorted(ensured["applied"]), ensured["revision"]) == (EVERYTHING, migrate.head())
    assert f"Ready, at revision {migrate.head()}." in atlas("db", "ensure").stdout
    status = json.loads(atlas("db", "status", "--json").stdout)
    assert (status["exists"], status["revision"], sorted(status["pending"])) == (True, migrate.head(), [])


def test_drop_asks_and_takes_both_databases(atlas: Atlas, warehouse: Warehouse) -> None:
    both = {warehouse.database, str(warehouse.dagster_url.database)}
    warehouse.create_database(str(warehouse.dagster_url.database))
    refused = atlas("db", "drop", typed="n\n", code=FAILED)
    assert all(name in refused.stdout + refused.stderr for name in both)
    assert both <= warehouse.databases()
    nobody = atlas("db", "drop", code=FAILED)
    assert "error: Nothing is dropped." in nobody.stderr.splitlines()[1]
    assert both <= warehouse.databases()
    assert set(json.loads(atlas("db", "drop", "--json", typed="y\n").stdout)["dropped"]) == both
    assert not both & warehouse.databases()
    assert "nothing to drop" in atlas("db", "drop", "--yes").stdout


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_unreachable_server_is_one_sentence_without_the_password(atlas: Atlas) -> None:
    url = f"postgresql://me:{SECRET}@127.0.0.1:{closed_port()}/atlas"
    for arguments in (["db", "status"], ["runs", "--json"]):
        done = atlas(*arguments, code=FAILED, DATABASE_URL=url)
        assert "error: Cannot connect to PostgreSQL at 127.0.0.1" in words(done.stderr)
        assert "Check DATABASE_URL" in words(done.stderr)
        assert done.stdout == ""
        assert SECRET not in done.stdout + done.stderr


@pytest.mark.parametrize("url", [f"postgresql://me:{SECRET}@host:port/atlas", f"mysql://me:{SECRET}@host/atlas", "?"])
def test_a_malformed_url_is_one_sentence(atlas: Atlas, url: str) -> None:
    done = atlas("db", "status", code=USAGE, DATABASE_URL=url)
    assert "DATABASE_URL is not a PostgreSQL URL. It should look like postgresql://" in words(done.stderr)
    assert SECRET not in done.stdout + done.stderr


def test_an_unquoted_at_sign_does_not_give_away_the_rest_of_the_password(atlas: Atlas) -> None:
    url = f"postgresql://me:pass@{SECRET}@127.0.0.1:{closed_port()}/atlas"
    done = atlas("db", "status", code=USAGE, DATABASE_URL=url)
    assert SECRET not in done.stdout + done.stderr


def test_status_hides_the_password_wherever_the_url_has_it(atlas: Atlas, warehouse: Warehouse) -> None:
    in_query = warehouse.url.update_query_dict({"password": SECRET}).render_as_string(hide_password=False)
    in_front = warehouse.url.set(password=SECRET, username="postgres").render_as_string(hide_password=False)
    for url in (in_query, in_front):
        for arguments in (["db", "status"], ["db", "status", "--json"]):
            done = atlas(*arguments, DATABASE_URL=url)
            assert SECRET not in done.stdout + done.stderr
            assert warehouse.database in done.stdout


@pytest.mark.long("commands, each a process")
def test_a_token_is_sent_and_kept_nowhere(
    atlas: Atlas, with_dagster: Warehouse, tmp_path: Path, httpserver: HTTPServer
) -> None:
    sent: list[str | None] = []

    def page(request: Request) -> Response:
        sent.append(request.headers.get("authorization"))
        if len(sent) == 1:
            return Response("busy", 503)
        if "cursor" in request.args:
            return Response("no", 404)
        following = httpserver.url_for(f"/api/v1/models?cursor=2&token={SECRET}")
        return Response(json.dumps({"items": [a_model(1)], "metadata": {"nextPage": following}}))

    httpserver.expect_request("/api/v1/models").respond_with_handler(page)
    done = atlas(
        "run",
        "catalog/civitai",
        "--live",
        "--json",
        code=FAILED,
        ATLAS_CIVITAI_TOKEN=SECRET,
        ATLAS_CIVITAI_BASE_URL=httpserver.url_for(""),
    )
    assert "404" in json.loads(done.stdout)["runs"][0]["error_text"]
    assert sent == [f"Bearer {SECRET}"] * 3  # busy; the first page; the second page
    assert SECRET not in done.stdout + done.stderr
    for connected in (with_dagster, Warehouse(with_dagster.dagster_url)):
        assert everything(connected).count(SECRET) == 0
    assert "cursor=2" in everything(with_dagster)
    assert [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []


def everything(warehouse: Warehouse) -> str:
    """Every row of every table, as text."""
    found = []
    with warehouse.connect() as connection:
        tables = connection.execute(
            "select format('%I.%I', schemaname, tablename) as name from pg_tables where schemaname !~ '^(pg_|info)'"
        ).fetchall()
        for table in tables:
            rows: list[Any] = connection.execute(f"select t::text as row from {table['name']} t".encode()).fetchall()
            found += [row["row"] for row in rows]
    return "\n".join(found)


@pytest.mark.parametrize("arguments", [["db", "ensure"], ["runs", "--json"]], ids=" ".join)
def test_a_server_that_is_too_old_is_one_sentence(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    monkeypatch.setattr(database, "MINIMUM_VERSION", 99)
    monkeypatch.setenv("DATABASE_URL", warehouse.conninfo)
    monkeypatch.setattr(sys, "argv", ["atlas", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == FAILED
    assert re.fullmatch(
        r"error: The server of DATABASE_URL is PostgreSQL 18; the warehouse needs 99 or newer\. .+", words(said.err)
    )
    assert said.out == ""


@pytest.mark.parametrize(
    ("variables", "in_folder", "told"),
    [
        ({"ATLAS_MODE": "liv"}, "", "The setting ATLAS_MODE is 'liv': Input should be 'recorded' or 'live'."),
        ({}, "keep_versions_days = -1", "The setting ATLAS_KEEP_VERSIONS_DAYS is -1: "),
        ({}, 'hme = "/x"', "There is no setting 'hme', as atlas.toml has it. There are: database_url, home, mode"),
        ({}, "mode = live", "atlas.toml cannot be read: "),
        ({"SQL_ECHO": "loud"}, "", "The setting SQL_ECHO is 'loud': "),
    ],
)
def test_a_wrong_setting_is_named_with_its_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], in_folder: str, told: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "atlas.toml").write_text(in_folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AtlasError) as caught:
        settings.load()
    assert str(caught.value).startswith(told)


def test_a_variable_that_nothing_reads_is_named_and_an_empty_one_is_none(atlas: Atlas) -> None:
    real = {"ATLAS_CIVITAI_TOKEN": "t", "ATLAS_OLLAMA_LIBRARY_BASE_URL": "http://127.0.0.1:1", "ATLAS_MODE": ""}
    done = atlas("runs", ATLAS_CIVITIA_TOKEN=SECRET, **real)
    assert words(done.stderr) == "ATLAS_CIVITIA_TOKEN is not the name of a setting: it has no effect."


def test_two_settings_have_the_name_that_others_give_them_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_DATABASE_URL", "postgresql:///elsewhere")
    monkeypatch.setenv("ATLAS_SQL_ECHO", "true")
    assert (settings.load().database_url, settings.load().sql_echo) == (None, False)
    assert settings.unknown_variables({}) == ["ATLAS_DATABASE_URL", "ATLAS_SQL_ECHO"]


def test_what_a_folder_sets_holds_for_a_process_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `atlas ui` starts them."""
    for name in ("DATABASE_URL", "ATLAS_HOME", "ATLAS_MODE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "atlas.toml").write_text('mode = "live"\nhome = "/data/atlas"\nkeep_events_days = 3\nsql_echo = true\n')
    monkeypatch.chdir(tmp_path)
    here = settings.load(database_url="postgresql://h/atlas")
    assert (here.mode, here.keep_events_days, here.sql_echo) == ("live", 3, True)
    for name, value in here.environment().items():
        monkeypatch.setenv(name, value)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert settings.load() == here


@pytest.mark.parametrize(
    ("state", "said"),
    [
        ("08006", "The database connection was lost: it is so. Run the command again when it is back."),
        ("57P01", "The database connection was lost: it is so. Run the command again when it is back."),
        ("53100", "The database cannot do it: it is so. The server lacks space, memory or connections: give it more,"),
        ("54000", "The database cannot do it: it is so. A value is larger than PostgreSQL holds: leave it out of"),
        ("55P03", "The database cannot do it: it is so. Run the command again."),
    ],
)
def test_what_the_server_refuses_is_told_apart_from_a_lost_connection(
    warehouse: Warehouse, atlas: Atlas, models: Path, state: str, said: str
) -> None:
    with warehouse.connect() as connection:
        connection.execute(
            f"""
            create function refuse() returns trigger language plpgsql as $$
            begin raise exception 'it is so' using errcode = '{state}'; end $$;
            create trigger refuse before insert on ops.fetch_runs execute function refuse()
            """.encode()
        )
    done = atlas("land", "catalog/civitai.models", "--from", models, "--partition", "2026-11-01", code=FAILED)
    assert said in words(done.stderr)
