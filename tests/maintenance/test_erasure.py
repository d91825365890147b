"""Erasure: nothing of an erased record is left anywhere, nothing else is touched, and whatever proves says so."""

import json
from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest
from psycopg import sql
from typer.testing import CliRunner

from pipelines.cli.main import app
from pipelines.errors import AtlasError
from pipelines.landing import land
from pipelines.ledger import Run
from pipelines.lineage import rebuild, snapshots, time_travel, trace
from pipelines.lineage.shadow_schema import PASSING
from pipelines.maintenance import erasure, retention
from pipelines.maintenance.retention import Policy
from pipelines.source import Checkpoint, Item, Payload, Source
from pipelines.warehouse.database import Warehouse
from tests.transform.test_change_set import DAYS, START, Told, image, made, model, payload, rows, shown, state, version

__all__ = ["made"]

STREAM, WHO = "catalog/civitai.models", "anna-mustermann-47x11"
SECRETS = ("mustermann", "Geheimnis", "flüstert", "47x11")


def a_model(name: str, downloads: int, **more: Any) -> dict[str, Any]:
    return {"id": 1, "name": name, "type": "LORA", "stats": {"downloadCount": downloads}} | more


def secret(edition: int, **more: Any) -> dict[str, Any]:
    files = [{"id": edition, "name": "Geheimnis.safetensors", "type": "Model", "hashes": {"SHA256": "no Geheimnis"}}]
    versions = [{"id": 1, "name": f"Geheimnis {edition}", "files": files, "stats": {"downloadCount": edition}}]
    tags = ["Geheimnis" * 40, "mustermann", "shared"]
    return a_model(f"Geheimnis {edition}", edition, tags=tags, modelVersions=versions, **more)


def found(warehouse: Warehouse, *words: str) -> list[str]:
    """The columns of all tables of the warehouse that hold one of some words, bytes read as text too."""
    columns = rows(
        warehouse,
        """
        select table_schema, table_name, column_name, data_type from information_schema.columns
        join information_schema.tables using (table_schema, table_name)
        where table_schema not in ('pg_catalog', 'information_schema') and table_type = 'BASE TABLE'
        order by 1, 2
        """,
    )
    assert {schema for schema, *_ in columns} >= {"ops", "staging", "catalog"}
    there = []
    for (schema, table), own in groupby(columns, key=lambda row: row[:2]):
        asked = [(name, kind, word) for _, _, name, kind in own for word in words]
        query = sql.SQL("select {} from {}").format(
            sql.SQL(", ").join(holds(*each) for each in asked), sql.Identifier(schema, table)
        )
        (counted,) = rows(warehouse, query)
        there += [f"{schema}.{table}.{name}: {word}" for (name, _, word), n in zip(asked, counted, strict=True) if n]
    return there


def holds(column: str, kind: str, word: str) -> sql.Composed:
    """How many rows hold a word in a column."""
    text = sql.SQL("encode({}, 'escape')" if kind == "bytea" else "{}::text").format(sql.Identifier(column))
    spelled = [word, "".join(chr(each) if each < 128 else f"\\{each:o}" for each in word.encode())]
    return sql.SQL("count(*) filter (where {})").format(
        sql.SQL(" or ").join(
            sql.SQL("strpos(lower({}), lower({})) > 0").format(text, sql.Literal(each)) for each in spelled
        )
    )


@pytest.fixture
def lived(warehouse: Warehouse, civitai: Source) -> Told:
    """A record in several versions, with misfits, faults, exact bytes, and an end of a landing that broke off."""
    told = Told(warehouse, civitai)
    told.land("other", a_model("Other", 5, tags=["shared", "own"]) | {"id": 2}, day=DAYS[0], kind="models")
    for edition, day in enumerate(DAYS[:3]):
        told.land(WHO, secret(edition), day=day, kind="models")
        told.transform()
    told.clock = START
    nul = json.dumps(secret(9)).replace("Geheimnis 9", "\\u0000 flüstert").encode()
    bring(warehouse, civitai, nul, DAYS[2])
    bring(warehouse, civitai, b'{"id": 1, "name": 7, "type": "Geheimnis"}', DAYS[2])
    bring(warehouse, civitai, b'{"id": "Geheimnis', DAYS[2])
    with pytest.raises(KeyboardInterrupt):
        land.land(warehouse, civitai, DAYS[3], breaking_off())
    told.transform()
    return told


def bring(warehouse: Warehouse, source: Source, body: bytes, day: str) -> Run:
    return land.land(warehouse, source, day, [Payload(body, f"told of {WHO}", WHO, kind="models")])


def breaking_off() -> Iterator[Item]:
    yield payload(WHO, secret(20), "models")
    yield payload(WHO, {"name": "Geheimnis"}, "models")
    yield Checkpoint("models", {"after": WHO})
    raise KeyboardInterrupt


def test_nothing_is_left_of_an_erased_record(lived: Told, civitai: Source) -> None:
    warehouse = lived.warehouse
    before = found(warehouse, *SECRETS)
    held = "payloads.body payloads.original versions.external_id quarantine.bytes quarantine.row arrivals.external_id"
    for where in (*held.split(), "rejects.bytes", "checkpoints.progress", "models.name", "tags.name"):
        assert any(f".{where}:" in each for each in before), where
    with warehouse.connect() as connection:  # a body that a crashed landing left
        connection.execute(
            """
            insert into staging.payloads (fetch_run_id, digest, body)
            select fetch_run_id, 'Geheimnis', '"Geheimnis"' from ops.fetch_runs limit 1
            """
        )
    run = erasure.erase(warehouse, civitai, STREAM, WHO)
    assert (run.status, run.stats["erased"]["versions"], run.stats["erased"]["shared_bodies"]) == ("completed", 4, 0)
    assert found(warehouse, *SECRETS) == []
    ((stream, length, lifted),) = rows(warehouse, "select stream, length(digest), lifted_at from staging.erasures")
    assert (stream, length, lifted) == (STREAM, 32, None)


def test_other_records_are_as_if_it_had_never_been_there(lived: Told, civitai: Source, new_warehouse: Any) -> None:
    erasure.erase(lived.warehouse, civitai, STREAM, WHO)
    fresh = Told(new_warehouse(), civitai)
    fresh.land("other", a_model("Other", 5, tags=["shared", "own"]) | {"id": 2}, day=DAYS[0], kind="models")
    fresh.transform()
    assert state(lived.warehouse) == state(fresh.warehouse)
    assert shown(lived.warehouse, "select name from catalog.tags order by 1") == ["own", "shared"]
    fresh.warehouse.drop_database(fresh.warehouse.database)
    with lived.warehouse.connect() as connection:
        assert all(row["unproven"] == 0 for row in trace.unproven(connection))
        kept = {name: (table["rows"], table["digest"]) for name, table in recorded(lived.warehouse).items()}
        (last,) = shown(lived.warehouse, "select fetch_run_id::text from ops.fetch_runs where kind = 'erase'")
        moment = snapshots.moment(connection, last)
        with time_travel.as_of(
            lived.warehouse, "catalog", moment
        ) as then:  # what the erasing run says it left is there
            assert then.differing(connection) == []
    assert kept["catalog.models"][0] == 1
    assert all(each.same for each in rebuild.check(lived.warehouse, "catalog", workers=1))


def recorded(warehouse: Warehouse) -> dict[str, Any]:
    (stats,) = shown(warehouse, "select stats -> 'table_digests' from ops.fetch_runs where kind = 'erase'")
    return dict(stats)


def test_trace_and_as_of_say_that_it_was_erased(lived: Told, civitai: Source) -> None:
    warehouse = lived.warehouse
    ((first,),) = rows(
        warehouse, "select fetch_run_id::text from ops.fetch_runs where kind = 'transform' order by publish_seq limit 1"
    )
    with warehouse.connect() as connection:
        moment = snapshots.moment(connection, first)
        assert time_travel.touched_since(connection, "catalog", moment) == []
        run = erasure.erase(warehouse, civitai, STREAM, WHO)
        with pytest.raises(AtlasError, match=rf"was erased at .* by run {run.id}"):
            trace.trace(connection, "catalog.models", WHO)
        with pytest.raises(AtlasError, match="has no row"):
            trace.trace(connection, "catalog.models", "never-there")
        assert time_travel.touched_since(connection, "catalog", moment)[0].startswith(f"run {run.id} erased a record")
        with time_travel.as_of(warehouse, "catalog", moment) as then:
            assert "catalog.models" in then.differing(connection)


def test_an_erased_record_does_not_land_again_until_that_is_lifted(lived: Told, civitai: Source) -> None:
    warehouse = lived.warehouse
    erasure.erase(warehouse, civitai, STREAM, WHO)
    run = land.land(
        warehouse,
        civitai,
        DAYS[3],
        [payload(WHO, secret(1), "models"), payload("new", a_model("New", 1), "models"), *rejected()],
    )
    assert (run.counts.fetched, run.counts.created, run.counts.quarantined) == (1, 1, 0)
    assert run.stats["skipped"] == {"erased before": 2}
    assert found(warehouse, *SECRETS) == []
    assert erasure.lift(warehouse, STREAM, WHO)
    assert not erasure.lift(warehouse, STREAM, WHO)
    assert bring(warehouse, civitai, json.dumps(secret(1)).encode(), DAYS[3]).counts.created == 1
    erasure.erase(warehouse, civitai, STREAM, WHO)
    assert found(warehouse, *SECRETS) == []


def rejected() -> list[Item]:
    return [payload(WHO, {"name": "Geheimnis"}, "models")]


def test_a_body_that_another_record_has_too_stays(warehouse: Warehouse, made: Source) -> None:
    told = Told(warehouse, made)
    for name in ("a", "b"):
        told.land(name, {"models": [model(1)]})
    told.land("a", {"models": [model(1), model(2)]})
    told.transform()
    run = erasure.erase(warehouse, made, made.name, "a")
    assert (run.stats["erased"]["versions"], run.stats["erased"]["shared_bodies"]) == (2, 1)
    assert shown(warehouse, "select body -> 'models' from staging.payloads") == [[model(1)]]
    assert shown(warehouse, "select name from catalog.models") == ["model 1"]


def test_a_body_that_came_with_an_erased_record_is_stored_with_another(warehouse: Warehouse, comfyui: Source) -> None:
    """Which the next batch of the same run tells."""
    graph = json.dumps({"nodes": [], "links": []}).encode()
    items = [
        Payload(graph, "a", "a"),
        *(Payload(b'{"nodes": [%d], "links": []}' % each, "x", f"x{each}") for each in range(land.BATCH_PAYLOADS)),
        Payload(graph, "b", "b"),
    ]
    land.land(warehouse, comfyui, DAYS[0], items[:1])
    erasure.erase(warehouse, comfyui, comfyui.name, "a")
    run = land.land(warehouse, comfyui, DAYS[0], items)
    assert run.counts.created == land.BATCH_PAYLOADS + 1
    assert shown(warehouse, "select count(*) from staging.versions where latest and external_id = 'b'") == [1]


def test_what_depends_on_an_erased_record_follows(warehouse: Warehouse, made: Source) -> None:
    """A claim goes to who waited for it, a child waits again, an optional reference goes in NULL: as if it was gone."""
    told = Told(warehouse, made)
    told.land_all(
        {
            "a": {"models": [model(1)], "images": [image(7, "a")]},
            "b": {"versions": [version(1, 1, "v")], "images": [image(7, "b"), image(8, "b", 1)]},
        }
    )
    told.transform()
    erasure.erase(warehouse, made, made.name, "a")
    there = state(warehouse)
    assert rows(warehouse, "select url, model_version_id from catalog.images order by 1") == [
        ("https://i/7/b.png", None),
        ("https://i/8/b.png", None),
    ]
    assert {name for name in there} == {"images", "waits", "quarantine"}


def test_a_landing_under_way_that_has_it_is_waited_for(warehouse: Warehouse, made: Source) -> None:
    def items() -> Iterator[Item]:
        yield payload("a", {"models": [model(1)]})
        yield Checkpoint("", {})
        with pytest.raises(AtlasError, match="under way and has just received the record"):
            erasure.erase(warehouse, made, made.name, "a")

    assert land.land(warehouse, made, DAYS[0], items()).counts.created == 1
    erasure.erase(warehouse, made, made.name, "a")
    assert shown(warehouse, "select 1 from staging.payloads") == []


def test_a_landing_under_way_that_gets_it_later_skips_it(warehouse: Warehouse, made: Source) -> None:
    Told(warehouse, made).land("a", {"models": [model(1)]})

    def items() -> Iterator[Item]:
        yield payload("b", {"models": [model(2)]})
        yield Checkpoint("", {})
        erasure.erase(warehouse, made, made.name, "a")
        yield payload("a", {"models": [model(3)]})

    run = land.land(warehouse, made, DAYS[0], items())
    assert (run.counts.fetched, run.counts.created, run.stats["skipped"]) == (1, 1, {"erased before": 1})
    assert shown(warehouse, "select body -> 'models' from staging.payloads") == [[model(2)]]


def test_lifted_while_a_landing_is_under_way_it_lands_with_the_next(warehouse: Warehouse, made: Source) -> None:
    told = Told(warehouse, made)
    told.land("a", {"models": [model(1)]})
    erasure.erase(warehouse, made, made.name, "a")

    def items() -> Iterator[Item]:
        yield payload("a", {"models": [model(1)]})
        yield Checkpoint("", {})
        assert erasure.lift(warehouse, made.name, "a")
        yield payload("b", {"models": [model(2)]})

    run = land.land(warehouse, made, DAYS[0], items())
    assert (run.counts.fetched, run.counts.created, run.stats["skipped"]) == (1, 1, {"erased before": 1})
    assert told.land("a", {"models": [model(1)]}).counts.created == 1
    told.transform()
    assert shown(warehouse, "select name from catalog.models order by 1") == ["model 1", "model 2"]


def test_paths_that_it_alone_had_are_forgotten(warehouse: Warehouse, made: Source) -> None:
    told = Told(warehouse, made)
    told.land("a", {"models": [model(1)]})
    told.land("b", {"models": [model(2)], "otter": 1, "geheimnis": {"4711": 1, "otter": [{"otter": 1}]}})
    told.land("c", {"models": [model(3)], "otter": 2})
    told.transform()
    paths = "select path from ops.schema_drift where path ~ 'geheimnis|otter' order by 1"
    said = "select distinct d ->> 'path' from ops.fetch_runs, jsonb_array_elements(stats -> 'drift') d order by 1"
    assert (
        shown(warehouse, paths)
        == [
            "geheimnis",
            "geheimnis.*",
            "geheimnis.otter",
            "geheimnis.otter[*]",
            "geheimnis.otter[*].otter",
            "otter",
        ]
        == shown(warehouse, said)
    )
    erasure.erase(warehouse, made, made.name, "b")
    assert shown(warehouse, paths) == shown(warehouse, said) == ["otter"]


MINE = "select path from ops.schema_drift where path ~ 'mustermann'"
SAID = "select stats -> 'drift' from ops.fetch_runs where stats::text ~ 'mustermann'"


@pytest.mark.parametrize("pruned", [False, True])
def test_a_path_of_several_versions_is_forgotten_with_them(warehouse: Warehouse, made: Source, pruned: bool) -> None:
    told = Told(warehouse, made)
    told.land("other", {"models": [model(1)]})
    for edition in range(2):
        told.land("mine", {"models": [model(2)], "edition": edition, "mustermann": 1})
        told.transform()
    if pruned:
        told.land("mine", {"models": [model(2)]})
        told.transform()
        retention.prune(warehouse, Policy(0, 0, 0))
    assert shown(warehouse, MINE) and shown(warehouse, SAID)
    erasure.erase(warehouse, made, made.name, "mine")
    assert shown(warehouse, MINE) == shown(warehouse, SAID) == []


def test_nothing_is_erased_while_a_copy_is_being_made(lived: Told, civitai: Source) -> None:
    """Of two that pass, as a diff makes them, neither it nor they wait."""
    (last,) = shown(lived.warehouse, "select fetch_run_id::text from ops.fetch_runs where kind = 'transform' limit 1")
    before = found(lived.warehouse, *SECRETS)
    with lived.warehouse.connect() as connection:
        moment = snapshots.moment(connection, last)
    copying = time_travel.as_of(lived.warehouse, "catalog", moment, schema="kept")
    with pytest.raises(AtlasError, match="is being made"), copying:
        erasure.erase(lived.warehouse, civitai, STREAM, WHO)
    assert found(lived.warehouse, *SECRETS) == before
    with time_travel.as_of(lived.warehouse, "catalog", moment), time_travel.as_of(lived.warehouse, "catalog", moment):
        erasure.erase(lived.warehouse, civitai, STREAM, WHO)
    assert found(lived.warehouse, *SECRETS) == []


def test_what_a_killed_rebuild_left_goes_before(lived: Told, civitai: Source) -> None:
    with lived.warehouse.connect() as connection:
        connection.execute(f"create schema {PASSING}1; create table {PASSING}1.models as table catalog.models".encode())
    erasure.erase(lived.warehouse, civitai, STREAM, WHO)
    assert shown(lived.warehouse, f"select nspname from pg_namespace where nspname ~ '^{PASSING}'") == []


def test_what_landed_again_is_not_said_to_be_erased(warehouse: Warehouse, made: Source) -> None:
    told = Told(warehouse, made)
    told.land("a", {"models": [model(1)]})
    erasure.erase(warehouse, made, made.name, "a")
    with warehouse.connect() as connection:
        assert erasure.count(connection, "catalog") == 1
        assert erasure.lift(warehouse, made.name, "a")
        assert erasure.count(connection, "catalog") == 0


def test_shared_rows_of_it_that_never_fitted_are_forgotten(warehouse: Warehouse, civitai: Source) -> None:
    told = Told(warehouse, civitai)
    for tag in ("mustermann" * 40, "x"):
        told.land("1", {"id": 1, "name": "heron", "type": "LORA", "tags": [tag]}, kind="models")
        told.transform()
    kept = "select closed_at is not null from staging.quarantine where row::text ~ 'mustermann'"
    assert shown(warehouse, kept)
    erasure.erase(warehouse, civitai, STREAM, "1")
    assert shown(warehouse, kept) == []


def test_what_a_kept_schema_holds_is_not_forgotten(lived: Told, civitai: Source) -> None:
    """Nothing is erased while somebody keeps the domain as it was."""
    warehouse = lived.warehouse
    before = found(warehouse, *SECRETS)
    with warehouse.connect() as connection:
        (last,) = shown(warehouse, "select fetch_run_id::text from ops.fetch_runs where kind = 'transform' limit 1")
        with time_travel.as_of(warehouse, "catalog", snapshots.moment(connection, last), schema="kept"):
            pass
        with pytest.raises(AtlasError, match=r'Drop them first: drop schema "kept" cascade;'):
            erasure.erase(warehouse, civitai, STREAM, WHO)
        assert set(before) <= set(found(warehouse, *SECRETS))
        connection.execute("drop schema kept cascade")
    erasure.erase(warehouse, civitai, STREAM, WHO)
    assert found(warehouse, *SECRETS) == []


def test_the_command_asks_first(lived: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", lived.warehouse.conninfo)
    atlas = CliRunner()
    refused = atlas.invoke(app, ["erase", STREAM, WHO], input="n\n")
    assert refused.exit_code == 1
    assert "for good (4 versions" in refused.output
    assert "Nothing is erased. To erase without being asked: --yes." in str(refused.exception)
    unasked = atlas.invoke(app, ["erase", STREAM, WHO])
    assert "Nothing is erased." in str(unasked.exception)
    assert found(lived.warehouse, "mustermann")
    erased = atlas.invoke(app, ["erase", STREAM, WHO, "--yes"])
    assert erased.exit_code == 0, erased.output
    assert "4 versions" in erased.output
    assert found(lived.warehouse, "mustermann") == []
    checked = atlas.invoke(app, ["rebuild", "catalog", "--check"])
    assert checked.exit_code == 0
    assert "1 records were erased" in checked.output
    pruned = atlas.invoke(app, ["prune", "--dry-run", "--json", "--quarantine-days", "0"])
    assert json.loads(pruned.stdout)["dry_run"]
    assert atlas.invoke(app, ["erase", STREAM, WHO, "--lift"]).exit_code == 0


def test_nothing_to_erase_is_said(warehouse: Warehouse, made: Source) -> None:
    with pytest.raises(AtlasError, match="Nothing is held of a record 'a'"):
        erasure.erase(warehouse, made, made.name, "a")
    assert shown(warehouse, "select 1 from staging.erasures") == []
