"""The catalogue as its document promises it: tables, indexes, constraints, upserts, jsonb, shared tags, views.

What is promised is written out here, from the document and not from `assets/catalog/tables.py`, and asked of Postgres.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import partial
from typing import Any
from uuid import NAMESPACE_OID, UUID, uuid5

import psycopg
import pytest
from psycopg import sql
from psycopg.errors import CheckViolation, ForeignKeyViolation, UniqueViolation
from psycopg.types.json import Jsonb
from sqlalchemy import make_url

from pipelines import project
from pipelines.ledger import Run
from pipelines.schema import migrate
from pipelines.source import Payload
from pipelines.warehouse.database import Connection, Warehouse
from tests.runs import land_items, transform

DAY, NEXT_DAY = "2026-11-01", "2026-11-02"
AUDIT = ("created_at", "updated_at")

Json = dict[str, Any]
Row = dict[str, object]
MakeWarehouse = Callable[[], Warehouse]

COLUMNS = {
    "ops.sources": "source_id name kind base_url is_active created_at",
    "ops.fetch_runs": "fetch_run_id source_id stream kind partition_key status started_at ended_at fetched created "
    "updated unchanged deleted quarantined duplicates stats error_text",
    "catalog.models": "model_id source_id external_id name type description nsfw_rating raw created_at updated_at",
    "catalog.model_versions": "model_version_id model_id external_id version_label published_at checksum metadata "
    "created_at",
    "catalog.tags": "tag_id source_id name normalized_name category created_at",
    "catalog.tag_definitions": "tag_definition_id source_id tag_id external_id name category created_at",
    "catalog.model_tags": "model_id tag_id",
    "catalog.model_stats": "model_id observed_at downloads likes rating",
    "catalog.artifacts": "artifact_id model_version_id external_id kind file_name size_bytes sha256 url metadata "
    "created_at",
    "catalog.images": "image_id model_id model_version_id source_id external_id sha256 md5 preview_url url width "
    "height rating metadata created_at updated_at",
    "catalog.image_tags": "image_id tag_id spelling category",
    "catalog.workflows": "workflow_id source_id external_id title graph nodes_count created_at updated_at",
    "catalog.prompts": "prompt_id model_id model_version_id workflow_id image_id source_id text negative_text metadata "
    "created_at",
}

INDEXES = {
    "ops.sources": ["unique btree (name)"],
    "ops.fetch_runs": ["btree (source_id)", "btree (status)", "btree (started_at)"],
    "catalog.models": [
        "unique btree (source_id, external_id)",
        "btree (source_id)",
        "btree (type)",
        "btree (created_at)",
        "gin (raw jsonb_path_ops)",
    ],
    "catalog.model_versions": ["unique btree (model_id, version_label)", "btree (model_id)"],
    "catalog.tags": ["unique btree (normalized_name, source_id) nulls not distinct", "btree (normalized_name)"],
    "catalog.model_tags": ["unique btree (model_id, tag_id)", "btree (model_id)", "btree (tag_id)"],
    "catalog.model_stats": ["unique btree (model_id, observed_at)"],
    "catalog.artifacts": ["btree (model_version_id)", "hash (sha256)"],
    "catalog.images": [
        "unique btree (source_id, external_id)",
        "btree (model_id)",
        "btree (model_version_id)",
        "hash (sha256)",
    ],
    "catalog.image_tags": ["unique btree (image_id, tag_id)", "btree (image_id)", "btree (tag_id)"],
    "catalog.workflows": ["unique btree (source_id, external_id)", "btree (source_id)", "gin (graph jsonb_path_ops)"],
    "catalog.prompts": [
        "btree (model_id)",
        "btree (model_version_id)",
        "btree (workflow_id)",
        "btree (image_id)",
        "btree (source_id)",
    ],
}

LOOKUPS = {
    "models_type_idx": "select from catalog.models where type = 'LORA'",
    "models_created_at_idx": "select from catalog.models where created_at > '2026-11-01'",
    "models_raw_idx": """select from catalog.models where raw @> '{"creator": {"username": "mira"}}'""",
    "workflows_graph_idx": """select from catalog.workflows where graph @? '$.nodes[*] ? (@.type == "KSampler")'""",
    "artifacts_sha256_idx": "select from catalog.artifacts where sha256 = 'ab'",
    "images_sha256_idx": "select from catalog.images where sha256 = 'ab'",
    "tags_normalized_name_": "select from catalog.tags where normalized_name = 'harbour'",
    "fetch_runs_status_idx": "select from ops.fetch_runs where status = 'failed'",
}

UNIQUE: dict[str, tuple[str, ...]] = {
    "ops.sources": ("name",),
    "catalog.models": ("source_id", "external_id"),
    "catalog.model_versions": ("model_id", "version_label"),
    "catalog.tags": ("normalized_name", "source_id"),
    "catalog.images": ("source_id", "external_id"),
    "catalog.workflows": ("source_id", "external_id"),
}
COMPOSITE_KEYS: dict[str, tuple[str, ...]] = {
    "catalog.model_tags": ("model_id", "tag_id"),
    "catalog.image_tags": ("image_id", "tag_id"),
    "catalog.model_stats": ("model_id", "observed_at"),
}

RATINGS = ("Safe", "Questionable", "Explicit", "Unknown")
MODEL_TYPES = (
    *("Checkpoint", "TextualInversion", "Hypernetwork", "AestheticGradient", "LORA"),
    *("Controlnet", "Poses", "VAE", "LLM", "Other"),
)
ENUMERATIONS = {
    ("catalog.models", "type"): MODEL_TYPES,
    ("catalog.models", "nsfw_rating"): RATINGS,
    ("catalog.images", "rating"): RATINGS,
    ("catalog.artifacts", "kind"): ("Model", "Config", "TrainingData", "Pruned", "VAE", "Other"),
    ("ops.fetch_runs", "kind"): ("land", "transform"),
}
STATUSES = {"pending": False, "in_progress": False, "completed": True, "failed": True, "partial_success": True}
"""Whether a run of each has ended."""

LENGTHS = {
    ("ops.sources", "name"): 255,
    ("ops.sources", "base_url"): 500,
    ("catalog.models", "external_id"): 255,
    ("catalog.models", "name"): 500,
    ("catalog.model_versions", "version_label"): 255,
    ("catalog.tags", "name"): 255,
    ("catalog.tags", "normalized_name"): 255,
    ("catalog.tag_definitions", "external_id"): 255,
    ("catalog.tag_definitions", "name"): 255,
    ("catalog.artifacts", "file_name"): 500,
    ("catalog.artifacts", "url"): 1000,
    ("catalog.images", "external_id"): 255,
    ("catalog.workflows", "external_id"): 255,
    ("catalog.workflows", "title"): 500,
}
SHA256 = "0123456789abcdef" * 4
NO_SHA256 = (SHA256.upper(), SHA256[1:], SHA256 + "0", SHA256[1:] + "g", SHA256 + "\n", "")
FORMS: dict[tuple[str, str], tuple[object, Sequence[object]]] = {
    ("catalog.artifacts", "sha256"): (SHA256, NO_SHA256),
    ("catalog.images", "sha256"): (SHA256, NO_SHA256),
    ("catalog.images", "md5"): (SHA256[:32], (SHA256[:32].upper(), SHA256[:31], SHA256)),
    ("catalog.images", "width"): (1, (0, -1)),
    ("catalog.images", "height"): (1, (0, -1)),
    ("catalog.artifacts", "size_bytes"): (2**62, (-1,)),
    ("catalog.workflows", "nodes_count"): (0, (-1,)),
}
"""What fits a column, and what does not."""

REFERENCES = {
    ("ops.fetch_runs", "source_id"): ("ops.sources", "refuse"),
    ("catalog.models", "source_id"): ("ops.sources", "refuse"),
    ("catalog.tags", "source_id"): ("ops.sources", "refuse"),
    ("catalog.images", "source_id"): ("ops.sources", "refuse"),
    ("catalog.workflows", "source_id"): ("ops.sources", "refuse"),
    ("catalog.prompts", "source_id"): ("ops.sources", "refuse"),
    ("catalog.model_versions", "model_id"): ("catalog.models", "cascade"),
    ("catalog.model_tags", "model_id"): ("catalog.models", "cascade"),
    ("catalog.model_tags", "tag_id"): ("catalog.tags", "cascade"),
    ("catalog.tag_definitions", "source_id"): ("ops.sources", "refuse"),
    ("catalog.tag_definitions", "tag_id"): ("catalog.tags", "cascade"),
    ("catalog.model_stats", "model_id"): ("catalog.models", "cascade"),
    ("catalog.artifacts", "model_version_id"): ("catalog.model_versions", "cascade"),
    ("catalog.image_tags", "image_id"): ("catalog.images", "cascade"),
    ("catalog.image_tags", "tag_id"): ("catalog.tags", "cascade"),
    ("catalog.images", "model_id"): ("catalog.models", "set null"),
    ("catalog.images", "model_version_id"): ("catalog.model_versions", "set null"),
    ("catalog.prompts", "model_id"): ("catalog.models", "set null"),
    ("catalog.prompts", "model_version_id"): ("catalog.model_versions", "set null"),
    ("catalog.prompts", "workflow_id"): ("catalog.workflows", "set null"),
    ("catalog.prompts", "image_id"): ("catalog.images", "set null"),
}

DELETIONS: dict[str, tuple[set[str], set[str]]] = {
    "catalog.models": (
        {"catalog.model_versions", "catalog.model_tags", "catalog.model_stats", "catalog.artifacts"},
        {
            "catalog.images.model_id",
            "catalog.images.model_version_id",
            "catalog.prompts.model_id",
            "catalog.prompts.model_version_id",
        },
    ),
    "catalog.model_versions": (
        {"catalog.artifacts"},
        {"catalog.images.model_version_id", "catalog.prompts.model_version_id"},
    ),
    "catalog.tags": ({"catalog.tag_definitions", "catalog.model_tags", "catalog.image_tags"}, set()),
    "catalog.images": ({"catalog.image_tags"}, {"catalog.prompts.image_id"}),
    "catalog.workflows": (set(), {"catalog.prompts.workflow_id"}),
}
"""Which rows go with a row, and which references become null."""


# Rows by hand, on a connection that takes them back


def key(table: str, name: str) -> UUID:
    return uuid5(NAMESPACE_OID, f"{table} {name}")


def family(name: str) -> dict[str, Row]:
    """One row of each table, parents first, that refer to each other; the first column finds a row."""
    source, model, version, tag, image, workflow, record = (
        key(table, name) for table in ("source", "model", "version", "tag", "image", "workflow", "record")
    )
    mine = {"external_id": name, "record_id": record}
    return {
        "ops.sources": {"source_id": source, "name": f"made/{name}", "kind": "http"},
        "ops.fetch_runs": {
            "fetch_run_id": key("run", name),
            "source_id": source,
            "stream": f"made/{name}",
            "kind": "land",
            "asset_key": f"made/{name}",
            "partition_key": DAY,
            "status": "pending",
            "code_version": "1",
        },
        "catalog.models": {
            "model_id": model,
            "source_id": source,
            "name": name,
            "type": "LORA",
            "nsfw_rating": "Safe",
            "raw": Jsonb({}),
            **mine,
        },
        "catalog.model_versions": {"model_version_id": version, "model_id": model, "version_label": name, **mine},
        "catalog.tags": {"tag_id": tag, "source_id": source, "name": name, "normalized_name": name},
        "catalog.tag_definitions": {
            "tag_definition_id": key("tag definition", name),
            "source_id": source,
            "tag_id": tag,
            "name": name,
            **mine,
        },
        "catalog.model_tags": {"model_id": model, "tag_id": tag, "record_id": record},
        "catalog.model_stats": {
            "model_id": model,
            "observed_at": datetime.fromtimestamp(key("time", name).time_low, UTC),
            "record_id": record,
        },
        "catalog.artifacts": {
            "artifact_id": key("artifact", name),
            "model_version_id": version,
            "kind": "Model",
            "file_name": name,
            **mine,
        },
        "catalog.images": {
            "image_id": image,
            "source_id": source,
            "model_id": model,
            "model_version_id": version,
            "rating": "Safe",
            **mine,
        },
        "catalog.image_tags": {"image_id": image, "tag_id": tag, "record_id": record},
        "catalog.workflows": {
            "workflow_id": workflow,
            "source_id": source,
            "graph": Jsonb({}),
            "nodes_count": 0,
            **mine,
        },
        "catalog.prompts": {
            "prompt_id": key("prompt", name),
            "source_id": source,
            "model_id": model,
            "model_version_id": version,
            "workflow_id": workflow,
            "image_id": image,
            "text": name,
            "record_id": record,
        },
    }


def named(table: str) -> sql.Identifier:
    return sql.Identifier(*table.split("."))


def put(connection: Connection, table: str, row: Row) -> None:
    statement = sql.SQL("insert into {} ({}) values ({})").format(
        named(table),
        sql.SQL(", ").join(map(sql.Identifier, row)),
        sql.SQL(", ").join(sql.Placeholder() * len(row)),
    )
    connection.execute(statement, list(row.values()))


def put_family(connection: Connection, name: str, **columns: object) -> dict[str, Row]:
    """A family whose columns of these names have other values; the rows."""
    rows = {
        table: {column: columns.get(column, value) for column, value in row.items()}
        for table, row in family(name).items()
    }
    for table, row in rows.items():
        put(connection, table, row)
    return rows


def change(connection: Connection, table: str, row: Row, **columns: object) -> None:
    """Sets columns of one row."""
    found_by = next(iter(row))
    statement = sql.SQL("update {} set {} where {} = {}").format(
        named(table),
        sql.SQL(", ").join(sql.SQL("{} = {}").format(sql.Identifier(column), sql.Placeholder()) for column in columns),
        sql.Identifier(found_by),
        sql.Placeholder(),
    )
    assert connection.execute(statement, [*columns.values(), row[found_by]]).rowcount == 1


def delete(connection: Connection, table: str, row: Row) -> None:
    found_by = next(iter(row))
    statement = sql.SQL("delete from {} where {} = %s").format(named(table), sql.Identifier(found_by))
    assert connection.execute(statement, [row[found_by]]).rowcount == 1


def stored(connection: Connection, rows: Mapping[str, Row]) -> dict[str, Row | None]:
    """A family as the tables have it now."""
    return {
        table: connection.execute(
            sql.SQL("select * from {} where {} = %s").format(named(table), sql.Identifier(next(iter(row)))),
            [next(iter(row.values()))],
        ).fetchone()
        for table, row in rows.items()
    }


def refused(connection: Connection, kind: type[psycopg.IntegrityError], act: Callable[[], object]) -> str | None:
    """The constraint that refuses an act; the transaction goes on."""
    with pytest.raises(kind) as caught, connection.transaction():
        act()
    return caught.value.diag.constraint_name


@pytest.fixture(scope="module")
def ground(new_warehouse: MakeWarehouse) -> Warehouse:
    """A warehouse whose tables stay empty."""
    return new_warehouse()


@pytest.fixture
def connection(ground: Warehouse) -> Iterator[Connection]:
    """A connection in a transaction that is taken back."""
    with ground.connect() as connection, connection.transaction(force_rollback=True):
        yield connection


# Tables and indexes


def tables_of(connection: Connection) -> dict[str, dict[str, str]]:
    """Type by column of each table."""
    found: dict[str, dict[str, str]] = {}
    for row in connection.execute(
        """
        select table_schema || '.' || table_name as name, column_name, data_type
        from information_schema.columns join information_schema.tables using (table_schema, table_name)
        where table_schema in ('ops', 'catalog') and table_type = 'BASE TABLE'
        """
    ):
        found.setdefault(row["name"], {})[row["column_name"]] = row["data_type"]
    return found


def test_migrations_make_every_table_from_nothing_and_are_then_done(
    empty_database: Callable[[], Warehouse],
) -> None:
    fresh = empty_database()
    with fresh.connect() as connection:
        assert tables_of(connection) == {}
        applied = migrate.migrate(fresh, project.objects())
        assert applied == migrate.everything(project.objects())
        assert migrate.current(fresh) == migrate.head()
        assert tables_of(connection).keys() >= COLUMNS.keys()
    assert migrate.pending(fresh, project.objects()) == []


@pytest.mark.parametrize("table", COLUMNS)
def test_a_table_has_its_columns(connection: Connection, table: str) -> None:
    assert set(COLUMNS[table].split()) - tables_of(connection)[table].keys() == set()


def test_every_time_has_its_zone_and_every_document_is_jsonb(connection: Connection) -> None:
    columns = [column for columns in tables_of(connection).values() for column in columns.items()]
    assert {kind for name, kind in columns if name.endswith("_at")} == {"timestamp with time zone"}
    assert {kind for name, kind in columns if name in {"raw", "metadata", "graph", "stats"}} == {"jsonb"}


@pytest.mark.parametrize("table", INDEXES)
def test_a_table_has_its_indexes(connection: Connection, table: str) -> None:
    found = connection.execute(
        """
        select x.indexdef as definition from pg_indexes as x
        join pg_index as i on i.indexrelid = format('%%I.%%I', x.schemaname, x.indexname)::regclass
        where x.schemaname || '.' || x.tablename = %s and i.indisvalid and i.indpred is null
        """,
        [table],
    )
    definitions = {
        ("unique " if "CREATE UNIQUE" in row["definition"] else "")
        + row["definition"].partition(" USING ")[2].replace("NULLS NOT DISTINCT", "nulls not distinct")
        for row in found
    }
    assert set(INDEXES[table]) - definitions == set()


def test_every_reference_leads_a_btree(connection: Connection) -> None:
    bare = connection.execute(
        """
        select c.conrelid::regclass::text as name, c.conname
        from pg_constraint as c
        where c.contype = 'f' and c.conrelid::regclass::text ~ '^(catalog[.]|ops.fetch_runs)' and not exists (
            select from pg_index as i
            join pg_class as x on x.oid = i.indexrelid
            join pg_am as a on a.oid = x.relam
            where i.indrelid = c.conrelid and a.amname = 'btree' and i.indkey[0] = c.conkey[1] and i.indpred is null
        )
        """
    ).fetchall()
    assert bare == []


@pytest.mark.parametrize("index", LOOKUPS)
def test_a_lookup_goes_by_its_index(connection: Connection, index: str) -> None:
    connection.execute("set local enable_seqscan = off")
    plan = connection.execute(f"explain {LOOKUPS[index]}".encode()).fetchall()
    assert index in str(plan)


# Unique constraints


@pytest.mark.parametrize("table", UNIQUE | COMPOSITE_KEYS)
def test_a_second_row_is_refused_and_one_that_differs_in_a_column_is_not(connection: Connection, table: str) -> None:
    columns = (UNIQUE | COMPOSITE_KEYS)[table]
    one, two = put_family(connection, "one"), family("other")
    for parent in list(two)[: list(two).index(table)]:
        put(connection, parent, two[parent])
    same = {column: one[table][column] for column in columns}
    name = table.split(".")[1]
    constraint = f"{name}_{'_'.join(columns)}_key" if table in UNIQUE else f"{name}_pkey"
    assert refused(connection, UniqueViolation, lambda: put(connection, table, two[table] | same)) == constraint
    for column in columns:
        with connection.transaction(force_rollback=True):
            put(connection, table, two[table] | same | {column: two[table][column]})


def test_of_tags_without_a_source_there_is_one_a_name(connection: Connection) -> None:
    tag = put_family(connection, "one")["catalog.tags"]
    without: Row = {"source_id": None, "name": "one", "normalized_name": tag["normalized_name"]}
    put(connection, "catalog.tags", {"tag_id": key("tag", "without"), **without})
    another = {"tag_id": key("tag", "without too"), **without}
    constraint = refused(connection, UniqueViolation, lambda: put(connection, "catalog.tags", another))
    assert constraint == "tags_normalized_name_source_id_key"


# Checks


@pytest.mark.parametrize(("table", "column"), ENUMERATIONS)
def test_an_enumerated_column_takes_its_values_and_no_other(connection: Connection, table: str, column: str) -> None:
    row = put_family(connection, "one")[table]
    values = ENUMERATIONS[table, column]
    for value in values:
        change(connection, table, row, **{column: value})
    for other in ("", "Other!", values[0].swapcase(), f" {values[0]}"):
        constraint = refused(connection, CheckViolation, partial(change, connection, table, row, **{column: other}))
        assert constraint == f"{table.split('.')[1]}_{column}_check"


def test_a_run_has_one_of_five_statuses_and_has_ended_or_not_as_it_says(connection: Connection) -> None:
    row = put_family(connection, "one")["ops.fetch_runs"]
    now = datetime.now(UTC)
    for status, ended in STATUSES.items():
        change(connection, "ops.fetch_runs", row, status=status, ended_at=now if ended else None)
        wrong = partial(change, connection, "ops.fetch_runs", row, status=status, ended_at=None if ended else now)
        assert refused(connection, CheckViolation, wrong) == "fetch_runs_ended_check"
    other = partial(change, connection, "ops.fetch_runs", row, status="done", ended_at=now)
    assert refused(connection, CheckViolation, other) == "fetch_runs_status_check"


def test_the_counts_of_a_run_add_up(connection: Connection) -> None:
    row = put_family(connection, "one")["ops.fetch_runs"]
    parts = ("created", "updated", "unchanged", "quarantined", "duplicates")
    change(connection, "ops.fetch_runs", row, fetched=15, deleted=9, **{part: 3 for part in parts})
    for count in ("fetched", *parts):
        wrong = partial(change, connection, "ops.fetch_runs", row, **{count: 4})
        assert refused(connection, CheckViolation, wrong) == "fetch_runs_conservation_check"


@pytest.mark.parametrize(("table", "column"), LENGTHS)
def test_a_text_has_a_greatest_length_in_characters(connection: Connection, table: str, column: str) -> None:
    row, length = put_family(connection, "one")[table], LENGTHS[table, column]
    change(connection, table, row, **{column: "🚂" * length})
    for longer in ("x" * (length + 1), "x" * length + " "):
        constraint = refused(connection, CheckViolation, partial(change, connection, table, row, **{column: longer}))
        assert constraint == f"{table.split('.')[1]}_{column}_check"


@pytest.mark.parametrize(("table", "column"), FORMS)
def test_a_value_has_its_form(connection: Connection, table: str, column: str) -> None:
    row, (fits, others) = put_family(connection, "one")[table], FORMS[table, column]
    change(connection, table, row, **{column: fits})
    for other in others:
        constraint = refused(connection, CheckViolation, partial(change, connection, table, row, **{column: other}))
        assert constraint == f"{table.split('.')[1]}_{column}_check"


# References


def test_every_reference_is_declared_with_what_becomes_of_it(connection: Connection) -> None:
    found = connection.execute(
        """
        select
            c.conrelid::regclass::text as child,
            a.attname as reference,
            c.confrelid::regclass::text as parent,
            case c.confdeltype when 'a' then 'refuse' when 'c' then 'cascade' when 'n' then 'set null' end as action
        from pg_constraint as c
        join pg_attribute as a on a.attrelid = c.conrelid and a.attnum = c.conkey[1]
        where c.contype = 'f' and c.conrelid::regclass::text ~ '^(catalog[.]|ops[.]fetch_runs)'
        """
    )
    assert {(row["child"], row["reference"]): (row["parent"], row["action"]) for row in found} == REFERENCES


@pytest.mark.parametrize(("table", "column"), REFERENCES)
def test_a_reference_to_nothing_is_refused(connection: Connection, table: str, column: str) -> None:
    row = put_family(connection, "one")[table]
    constraint = refused(
        connection, ForeignKeyViolation, lambda: change(connection, table, row, **{column: key("nobody", "nowhere")})
    )
    assert constraint == f"{table.split('.')[1]}_{column}_fkey"


@pytest.mark.parametrize("table", DELETIONS)
def test_what_belongs_to_a_row_goes_with_it_and_what_mentions_it_forgets_it(connection: Connection, table: str) -> None:
    mine, others = put_family(connection, "one"), put_family(connection, "other")
    before, others_before = stored(connection, mine), stored(connection, others)
    delete(connection, table, mine[table])
    after = stored(connection, mine)
    gone = {name for name, row in after.items() if row is None}
    forgotten = {
        f"{name}.{column}"
        for name, row in after.items()
        for column, value in (row or {}).items()
        if value != (before[name] or {})[column]
    }
    assert (gone, forgotten) == (DELETIONS[table][0] | {table}, DELETIONS[table][1])
    assert all((after[name] or {})[column] is None for name, _, column in (path.rpartition(".") for path in forgotten))
    assert stored(connection, others) == others_before


def test_a_source_that_something_is_from_cannot_be_deleted(connection: Connection) -> None:
    source = put_family(connection, "one")["ops.sources"]
    assert refused(connection, ForeignKeyViolation, lambda: delete(connection, "ops.sources", source))


# Upserts, through the engine


def a_file(number: int, content: int | None = None, **more: Any) -> Json:
    digest = f"{number if content is None else content:064X}"
    return {
        "id": number,
        "name": f"{number}.safetensors",
        "type": "Model",
        "sizeKB": 1.5,
        "hashes": {"SHA256": digest},
    } | more


def an_image(number: int, **more: Any) -> Json:
    return {"id": number, "url": f"https://i/{number}.png", "width": 8, "height": 8} | more


def a_model(number: int, **more: Any) -> Json:
    """A model of CivitAI with one of everything."""
    image = an_image(number * 100, nsfwLevel=1, meta={"prompt": f"a harbour {number}", "steps": 30})
    version = {"id": number * 10, "name": "v1", "files": [a_file(number * 100)], "images": [image]}
    return {
        "id": number,
        "name": f"Harbour {number}",
        "type": "LORA",
        "nsfw": False,
        "stats": {"downloadCount": number},
        "tags": ["Long Hair", f"only {number}"],
        "modelVersions": [version],
    } | more


def shared_files() -> Json:
    """A model with one file twice in a version, and again in another."""
    versions = [
        {"id": 31, "name": "v1", "files": [a_file(310, content=7), a_file(311, content=7), a_file(312)]},
        {"id": 32, "name": "v2", "files": [a_file(320, content=7)]},
    ]
    return a_model(3, modelVersions=versions)


def a_payload(kind: str, body: Json) -> Payload:
    return Payload(json.dumps(body).encode(), "x", external_id=str(body.get("id", "graph.json")), kind=kind)


FULLWIDTH_L = "\N{FULLWIDTH LATIN CAPITAL LETTER L}"
GRAPH = {
    "nodes": [
        {"id": 1, "type": "CLIPTextEncode", "widgets_values": ["a quiet harbour"], "inputs": [], "outputs": []},
        {"id": 2, "type": "KSampler", "widgets_values": [], "inputs": [], "outputs": []},
    ],
    "links": [],
}
PAYLOADS = {
    "catalog/civitai": [
        a_payload("models", a_model(1)),
        a_payload("models", a_model(2, tags=["long_hair", " LONG \t Hair ", f"{FULLWIDTH_L}ong__hair"], nsfw=True)),
        a_payload("models", shared_files()),
        a_payload("images", an_image(900, browsingLevel=16, meta={"prompt": "fog", "negativePrompt": "people"})),
    ],
    "catalog/danbooru": [
        a_payload(
            "posts", {"id": 5, "rating": "q", "tag_string": "long_hair 1girl", "tag_string_general": "long_hair"}
        ),
        a_payload("tags", {"id": 6, "name": "long_hair", "category": 0}),
    ],
    "catalog/huggingface": [
        a_payload(
            "", {"id": "me/harbour", "sha": "c0ffee", "tags": ["LONG   hair"], "siblings": [{"rfilename": "a.bin"}]}
        ),
    ],
    "catalog/comfyui": [a_payload("", GRAPH)],
}


def take(warehouse: Warehouse, source: str, payloads: Sequence[Payload], day: str = DAY) -> tuple[Run, Run]:
    """Lands and transforms."""
    landed = land_items(warehouse, project.sources()[source], day, payloads)
    return landed, transform(warehouse, project.sources()[source], day)


def contents(warehouse: Warehouse, *, without: Sequence[str] = ()) -> dict[str, list[str]]:
    """Every row of the catalogue as text, less some columns."""
    with warehouse.connect() as connection:
        return {
            table: [
                row["row"]
                for row in connection.execute(
                    sql.SQL("select (to_jsonb(t) - %s::text[])::text as row from {} as t order by 1").format(
                        named(table)
                    ),
                    [list(without)],
                )
            ]
            for table in COLUMNS
            if table.startswith("catalog.")
        }


def rows(warehouse: Warehouse, query: str) -> list[Json]:
    with warehouse.connect() as connection:
        return connection.execute(query.encode()).fetchall()


@pytest.fixture(scope="module")
def catalogue(new_warehouse: MakeWarehouse) -> Warehouse:
    """A warehouse with the payloads of all sources; tests leave its rows as they are."""
    made = new_warehouse()
    for source, payloads in PAYLOADS.items():
        assert {run.status for run in take(made, source, payloads)} == {"completed"}
    return made


def test_every_table_has_rows_of_these_payloads(catalogue: Warehouse) -> None:
    assert [table for table, found in contents(catalogue).items() if not found] == []


@pytest.mark.parametrize("source", PAYLOADS)
def test_the_same_payloads_again_leave_every_row_as_it_is(catalogue: Warehouse, source: str) -> None:
    before = contents(catalogue)
    for day in (DAY, NEXT_DAY):
        landed, transformed = take(catalogue, source, PAYLOADS[source], day)
        assert landed.counts.unchanged == landed.counts.fetched == len(PAYLOADS[source])
        counts = transformed.counts
        assert (counts.created, counts.updated, counts.deleted, counts.quarantined) == (0, 0, 0, 0)
    assert contents(catalogue) == before


def test_the_same_payloads_are_the_same_rows_in_another_warehouse_and_order(
    catalogue: Warehouse, warehouse: Warehouse
) -> None:
    for source, payloads in reversed(PAYLOADS.items()):
        take(warehouse, source, payloads[::-1])
    times = (*AUDIT, "observed_at")
    assert contents(warehouse, without=times) == contents(catalogue, without=times)


def test_a_payload_that_changed_updates_its_row_and_no_other(warehouse: Warehouse) -> None:
    query = "select * from catalog.models order by external_id"
    take(warehouse, "catalog/civitai", [a_payload("models", a_model(number)) for number in (1, 2)])
    one, two = rows(warehouse, query)
    changed = a_model(2, name="Harbour, mended", description="new")
    _, run = take(warehouse, "catalog/civitai", [a_payload("models", body) for body in (a_model(1), changed)])
    one_later, two_later = rows(warehouse, query)
    assert one_later == one
    assert {column for column in two if two[column] != two_later[column]} == {
        "name",
        "description",
        "raw",
        "updated_at",
    }
    assert two_later["updated_at"] > two["updated_at"]
    assert (run.counts.created, run.counts.updated, run.counts.deleted) == (0, 1, 0)


def test_a_file_twice_in_a_version_is_one_artifact_and_in_two_versions_it_is_found_by_its_sha256(
    catalogue: Warehouse,
) -> None:
    found = rows(
        catalogue,
        f"""
        select v.external_id as version, a.external_id as file
        from catalog.artifacts as a join catalog.model_versions as v using (model_version_id)
        where a.sha256 = '{7:064x}' order by 1, 2
        """,
    )
    assert [(row["version"], row["file"]) for row in found] == [("31", "310"), ("32", "320")]


def test_a_hundred_and_fifty_models_are_in_the_tables_within_ten_seconds(warehouse: Warehouse) -> None:
    number = 150
    payloads = [Payload(json.dumps(a_model(each)).encode(), "x", kind="models") for each in range(1, number + 1)]
    began = time.perf_counter()
    _, run = take(warehouse, "catalog/civitai", payloads)
    took = time.perf_counter() - began
    sizes = {table.removeprefix("catalog."): len(found) for table, found in contents(warehouse).items() if found}
    alone = ("models", "model_versions", "model_stats", "artifacts", "images", "prompts")
    assert sizes == dict.fromkeys(alone, number) | {"tags": number + 1, "model_tags": number * 2}
    assert run.status == "completed"
    assert took < 10


# Documents as jsonb

VALUES = {
    "characters of all planes": r'"Паровоз 🚂 \u00e9 e\u0301 \ud83d\ude00 \u200f"',
    "escapes": r'"\" \\ \/ \b \f \n \r \t \u0001 \\u0000"',
    "an integer that no float holds": "123456789012345678901234567890",
    "a fraction that no float holds": "0.1000000000000000000000000000000000001",
    "beyond the range of floats": "[1e400, -1e400, 1e-400]",
    "nested": '{"a": [' * 60 + "1.5" + "]}" * 60,
    "empty": '{"object": {}, "array": [], "text": "", "": 0}',
    "null": "null",
    "nulls": '[null, {"a": null}, [null]]',
    "true and false": "[true, false]",
    "long": json.dumps([str(key("word", str(number))) for number in range(5_000)]),
}
EXTRA = "@extra@"
decode = partial(json.loads, parse_float=Decimal)


def less(document: Json, *names: str) -> Json:
    return {name: value for name, value in document.items() if name not in names}


def with_extra(document: Json, value: str) -> bytes:
    """A document as bytes in which a value, as it is written, stands for each EXTRA."""
    return json.dumps(document).replace(json.dumps(EXTRA), value).encode()


def extra_model(number: int, value: str) -> bytes:
    extra: Json = {"extra": EXTRA}
    image = an_image(number, meta={"prompt": "a harbour", **extra}, **extra)
    version = {"id": number, "name": "v1", "files": [a_file(number, **extra)], "images": [image], **extra}
    return with_extra(a_model(number, modelVersions=[version], description=None, **extra), value)


def parts(model: Json) -> dict[str, Json]:
    """What of a model each table keeps as a document: all that is in no column and no row of its own."""
    (version,) = model["modelVersions"]
    (file,), (image,) = version["files"], version["images"]
    return {
        "models.raw": less(model, "stats", "tags", "modelVersions"),
        "model_versions.metadata": less(version, "files", "images"),
        "artifacts.metadata": less(file, "id", "name", "type", "sizeKB") | {"hashes": {}},
        "images.metadata": less(image, "id", "url", "width", "height"),
        "prompts.metadata": less(image["meta"], "prompt"),
    }


@pytest.fixture(scope="module")
def documents(new_warehouse: MakeWarehouse) -> Warehouse:
    """A warehouse with a model and a graph of each value."""
    made = new_warehouse()
    models = [
        Payload(extra_model(number, value), "x", kind="models") for number, value in enumerate(VALUES.values(), start=1)
    ]
    graphs = [Payload(with_extra(GRAPH | {"extra": EXTRA}, value), "x", name) for name, value in VALUES.items()]
    for source, payloads in (("catalog/civitai", models), ("catalog/comfyui", graphs)):
        assert {run.status for run in take(made, source, payloads)} == {"completed"}
    return made


def told(warehouse: Warehouse, stream: str, table: str, column: str) -> dict[str, object]:
    """A document that each record of a stream made, by the record's external id."""
    query = f"""
        select v.external_id, t.{column}::text as document
        from catalog.{table} as t join staging.versions as v using (record_id)
        where v.stream = '{stream}'
    """
    return {row["external_id"]: decode(row["document"]) for row in rows(warehouse, query)}


@pytest.mark.parametrize("place", parts(a_model(1)))
def test_a_part_of_a_model_comes_back_as_the_value_that_was_sent(documents: Warehouse, place: str) -> None:
    sent = [decode(extra_model(number, value)) for number, value in enumerate(VALUES.values(), start=1)]
    assert all("extra" in parts(model)[place] for model in sent)
    assert told(documents, "catalog/civitai.models", *place.split(".")) == {
        str(model["id"]): parts(model)[place] for model in sent
    }


def test_a_graph_comes_back_as_the_value_that_was_sent(documents: Warehouse) -> None:
    sent = {name: GRAPH | {"extra": decode(value)} for name, value in VALUES.items()}
    assert told(documents, "catalog/comfyui", "workflows", "graph") == sent


def test_a_null_is_a_null_in_its_column_and_in_the_document(documents: Warehouse) -> None:
    found = rows(documents, "select distinct description, raw -> 'description' = 'null' as said from catalog.models")
    assert found == [{"description": None, "said": True}]


# Tags of several sources

SPELLINGS = {
    "long_hair": [
        "Long Hair",
        "long_hair",
        "LONG   hair",
        "__long_ _hair__",
        " \t\nlong\u00a0hair\u3000",
        f"{FULLWIDTH_L}ong hair",
    ],
    "école": ["École", "ÉCOLE", "E\u0301cole", "e\u0301cole "],
    "film_viii": ["\N{LATIN SMALL LIGATURE FI}lm \N{ROMAN NUMERAL EIGHT}"],
    "паровоз": ["Паровоз", "ПАРОВОЗ"],
    "sci-fi_(2.0)": ["Sci-Fi (2.0)"],
    "": ["", "  ", "_", "\t_ "],
}


@pytest.mark.parametrize(
    ("normalized", "spelling"), [(name, each) for name, found in SPELLINGS.items() for each in found]
)
def test_a_tag_has_one_normalized_name_however_it_is_spelled(
    connection: Connection, normalized: str, spelling: str
) -> None:
    row = connection.execute("select ops.tag_name(%s) as once, ops.tag_name(ops.tag_name(%s)) as twice", [spelling] * 2)
    assert row.fetchone() == {"once": normalized, "twice": normalized}


def test_a_tag_of_several_sources_is_one_row_in_each_and_found_by_one_name(catalogue: Warehouse) -> None:
    query = """
        select s.name as source, t.name as tag, d.category
        from catalog.tags as t
        join ops.sources as s using (source_id)
        left join catalog.tag_definitions as d using (tag_id)
        where t.normalized_name = 'long_hair' order by 1
    """
    assert [tuple(row.values()) for row in rows(catalogue, query)] == [
        ("catalog/civitai", "long hair", None),
        ("catalog/danbooru", "long hair", "general"),
        ("catalog/huggingface", "long hair", None),
    ]


def test_whatever_carries_a_tag_is_found_by_one_name_and_keeps_its_spelling(catalogue: Warehouse) -> None:
    query = """
        select coalesce(m.external_id, i.external_id) as carrier, coalesce(mt.spelling, it.spelling) as spelling
        from catalog.tags as t
        left join (catalog.model_tags as mt join catalog.models as m using (model_id)) using (tag_id)
        left join (catalog.image_tags as it join catalog.images as i using (image_id)) using (tag_id)
        where t.normalized_name = 'long_hair' order by 1
    """
    assert [tuple(row.values()) for row in rows(catalogue, query)] == [
        ("1", "Long Hair"),
        ("2", " LONG \t Hair "),
        ("3", "Long Hair"),
        ("5", "long_hair"),
        ("me/harbour", "LONG   hair"),
    ]


# What analysts see

VIEWS = {"models": ("model_id", "external_id"), "images": ("image_id", "external_id"), "prompts": ("prompt_id", "text")}
"""The key of each view, and a column in which `put_family` puts the family's name."""

SETTINGS: dict[str | None, set[str]] = {
    None: {"Safe"},
    "": {"Safe"},
    "Safe": {"Safe"},
    "Safe,Questionable": {"Safe", "Questionable"},
    "Safe, Questionable": {"Safe", "Questionable"},
    "Explicit": {"Explicit"},
    "Safe,Questionable,Explicit,Unknown": set(RATINGS),
    "everything": set(),
}


def ask_for(connection: Connection, ratings: str) -> None:
    connection.execute(sql.SQL("set local atlas.ratings = {}").format(ratings))


def seen(connection: Connection, view: str) -> set[str]:
    column = VIEWS[view][1]
    return {row["name"] for row in connection.execute(f"select {column} as name from marts.{view}".encode())}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_a_view_shows_what_is_safe_or_what_a_session_asks_for(
    connection: Connection, view: str, setting: str | None
) -> None:
    for rating in RATINGS:
        put_family(connection, rating, nsfw_rating=rating, rating=rating)
    if setting is not None:
        ask_for(connection, setting)
    assert seen(connection, view) == SETTINGS[setting]


@pytest.mark.parametrize("view", VIEWS)
def test_a_session_that_asks_for_every_rating_sees_every_row(catalogue: Warehouse, view: str) -> None:
    def keys(connection: Connection, place: str) -> list[object]:
        query = f"select {VIEWS[view][0]} as key from {place}.{view} order by 1"
        return [row["key"] for row in connection.execute(query.encode())]

    with catalogue.connect() as connection, connection.transaction():
        everything = keys(connection, "catalog")
        assert len(keys(connection, "marts")) < len(everything)
        ask_for(connection, ",".join(RATINGS))
        assert keys(connection, "marts") == everything


@pytest.mark.parametrize(
    ("image", "model", "shown"),
    [
        ("Safe", "Safe", True),
        ("Explicit", "Safe", False),
        ("Questionable", "Safe", False),
        ("Unknown", "Safe", False),
        ("Safe", "Explicit", False),
        ("Explicit", None, False),
        ("Safe", None, True),
        (None, "Explicit", False),
        (None, "Safe", True),
        (None, None, True),
    ],
)
def test_a_prompt_is_shown_where_its_image_and_its_model_are(
    connection: Connection, image: str | None, model: str | None, shown: bool
) -> None:
    prompt = put_family(connection, "one", rating=image or "Safe", nsfw_rating=model or "Safe")["catalog.prompts"]
    absent = {"image_id": image, "model_id": model}
    change(connection, "catalog.prompts", prompt, text="one", **{name: None for name, of in absent.items() if not of})
    assert seen(connection, "prompts") == ({"one"} if shown else set())
    ask_for(connection, ",".join(RATINGS))
    assert seen(connection, "prompts") == {"one"}


def test_a_prompt_whose_image_is_in_quarantine_is_not_taken_for_safe(warehouse: Warehouse) -> None:
    civitai = project.sources()["catalog/civitai"]
    image = {"id": 10**255, "url": "https://i/5.png", "nsfwLevel": 32, "meta": {"prompt": "words"}}
    land_items(warehouse, civitai, DAY, [Payload(json.dumps(image).encode(), "x", kind="images")])
    assert transform(warehouse, civitai, DAY).counts.quarantined == 1
    with warehouse.connect() as connection, connection.transaction():
        told = connection.execute("select text from catalog.prompts").fetchall()
        assert told == [{"text": "words"}]
        assert connection.execute("select text from marts.prompts").fetchall() == []
        ask_for(connection, "Safe,Unknown")
        assert connection.execute("select text from marts.prompts").fetchall() == told


def test_a_tag_has_one_name_whatever_the_locale_of_the_database(server: str, worker_id: str) -> None:
    plain = Warehouse(make_url(server).set(database=f"plain_{worker_id}"))
    with plain.connect("postgres") as connection:
        connection.execute(
            sql.SQL("create database {} template template0 encoding 'UTF8' locale_provider libc locale 'C'").format(
                sql.Identifier(plain.database)
            )
        )
    migrate.migrate(plain, project.objects())
    with plain.connect() as connection:
        assert connection.execute("select ops.tag_name(E'\u00c9COLE\\u2028x') as name").fetchone() == {
            "name": "école_x"
        }
    plain.drop_database(plain.database)


def test_a_model_is_shown_once_with_its_newest_counters(connection: Connection) -> None:
    stats = put_family(connection, "one")["catalog.model_stats"]
    for year in (2031, 2033, 2032):
        observed_at = datetime(year, 1, 1, tzinfo=UTC)
        put(connection, "catalog.model_stats", stats | {"observed_at": observed_at, "downloads": year})
    assert connection.execute("select downloads from marts.models").fetchall() == [{"downloads": 2033}]
