"""Invariant I1: every row leads to its payload, its request, its runs and its SQL, and these yield it again."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg
import pytest
from psycopg import sql

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.lineage import trace
from pipelines.orchestration.checks import proof_checks
from pipelines.orchestration.resources import Atlas as Resource
from pipelines.project import Select, SqlFile
from pipelines.schema.declare import metadata
from pipelines.schema.functions import trace_query
from pipelines.schema.table_spec import TableSpec
from pipelines.source import Source
from pipelines.transform.change_set import ChangeSet, Edition
from pipelines.transform.evaluate import query_over
from pipelines.warehouse.database import Connection, Warehouse
from tests.launcher import FAILED, USAGE, Atlas, words
from tests.library import author, load_recordings, payload
from tests.runs import land_items, transform

pytestmark = pytest.mark.usefixtures("toy")


def specs() -> dict[str, TableSpec]:
    """The tables of the domain that sources fill, by name."""
    found = {table.fullname: TableSpec(table) for table in metadata.sorted_tables if table.schema == "toy"}
    return {name: spec for name, spec in found.items() if spec.kind != "application"}


@pytest.fixture(scope="module")
def loaded(toy: None, new_warehouse: Callable[[], Warehouse]) -> Iterator[Warehouse]:
    """A warehouse as `make run` leaves it."""
    warehouse = new_warehouse()
    load_recordings(warehouse)
    yield warehouse
    warehouse.drop_database(warehouse.database)


@pytest.fixture
def connection(loaded: Warehouse) -> Iterator[Connection]:
    """A connection whose changes are rolled back."""
    with loaded.connect() as connection, connection.transaction(force_rollback=True):
        yield connection


def a_row(connection: Connection, table: str, where: str = "true") -> dict[str, Any]:
    row = connection.execute(f"select * from ops.trace where table_name = '{table}' and {where} limit 1".encode())
    return row.fetchone() or {}


@pytest.mark.long("traces each row")
def test_every_row_is_traced_once(connection: Connection) -> None:
    """To the effective version of its record, with body, landing, transform and SQL text."""
    for name, shape in specs().items():
        keys = connection.execute(
            sql.SQL("select {} as key from {} t order by 1").format(shape.key_text("t"), shape.target)
        ).fetchall()
        traced = connection.execute(
            """
            select t.key from ops.trace t
            join staging.versions v using (version_id, record_id, payload_id, stream, external_id)
            join staging.payloads p using (payload_id)
            join ops.fetch_runs l on l.fetch_run_id = t.landed_run and l.kind = 'land' and l.publish_seq is not null
            join ops.fetch_runs d
                on d.fetch_run_id = t.derived_run and d.kind = 'transform' and d.publish_seq is not null
            join ops.sql s on s.digest = t.sql_digest and s.path = t.sql_path
            where t.table_name = %s and v.valid_from_run is not null and v.valid_to_run is null and t.request <> ''
              and encode(p.digest, 'hex') = t.digest
              and encode(sha256(convert_to(s.text, 'UTF8')), 'hex') = t.sql_digest
              and t.sql_path like '%%/' || split_part(t.table_name, '.', 2) || '.sql'
            order by 1
            """,
            [name],
        ).fetchall()
        assert keys and traced == keys, name
    assert {row["unproven"] for row in trace.unproven(connection)} == {0}


@pytest.mark.long("a dozen runs")
def test_the_sql_of_each_proof_yields_the_row_from_that_one_payload(loaded: Warehouse) -> None:
    """For every row of some payloads of each SELECT file: the text in ops.sql, run over the one body, has its key."""
    with loaded.connect() as connection:
        proofs = connection.execute(
            """
            select table_name, version_id, stream, sql_path, sql_digest, array_agg(key) as keys
            from ops.trace group by 1, 2, 3, 4, 5 order by sql_path, version_id
            """
        ).fetchall()
    some: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for proof in proofs:
        if len(some[proof["sql_path"]]) < 3:
            some[proof["sql_path"]].append(proof)
    assert set(some) == {f"{each.file.address}.sql" for name in project.sources() for each in project.selects(name)}
    for each in (proof for chosen in some.values() for proof in chosen):
        missing = set(each["keys"]) - yielded(loaded, each)
        assert not missing, (each["sql_path"], each["version_id"])


def yielded(warehouse: Warehouse, proof: dict[str, Any]) -> set[str]:
    """The keys that the SQL of a proof yields over its one payload."""
    source = project.sources()[proof["stream"].split(".")[0]]
    shape = TableSpec(metadata.tables[proof["table_name"]])
    with warehouse.connect() as connection, connection.transaction(force_rollback=True):
        row = connection.execute("select text from ops.sql where digest = %s", [proof["sql_digest"]]).fetchone()
        assert row is not None
        assert hashlib.sha256(row["text"].encode()).hexdigest() == proof["sql_digest"]
        change_set = ChangeSet(connection, [Edition(source, [])])
        change_set.start_complete([[proof["version_id"]]], 2**62)
        query = query_over(change_set, Select(SqlFile(project.SQL / proof["sql_path"], row["text"]), shape.table))
        keys = sql.SQL("select {} as key from ({}) as t").format(shape.key_text("t"), query)
        return {row["key"] for row in connection.execute(keys)}


@pytest.mark.long
def test_a_shared_row_leads_to_a_record_that_refers_to_it(connection: Connection) -> None:
    through = a_row(connection, "toy.topics", "through = 'toy.author_topics' and stream like 'toy/library%'")
    assert through["sql_path"] == "toy/library/topics.sql"
    referring = connection.execute(
        "select count(*) as number from toy.author_topics where topic_id::text = %s and record_id = %s",
        [through["key"], through["record_id"]],
    ).fetchone()
    assert referring and referring["number"]
    assert trace.trace(connection, "toy.topics", through["key"])["proof"] == through


def test_counters_lead_to_the_landing_that_observed_them(connection: Connection) -> None:
    """Which is not that of the payload version, where only counters had changed."""
    later = a_row(
        connection,
        "toy.loans",
        "landed_run <> (select v.landed_run from staging.versions v where v.version_id = trace.version_id)",
    )
    observed = connection.execute(
        "select * from staging.observations where observation_id = %s", [later["observation_id"]]
    ).fetchone()
    assert observed is not None
    assert (observed["record_id"], observed["landed_run"]) == (later["record_id"], later["landed_run"])
    assert (observed["request"], observed["observed_at"]) == (later["request"], later["received_at"])
    assert trace.trace(connection, "toy.loans", later["key"])["counters"] == observed["counters"]


INSERT = """
insert into toy.authors (author_id, record_id, source_id, external_id, name, genre, raw)
select ops.key('by hand'), {record}, source_id, 'by hand', 'By hand', 'Other', '{{}}' from toy.authors limit 1
"""


def test_a_row_written_by_hand_is_found(connection: Connection) -> None:
    connection.execute(INSERT.format(record="uuidv7()").encode())
    counted = {row["table_name"]: row["unproven"] for row in trace.unproven(connection)}
    assert {name: number for name, number in counted.items() if number} == {"toy.authors": 1}
    with pytest.raises(AtlasError, match=r"Nothing proves toy.authors .* atlas rebuild toy --check"):
        trace.trace(connection, "toy.authors", "by hand")


def test_a_check_of_each_table_finds_it_too(with_authors: Warehouse, library: Source) -> None:
    def failing() -> set[str]:
        with dg.DagsterInstance.ephemeral() as instance:
            every = dg.AssetSelection.all_asset_checks()
            resources = {"atlas": Resource(with_authors)}
            result = dg.materialize([proof_checks(library)], instance=instance, resources=resources, selection=every)
        checked = result.get_asset_check_evaluations()
        assert len(checked) == len(project.selects(library.name))
        return {check.asset_key.to_user_string() for check in checked if not check.passed}

    assert failing() == set()
    with with_authors.connect() as connection:
        connection.execute(INSERT.format(record="uuidv7()").encode())
    assert failing() == {"toy/library/authors"}


@pytest.mark.parametrize(
    "change",
    [
        "update staging.versions set valid_to_run = valid_from_run where version_id = %s",
        "delete from ops.sql where digest = (select sql_digest from ops.trace where version_id = %s limit 1)",
    ],
    ids=["version", "text"],
)
def test_a_row_whose_proof_was_removed_is_found(connection: Connection, change: str) -> None:
    row = a_row(connection, "toy.notes")
    connection.execute(change.encode(), [row["version_id"]])
    assert sum(each["unproven"] for each in trace.unproven(connection)) > 0
    with pytest.raises(AtlasError, match=r"Nothing proves"):
        trace.trace(connection, "toy.notes", row["key"])


def test_a_row_is_looked_up_by_its_index(connection: Connection) -> None:
    """The query of `atlas trace` reads no table sequentially for one key."""
    connection.execute("set local enable_seqscan = off")  # the planner prefers it for small tables
    for name, spec in specs().items():
        key = a_row(connection, name)["key"]
        condition = trace._key_condition(spec, key)
        assert condition is not None
        plan = connection.execute(sql.SQL("explain ") + trace_query(spec, condition)).fetchall()
        assert not [line for line in plan if "Seq Scan" in line["QUERY PLAN"]], (name, plan)


@pytest.fixture
def with_authors(warehouse: Warehouse, library: Source) -> Warehouse:
    """Two authors."""
    items = [payload(author(each, "Heron"), f"{each}") for each in (1, 2)]
    land_items(warehouse, library, "2026-11-01", items)
    transform(warehouse, library, "2026-11-01")
    return warehouse


def test_the_command_shows_a_row_by_its_key_or_the_sources_own_id(with_authors: Warehouse, atlas: Atlas) -> None:
    shown = words(atlas("trace", "toy.authors", "1").stdout)
    assert "toy/library.authors 1" in shown and "made here, 1" in shown and "sql/toy/library/authors.sql" in shown
    told = json.loads(atlas("trace", "toy.authors", "1", "--json").stdout)
    assert told["body"]["id"] == 1 and told["landed"]["kind"] == "land" and told["row"]["name"] == "Heron"
    again = json.loads(atlas("trace", "toy.authors", told["proof"]["key"].upper(), "--json").stdout)
    assert again == told
    counted = json.loads(atlas("trace", "--json").stdout)
    assert counted == [{"table_name": "toy.authors", "rows": 2, "unproven": 0}]

    with with_authors.connect() as connection:
        connection.execute(INSERT.format(record="uuidv7()").encode())
    assert "Nothing proves toy.authors" in words(atlas("trace", "toy.authors", "by hand", code=FAILED).stderr)
    assert "toy.authors" in atlas("trace", code=FAILED).stdout


def test_the_command_explains_what_it_cannot_find(
    with_authors: Warehouse, atlas: Atlas, subtests: pytest.Subtests
) -> None:
    for arguments, said in (
        (
            ["toy.nothing", "1"],
            "There is no table 'toy.nothing' of a domain. There are: toy.audit_log, toy.secrets, toy.users",
        ),
        (["toy.authors"], "Which row of toy.authors? Name its key: author_id."),
        (["toy.authors", "7"], "toy.authors has no row '7'. Its key is author_id, or external_id."),
        (
            ["toy.author_topics", "7"],
            "toy.author_topics has no row '7'. Its key is author_id and topic_id, separated by a space.",
        ),
    ):
        with subtests.test(said):
            assert said in words(atlas("trace", *arguments, code=USAGE).stderr)


def test_an_id_of_several_rows_is_reported_with_their_keys(connection: Connection) -> None:
    ids = connection.execute(
        "select external_id from toy.copies group by 1 having count(*) between 2 and 8 limit 1"
    ).fetchone()
    assert ids is not None
    with pytest.raises(AtlasError, match=r"Several rows of toy.copies have the id .* by its key: .*; "):
        trace.trace(connection, "toy.copies", ids["external_id"])
