"""The rules of the project (DESIGN.md, section 1): where things lie, who imports whom, what a SELECT file may say."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import dagster as dg
import httpx
import pytest
import sqlglot
import typer
from sqlalchemy import CheckConstraint, String, Table, Text
from sqlalchemy.dialects.postgresql import UUID
from sqlglot import exp

from pipelines import project
from pipelines.connectors import recording
from pipelines.connectors.recording import SECRET_PARAMETER
from pipelines.connectors.urls import without_secrets_in_urls
from pipelines.definitions import defs
from pipelines.project import Select, SqlFile
from pipelines.schema.declare import Timestamp, metadata
from pipelines.schema.table_spec import TableSpec
from pipelines.settings import Settings, variable
from pipelines.source import Source
from pipelines.warehouse.database import Warehouse
from tests import documents
from tests.documents import DOCUMENTS, README, REFERENCE

project.load_tables()
ROOT = project.ROOT
SOURCES = list(project.sources().values())
SELECTS = [select for source in SOURCES for select in project.selects(source.name)]
MARTS = [SqlFile.read(path) for path in sorted((project.SQL / "marts").glob("*.sql"))]
ASKED = [*project.questions(), *MARTS]
LONGEST_MODULE, LONGEST_FUNCTION, MOST_MODULES = 300, 50, 15
"""Lines of a module and of a function of pipelines/, and modules of a folder."""
LAYERS = (
    {"definitions"},
    {"cli"},
    {"orchestration"},
    {"maintenance"},
    {"lineage"},
    {"transform"},
    {"landing"},
    {"connectors"},
    {"ledger", "quarantine", "losses"},
    {"project", "columns"},
    {"schema"},
    {"warehouse"},
    {"source", "settings", "errors"},
)
"""Modules and packages of pipelines/. Each may import those of its own layer, without a cycle, and of those below."""
FORBIDDEN_WORDS = re.compile(r"\b(told|judged|misfits?|bury|buried)\b", re.I)

every_source = pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
every_select = pytest.mark.parametrize("select", SELECTS, ids=lambda select: select.file.address)
every_file = pytest.mark.parametrize(
    "file", [*(select.file for select in SELECTS), *ASKED], ids=lambda file: file.address
)


# Everything has its place


@every_source
def test_a_connector_has_select_files_and_a_recording(source: Source) -> None:
    assert project.selects(source.name)
    assert recording.days(source)
    assert recording.days(source)[0] >= source.start_date, "Dagster knows no partition of that day"
    assert source.description and source.owners


def test_nothing_lies_in_sql_that_no_connector_owns() -> None:
    folders = set(project.sources())
    for domain in project.domains():
        folders |= {f"{domain}/checks", f"{domain}/questions", f"{domain}/derived"}
    files = [path.relative_to(project.SQL) for path in project.SQL.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".sql"}
    assert {path.parent.as_posix() for path in files} <= folders | {"marts"}


def test_nothing_lies_in_samples_that_no_connector_owns() -> None:
    files = {path.relative_to(project.SAMPLES) for path in project.SAMPLES.rglob("*") if path.is_file()}
    assert {path.parent.as_posix() for path in files} == set(project.sources())
    assert files == {Path(source.name, f"{day}.json") for source in SOURCES for day in recording.days(source)}


def test_assets_hold_domains_and_a_domain_its_tables_and_connectors() -> None:
    files = {
        path.relative_to(project.ASSETS).as_posix()
        for path in project.ASSETS.rglob("*.py")
        if not re.match("_[a-z]", path.name)
    }
    expected = {"__init__.py"} | {f"{source.name}.py" for source in SOURCES}
    for domain in project.domains():
        expected |= {f"{domain}/__init__.py", f"{domain}/tables.py"}
    assert files == expected


# Connectors


def listings(source: Source) -> list[dict[str | None, ast.expr]]:
    """The keywords of each listing of a connector, and of the helper modules that it imports."""
    name = f"assets.{source.name.replace('/', '.')}"
    helpers = {each for each in imports("assets")[name] if within(each, "assets")}
    trees = [ast.parse(path.read_text()) for each, path in modules("assets").items() if each in {name, *helpers}]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [
        {keyword.arg: keyword.value for keyword in call.keywords}
        for call in calls
        if ast.unparse(call.func) == "Listing"
    ]


def paginators(source: Source) -> set[str]:
    """The paginators of a connector's listings, by class."""
    found = [each["paginator"] for each in listings(source)]
    assert all(isinstance(each, ast.Call) for each in found), "a paginator is made where its listing is"
    return {ast.unparse(each.func) for each in found if isinstance(each, ast.Call)}


@every_source
def test_a_source_has_a_change_token(source: Source) -> None:
    assert source.change_token


@every_source
def test_a_source_on_somebody_elses_server_keeps_to_a_rate(source: Source) -> None:
    if source.kind == "http":
        assert source.rate or httpx.URL(source.base_url).host == "127.0.0.1"


@every_source
def test_a_source_listed_in_several_pages_has_get_record(source: Source) -> None:
    """A listing may leave out records between two pages: nothing is gone unless its own URL says so."""
    assert source.get_record or paginators(source) <= {"SinglePage"}


@every_source
def test_a_source_that_is_read_incrementally_has_full_refreshes(source: Source) -> None:
    assert bool(source.full_refresh_cron) == any("incremental" in each for each in listings(source))


def test_listings_are_read_from_connectors_and_their_helpers() -> None:
    """So that the two tests above can fail."""
    found = {source.stem: paginators(source) for source in SOURCES}
    assert found["civitai"] == {"CursorPaginator"}
    assert found["danbooru"] == {"BeforeIdPaginator", "PageNumberPaginator"}
    assert sum(map(bool, found.values())) > len(found) / 2


# Recordings

RECORDINGS = sorted(project.SAMPLES.rglob("*.json"))
HEADERS = {"content-type", "etag", "last-modified", "link"}
KEY = re.compile(
    r"\bhf_\w{20,}|\bgh[a-z]_\w{20,}|\bsk-[\w-]{20,}|\bAKIA[0-9A-Z]{16}\b|\beyJ[\w-]+\.eyJ|-----BEGIN|\b[Bb]earer "
)
MILD = {"g", "s", "None", "Soft", "0", "1", "2"}
"""Ratings of boorus: general, sensitive or safe; of CivitAI: none, soft."""

every_recording = pytest.mark.parametrize(
    "path", RECORDINGS, ids=lambda path: path.relative_to(project.SAMPLES).as_posix()
)


@every_recording
def test_a_recording_holds_no_key(path: Path) -> None:
    text = path.read_text()
    assert KEY.findall(text) == []
    urls = re.findall(r"https?://[^\s\"<>\\]+", text)
    for exchange in json.loads(text).get("exchanges", []):
        assert exchange["headers"].keys() <= HEADERS
        urls.append(exchange["request"].split(" ")[1])
    assert [url for url in urls if without_secrets_in_urls(url, SECRET_PARAMETER) != url] == []
    assert [url for url in urls if httpx.URL(url).userinfo] == []


def ratings(value: Any) -> Iterator[str]:
    """What a document says of itself as to who may see it."""
    for child in value if isinstance(value, list) else value.values() if isinstance(value, dict) else []:
        yield from ratings(child)
    if isinstance(value, dict):
        yield from (value[name] for name in ("rating", "nsfw") if isinstance(value.get(name), str))
        yield from (str(value[name]) for name in ("nsfwLevel", "browsingLevel") if name in value)


@every_recording
def test_a_recording_is_safe_for_work(path: Path) -> None:
    assert set(ratings(json.loads(path.read_text()))) <= MILD


# SELECT files

CLOCKS_AND_DICE = {
    "now",
    "current_timestamp",
    "current_date",
    "current_time",
    "localtime",
    "localtimestamp",
    "clock_timestamp",
    "statement_timestamp",
    "transaction_timestamp",
    "timeofday",
    "random",
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "nextval",
}
WRITES = (exp.DDL, exp.DML, exp.Command, exp.Drop, exp.Alter, exp.TruncateTable, exp.Set)


def parsed(file: SqlFile) -> exp.Query:
    (statement,) = sqlglot.parse(file.text, dialect="postgres")
    assert isinstance(statement, exp.Query), file.address
    return statement


def source_of(select: Select) -> Source:
    return project.sources()[select.file.address.rpartition("/")[0]]


def relations(source: Source) -> dict[str, bool]:
    """What SELECTs of a source may read: the payloads of each kind, and their observations, which are marked."""
    return {
        name: observed
        for kind in source.contracts
        for name, observed in ((kind or "payloads", False), (f"{kind}_observations" if kind else "observations", True))
    }


def read_by(select: Select) -> set[str]:
    """The relations that a SELECT file reads, but for its own."""
    query = parsed(select.file)
    own = {each.alias for each in query.find_all(exp.CTE)}
    return {
        table.sql().partition(" AS ")[0]
        for table in query.find_all(exp.Table)
        if isinstance(table.this, exp.Identifier)
    } - own


def over_nothing(select: Select) -> str:
    """A SELECT file over the streams of its source, which are empty."""
    texts = "null::text as source, null::text as external_id, null::text as identity"
    columns = f"{texts}, null::uuid as record_id, null::jsonb as body"
    streams = ",\n".join(
        f"{name} as (select {columns}{', null::timestamptz as observed_at' if observed else ''} where false)"
        for name, observed in relations(source_of(select)).items()
    )
    return f"with {streams}\nselect * from (\n{select.file.text}\n) as yielded"


@every_file
def test_a_file_begins_with_one_sentence(file: SqlFile) -> None:
    assert re.fullmatch(r"[A-Z]((?![.?!] [A-Z]).)*[^ .?!][.?]", file.sentence)


@every_file
def test_a_file_is_one_select_and_writes_nothing(file: SqlFile) -> None:
    written = [type(node).__name__ for node in parsed(file).find_all(*WRITES) if not isinstance(node, exp.Query)]
    assert written == []
    assert not file.text.rstrip().endswith(";")


@every_select
def test_a_select_asks_no_clock_and_throws_no_dice(select: Select) -> None:
    """The same payloads give the same rows, today as in a year."""
    tokens = sqlglot.tokenize(select.file.text, dialect="postgres")
    words = {token.text.lower() for token in tokens if token.token_type is not sqlglot.TokenType.STRING}
    assert words & CLOCKS_AND_DICE == set()


@every_select
def test_a_select_names_no_source(select: Select) -> None:
    text = select.file.text.lower()
    assert [source.name for source in SOURCES if source.stem in text] == []


@every_select
def test_a_select_reads_payloads_and_nothing_else(select: Select) -> None:
    """A series reads the observations of one kind alone, every other table no observation."""
    read, known = read_by(select), relations(source_of(select))
    assert read
    assert read <= known.keys()
    series = TableSpec(select.table).time_series
    assert {known[name] for name in read} == {series}
    assert not series or len(read) == 1


@every_source
def test_every_stream_of_a_source_is_read(source: Source) -> None:
    read = {name for select in project.selects(source.name) for name in read_by(select)}
    assert {kind or "payloads" for kind in source.contracts} <= read


@every_source
def test_a_stream_that_is_observed_has_counters(source: Source) -> None:
    read = {name for select in project.selects(source.name) for name in read_by(select)}
    for kind, contract in source.contracts.items():
        assert contract.volatile or (f"{kind}_observations" if kind else "observations") not in read


@every_select
def test_json_table_reads_no_narrow_type(select: Select) -> None:
    """One that is narrower gives NULL without a word where the engine would quarantine the row."""
    kinds = {
        each.args["kind"].sql("postgres")
        for each in parsed(select.file).find_all(exp.JSONColumnDef)
        if each.args.get("kind")
    }
    assert kinds <= {"TEXT", "DECIMAL", "JSONB", "BOOLEAN"}


@pytest.fixture(scope="module")
def empty(emptied: Callable[[], Warehouse]) -> Warehouse:
    """A warehouse with empty tables, to be read."""
    return emptied()


@every_select
def test_a_select_yields_columns_of_its_table_and_all_that_it_must(select: Select, empty: Warehouse) -> None:
    with empty.connect() as connection:
        described = connection.execute(over_nothing(select).encode())
        yielded = [column.name for column in described.description or []]
    needed = {each.name for each in select.table.columns if not each.nullable and each.server_default is None}
    assert len(yielded) == len(set(yielded))
    assert set(yielded) <= {column.name for column in select.table.columns}
    assert set(yielded) >= needed
    assert ("record_id" in yielded) == ("record_id" in select.table.columns)


@pytest.mark.parametrize("file", ASKED, ids=lambda file: file.address)
def test_questions_checks_and_marts_run_on_empty_tables(file: SqlFile, empty: Warehouse) -> None:
    with empty.connect() as connection:
        assert connection.execute(file.text.encode()).fetchall() == []


@pytest.mark.parametrize("file", MARTS, ids=lambda file: file.address)
def test_a_mart_is_a_view_as_its_file_says(file: SqlFile, empty: Warehouse) -> None:
    with empty.connect() as connection:
        connection.execute(f"create temp view told as\n{file.text}".encode())
        (found,) = connection.execute(
            """
            select pg_get_viewdef(c.oid) = pg_get_viewdef('pg_temp.told'::regclass) as same,
                obj_description(c.oid, 'pg_class') as comment
            from pg_class as c where c.oid = %s::regclass and c.relkind = 'v'
            """,
            [f"marts.{file.name}"],
        ).fetchall()
    assert found == {"same": True, "comment": file.sentence}


def enumerations(table: Table) -> dict[str, set[str]]:
    """The values that a CHECK allows each enumerated column of a table."""
    found = {}
    for check in table.constraints:
        if isinstance(check, CheckConstraint):
            condition = sqlglot.parse_one(str(check.sqltext), dialect="postgres")
            if isinstance(condition, exp.In):
                found[condition.this.name] = {each.this for each in condition.expressions}
    return found


def results(case: exp.Case) -> set[str]:
    """The literals that a CASE gives."""
    given = [each.args["true"] for each in case.args["ifs"]] + [case.args.get("default")]
    return {each.this for each in given if isinstance(each, exp.Literal) and each.is_string}


@every_select
def test_a_select_gives_enumerated_columns_only_values_of_their_check(select: Select) -> None:
    for column, values in enumerations(select.table).items():
        cases = [each.this for each in parsed(select.file).find_all(exp.Alias) if each.alias == column]
        given = {value for case in cases if isinstance(case, exp.Case) for value in results(case)}
        assert given <= values, column


def test_model_types_that_a_select_lists_are_those_of_the_check() -> None:
    lists = [
        (select.file.address, {value.this for value in each.expressions})
        for select in SELECTS
        if select.table.fullname == "catalog.models"
        for each in parsed(select.file).find_all(exp.In)
        if each.this.name == "type"
    ]
    assert lists
    for address, listed in lists:
        assert listed == enumerations(metadata.tables["catalog.models"])["type"], address


# Who imports whom


@cache
def modules(*folders: str) -> dict[str, Path]:
    found = {}
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path) -> Iterator[str]:
    """What a module imports anywhere in it, a module where it is one of ours, else `package.name`."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            for each in node.names:
                inner = f"{base}.{each.name}"
                ours = base.split(".")[0] in {"pipelines", "assets"}
                yield base if ours and inner not in modules("pipelines", "assets") else inner


def imports(*folders: str) -> dict[str, set[str]]:
    return {name: set(imported(name, path)) for name, path in modules(*folders).items()}


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


FORBIDDEN_IN_ASSETS = ("psycopg", "psycopg2", "httpx", "requests", "urllib", "socket", "dagster", "alembic", "sqlglot")
ENGINES = ("engine", "orm", "create_engine", "Engine", "Connection", "create_mock_engine", "text", "ext", "pool")


VOCABULARY = {"pipelines.source", "pipelines.errors"} | {
    f"pipelines.connectors.{name}" for name in ("http", "json_records", "listing", "local_files", "pagination")
}


def test_assets_import_only_the_vocabulary() -> None:
    for name, found in imports("assets").items():
        allowed = {"pipelines.schema.declare"} if name.endswith(".tables") else VOCABULARY
        assert {each for each in found if within(each, "pipelines")} <= allowed, name
        assert [each for each in found if any(within(each, package) for package in FORBIDDEN_IN_ASSETS)] == [], name


def test_assets_import_only_helpers_of_their_domain_as_modules() -> None:
    """A connector's code version covers the helper modules that it has by name, and no others."""
    for name, found in imports("assets").items():
        for each in (each for each in found if within(each, "assets")):
            package, _, module = each.rpartition(".")
            assert package == name.rpartition(".")[0] and re.match("_[a-z]", module), f"{name} imports {each}"
            assert f"from {package} import {module}\n" in modules("assets")[name].read_text(), name


def test_assets_build_no_sql_and_open_no_connection() -> None:
    for name, found in imports("assets").items():
        assert "sqlalchemy" not in found, f"{name} imports sqlalchemy whole: name what is needed"
        assert [each for each in ENGINES if any(within(one, f"sqlalchemy.{each}") for one in found)] == [], name
        if not name.endswith(".tables"):
            assert [each for each in found if within(each, "sqlalchemy")] == [], f"tables belong in tables.py: {name}"


def test_pipelines_know_no_domain() -> None:
    for name, found in imports("pipelines").items():
        assert [each for each in found if within(each, "assets")] == [], name
        dynamic = "import_module" in modules("pipelines")[name].read_text()
        assert dynamic == (name == "pipelines.project"), f"{name}: sources are found by pipelines.project alone"


def test_nothing_imports_the_command_line() -> None:
    for name, found in imports("pipelines", "assets", "migrations").items():
        if not within(name, "pipelines.cli"):
            assert [each for each in found if within(each, "pipelines.cli")] == [], name


def test_dagster_stays_in_its_rooms() -> None:
    rooms = ("pipelines.orchestration", "pipelines.definitions", "pipelines.cli")
    users = {
        name
        for name, found in imports("pipelines", "assets", "migrations").items()
        if any(each.split(".")[0].startswith("dagster") for each in found)
    }
    assert [name for name in users if not any(within(name, room) for room in rooms)] == []
    assert users


def test_no_module_imports_itself_by_a_detour() -> None:
    ours = modules("pipelines")
    graph = {name: {each for each in found if each in ours} for name, found in imports("pipelines").items()}
    assert sum(map(len, graph.values())) > len(ours), "the imports were not read"
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


def layer(name: str) -> int:
    """The place of a module of ours in `LAYERS`."""
    part = name.split(".")[1]
    (found,) = [number for number, parts in enumerate(LAYERS) if part in parts]
    return found


def test_imports_run_downwards() -> None:
    named = {part for parts in LAYERS for part in parts}
    ours = {
        path.stem for path in (ROOT / "pipelines").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert named == ours - {"__init__"}, "a module of pipelines/ has no place in LAYERS"
    upwards = [
        f"{name} imports {each}"
        for name, found in imports("pipelines").items()
        for each in found & modules("pipelines").keys() - {"pipelines"}
        if name != "pipelines" and layer(each) < layer(name)
    ]
    assert upwards == []


# How modules and columns look

EVERY_MODULE = modules("pipelines", "assets", "migrations", "tests")
IDENTIFIER = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
UNITS = {"bytes", "kb", "mb", "gb", "ms", "seconds", "minutes", "hours", "days", "pixels", "percent"}
TIMES = {"at", "until"}
OWN_TABLES = [table for table in metadata.sorted_tables if table.schema not in {"ops", "staging"}]
every_table = pytest.mark.parametrize("table", metadata.sorted_tables, ids=lambda table: table.fullname)


@pytest.mark.parametrize("name", EVERY_MODULE)
def test_a_module_says_what_it_is(name: str) -> None:
    assert ast.get_docstring(ast.parse(EVERY_MODULE[name].read_text()))


def test_a_module_has_one_idea() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules("pipelines").items()}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_MODULE} == {}


def test_a_function_can_be_read_at_once() -> None:
    lengths = {
        f"{name}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, path in modules("pipelines").items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FUNCTION} == {}


def test_a_folder_has_few_modules() -> None:
    held = Counter(path.parent.relative_to(ROOT).as_posix() for path in modules("pipelines").values())
    assert {folder: number for folder, number in held.items() if number > MOST_MODULES} == {}


def test_words_are_those_of_the_field() -> None:
    """Identifiers, SQL, comments and messages; a word is delimited as by `grep -w`."""
    folders = [path for folder in ("pipelines", "assets", "sql", "migrations") for path in (ROOT / folder).rglob("*")]
    texts = [path for path in folders if path.suffix in {".py", ".sql", ".yaml", ".mako"}]
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in (*texts, *DOCUMENTS)
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if FORBIDDEN_WORDS.search(line)
    ]
    assert len(texts) > 100
    assert found == []


@every_table
def test_names_of_columns_tell_their_kind(table: Table) -> None:
    assert IDENTIFIER.fullmatch(table.name)
    for column in table.columns:
        assert IDENTIFIER.fullmatch(column.name), column
        words = column.name.split("_")
        if words[-1] in TIMES:
            assert column.type is Timestamp, column
        if words[-1] == "id":
            assert (
                isinstance(column.type, UUID | Text | String) or column.identity is not None or column.foreign_keys
            ), column
        assert not UNITS & set(words[:-1]), f"the unit goes last: {column}"


@every_table
def test_times_are_named_so(table: Table) -> None:
    """A moment ends in `_at`, the end of a span of time in `_until`."""
    times = [each.name for each in table.columns if each.type is Timestamp]
    assert [name for name in times if name.rpartition("_")[2] not in TIMES] == []


@pytest.mark.parametrize("table", OWN_TABLES, ids=lambda table: table.fullname)
def test_a_table_of_a_domain_is_owned_or_shared_by_its_shape(table: Table) -> None:
    """The engine reads from the table alone whose its rows are, and how the same row is known again."""
    assert table.schema in project.domains()
    shape = TableSpec(table)
    keys = [each for each in table.primary_key.columns if not (shape.time_series and each.name == "observed_at")]
    assert [each.type.python_type.__name__ for each in keys if not isinstance(each.type, UUID)] == []
    if shape.time_series:
        assert shape.owned, "a series follows the observations of its record"
    if not shape.owned:
        assert len(keys) == 1, "a shared table has one key that others refer to"


# The graph


@pytest.mark.filterwarnings("ignore:Property `ScheduleDefinition.environment_vars`")  # Dagster's own, of its schedules
def test_dagster_loads_every_definition_of_the_code_location() -> None:
    """What `dg check defs` finds: sources, assets, checks, jobs, sensors and schedules fit each other."""
    location = tomllib.loads((project.ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    module = importlib.import_module(location["code_location_target_module"])
    assert module.defs is defs
    dg.Definitions.validate_loadable(defs)


def test_every_asset_stands_where_its_name_says() -> None:
    """A table follows streams, all are in the group of their source, partitioned by day, owned, and checked."""
    checked = {key.asset_key for key in defs.resolve_asset_graph().asset_check_keys if key.name == "ledger_agrees"}
    for spec in defs.resolve_all_asset_specs():
        domain, stem, *table = spec.key.path
        source = project.sources()[f"{domain}/{stem.partition('.')[0]}"]
        streams = {stream.name for stream in source.streams}
        deps = {dep.asset_key.to_user_string() for dep in spec.deps}
        assert (deps <= streams and deps) if table else not deps, spec.key
        assert spec.group_name == f"{domain}_{source.stem}" and spec.owners and spec.kinds and spec.description, (
            spec.key
        )
        assert isinstance(spec.partitions_def, dg.DailyPartitionsDefinition), spec.key
        assert spec.partitions_def.start.date() == source.start_date, spec.key
        assert bool(spec.automation_condition) == bool(table), spec.key
        assert spec.key in checked


def test_every_source_and_select_file_is_an_asset_and_nothing_else_is() -> None:
    keys = {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()}
    streams = {stream.name for source in SOURCES for stream in source.streams}
    assert keys == streams | {select.file.address for select in SELECTS}


def test_the_definitions_are_the_only_ones() -> None:
    """Two module-level Definitions are an error of Dagster's; in a source's file one would hide its assets."""
    made = [
        name
        for name, path in modules("pipelines", "assets").items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"dg.Definitions", "Definitions"}
    ]
    assert made == ["pipelines.definitions"]
    assert isinstance(defs, dg.Definitions)


# The documents


def commands(group: object, name: str) -> Iterator[str]:
    inner = getattr(group, "commands", None)
    if inner is None:
        yield name
    else:
        for each in sorted(inner):
            yield from commands(inner[each], f"{name} {each}")


@cache
def known_commands() -> list[str]:
    from pipelines.cli.main import app

    return list(commands(typer.main.get_command(app), "atlas"))


@pytest.mark.parametrize("command", known_commands())
def test_the_reference_names_each_command(command: str) -> None:
    """Each has a line of its own."""
    assert re.search(rf"^\| `{command}\b[^`]*` \| \S", REFERENCE.read_text(), re.M)


def test_the_readme_names_the_tests_that_hold_each_promise() -> None:
    promises = re.findall(r"^\| I(\d+) \|.*$", README.read_text(), re.M)
    assert promises == [str(number) for number in range(1, 12)]
    for number in promises:
        (line,) = re.findall(rf"^\| I{number} \|.*$", README.read_text(), re.M)
        there = {
            f"tests/promises/{path.name}" for path in (project.ROOT / "tests/promises").glob(f"test_i{number}_*.py")
        }
        assert set(re.findall(r"`(tests/\S+)`", line)) == there != set()


def test_documents_name_no_unknown_command() -> None:
    code = re.findall(r"```.*?```|`[^`\n]+`", documents.text(), flags=re.DOTALL)
    named = {
        found
        for part in code
        for found in re.findall(r"(?:^|[`$&|] ?)(atlas (?:db |quarantine )?[a-z][a-z-]*)", part, flags=re.MULTILINE)
    }
    known = set(known_commands()) | {"atlas db", "atlas quarantine"}
    assert named - known == set()


def test_documents_name_no_unknown_option() -> None:
    """Options in code, after a command that has them or alone."""
    from pipelines.cli.main import app

    def options(group: object) -> set[str]:
        inner = getattr(group, "commands", {})
        own = {option for each in getattr(group, "params", []) for option in (*each.opts, *each.secondary_opts)}
        return own.union(*(options(each) for each in inner.values()), {"--help"})

    named = set(re.findall(r"`(--[a-z-]+)", documents.text()))
    named |= set(re.findall(r"\batlas [^`\n]*?(--[a-z-]+)", documents.text()))
    assert len(named) > 20
    assert named - options(typer.main.get_command(app)) == set()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_the_reference_names_each_setting_with_its_default(name: str) -> None:
    (default,) = re.findall(
        rf"^\| `{variable(name)}` \| `{name}` \| [^|]*\| (?:`([^`|]*)` )?\| \S.* \|$", REFERENCE.read_text(), re.M
    )
    declared = Settings.model_fields[name].default
    if isinstance(declared, Path):
        declared = declared.relative_to(ROOT)
    assert default.lower() == ("" if declared is None else str(declared).lower())


def test_documents_name_no_unknown_variable() -> None:
    known = {"ATLAS_REDACTION_KEY", *map(variable, Settings.model_fields)}
    known |= {
        f"ATLAS_{source.stem}_{rest}".upper()
        for source in SOURCES
        for rest in ("token", "base_url", *(f"{place}_base_url" for place in source.other_urls))
    }
    assert set(re.findall(r"\bATLAS_[A-Z_]*[A-Z]\b", documents.text())) - known == set()


@pytest.mark.parametrize("ending", ["BASE_URL", "TOKEN"])
def test_the_reference_names_the_settings_of_each_source(ending: str) -> None:
    assert f"ATLAS_<SOURCE>_{ending}" in REFERENCE.read_text()


# A new source

CONNECTOR = '''
"""Example: three small things, listed on one page."""

from collections.abc import Iterator
from datetime import date

import msgspec

from pipelines.connectors.http import Client
from pipelines.connectors.listing import Listing
from pipelines.connectors.pagination import SinglePage
from pipelines.source import Contract, Item, Payload, Window, source


class Thing(Contract):
    id: int
    parts: list[msgspec.Raw]

    def external_id(self) -> str:
        return str(self.id)


class Page(msgspec.Struct):
    things: list[msgspec.Raw]


@source(contract=Thing, kind="http", base_url="https://example.org", start_date=date(2026, 11, 1))
def fetch(client: Client, window: Window) -> Iterator[Item]:
    """One payload a thing."""
    listing = Listing(
        client,
        window,
        "things",
        "/things",
        {"on": window.key},
        Page,
        records=lambda page: page.things,
        paginator=SinglePage(),
    )
    for page in listing:
        for thing in page.records:
            yield Payload(thing, page.request)
        yield page.checkpoint
    yield from listing.end()
'''

SELECT = """-- One row per thing.
select
    ops.key(p.source, p.external_id)        as workflow_id,
    p.record_id,
    ops.key(p.source)                       as source_id,
    p.external_id,
    p.body ->> 'title'                      as title,
    p.body -> 'parts'                       as graph,
    jsonb_array_length(p.body -> 'parts')   as nodes_count
from payloads as p
"""

SCRIPT = """
import json, sys
from pipelines import project, settings
from pipelines.connectors import recording
from pipelines.definitions import defs
from pipelines.landing import extract, land
from pipelines.source import Window
from pipelines.transform.run import transform
from pipelines.warehouse import database
source = project.sources()["catalog/example"]
found = {"root": str(project.ROOT), "sources": list(project.sources()), "runs": []}
found["assets"] = [key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()]
with database.open_warehouse(settings.load()) as warehouse:
    for day in recording.days(source):
        (stream,) = source.streams
        opened = extract.open_intake(warehouse, stream, Window(day), "recorded")
        runs = [land.land_intake(warehouse, stream, str(day), opened)]
        runs.append(transform(warehouse, stream, str(day)))
        found["runs"] += [[run.kind, run.status, run.counts.fetched, run.counts.created] for run in runs]
json.dump(found, sys.stdout)
"""


@pytest.mark.long("a project of its own")
def test_a_source_is_added_by_its_own_files_alone(tmp_path: Path, warehouse: Warehouse) -> None:
    for folder in ("assets", "sql", "samples", "pipelines", "migrations"):
        shutil.copytree(ROOT / folder, tmp_path / folder)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    exchange = {
        "request": "GET /things?on=2026-11-01",
        "status": 200,
        "headers": {"content-type": "application/json"},
        "body": {"things": [{"id": number, "title": f"thing {number}", "parts": [1] * number} for number in range(3)]},
    }
    for path, text in {
        "assets/catalog/example.py": CONNECTOR.lstrip(),
        "sql/catalog/example/workflows.sql": SELECT,
        "samples/catalog/example/2026-11-01.json": json.dumps({"exchanges": [exchange]}),
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)

    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "DATABASE_URL": warehouse.conninfo,
        "ATLAS_HOME": str(tmp_path / ".atlas"),
    }
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["root"] == str(tmp_path)
    assert set(found["sources"]) == {*project.sources(), "catalog/example"}
    assert {"catalog/example", "catalog/example/workflows"} <= set(found["assets"])
    assert found["runs"] == [["land", "completed", 3, 3], ["transform", "completed", 3, 3]]
    with warehouse.connect() as connection:
        rows = connection.execute("select title, nodes_count from catalog.workflows order by nodes_count").fetchall()
    assert rows == [{"title": f"thing {number}", "nodes_count": number} for number in range(3)]
