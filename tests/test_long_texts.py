"""Texts of a source that are longer than a B-tree's keys, 2,704 bytes: ids, paths and keys of characters that take four
bytes and do not compress.
"""

from typing import Any

import pytest

from pipelines import project
from pipelines.connectors.rate_limit import RateLimit
from pipelines.landing.validate import MAX_ID_LENGTH
from pipelines.lineage import rebuild
from pipelines.maintenance import erasure
from pipelines.source import Source
from pipelines.warehouse.database import Warehouse
from tests.library import DAYS, START, Json, Recorder, author, book, long_text, payload, rows, shown
from tests.pasts import Files
from tests.runs import land_items, stream_of, transform

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]

LONG = long_text(4_000)
SHORT = {"stream", "partition_key", "applied_sql", "table_name", "name", "type", "status", "kind", "digest"}
SHORT |= {"role_name", "dagster_run_id"}
"""Columns whose texts are short: they come from the project, from PostgreSQL or from Dagster, not from a source."""


def test_no_btree_of_ops_and_staging_has_texts_of_a_source(warehouse: Warehouse) -> None:
    indexed = shown(
        warehouse,
        """
        select distinct attribute.attname
        from pg_index join pg_class i on i.oid = indexrelid join pg_am on pg_am.oid = i.relam
        join pg_attribute attribute on attribute.attrelid = indrelid and attribute.attnum = any(indkey)
        where relnamespace::regnamespace::text in ('ops', 'staging') and amname = 'btree'
          and atttypid::regtype in ('text', 'jsonb', 'text[]')
        """,
    )
    assert set(indexed) == SHORT


def test_a_path_that_a_select_reads_may_be_long(warehouse: Warehouse, files: Files) -> None:
    keys = [long_text(number)[:60] for number in range(60, 72)]
    authors = files.folder / "toy/library/authors.sql"
    path = ".".join(f'"{key}"' for key in keys)
    authors.write_text(authors.read_text().replace("$.about", f"$.{path}"))
    project.selects.cache_clear()
    body: Json | str = "about"
    for key in reversed(keys):
        body = {key: body}
    assert isinstance(body, dict)
    for loans in (1, 2):
        land_items(warehouse, project.sources()["toy/library"], DAYS[0], [payload(author(1, loans=loans, **body))])
    known = "select type, payloads from ops.schema_drift where path = %s"
    assert rows(warehouse, known, [path]) == [("string", 2)]


def test_a_record_with_a_long_id_lands_changes_and_goes(warehouse: Warehouse, shelf: Source) -> None:
    name, recorder = LONG[:MAX_ID_LENGTH], Recorder(warehouse, shelf)
    recorder.land("other", {"id": "other", "authors": [author(2)]})
    for title in ("one", "one", "two"):
        recorder.land(name, {"id": name, "authors": [author(1)], "books": [book(1, title, author=1)]})
        recorder.transform()
    assert shown(warehouse, "select title from toy.books") == ["two"]
    assert [each for each in rebuild.check(warehouse, "toy") if not each["same"]] == []
    recorder.full_refresh(name)
    recorder.transform()
    assert shown(warehouse, "select external_id from toy.authors") == ["2"]
    erasure.erase(warehouse, stream_of(shelf), "toy/shelf", name)
    assert shown(warehouse, "select external_id from staging.versions") == ["other"]


def test_payloads_and_rows_with_long_texts_are_quarantined_and_seen_again(warehouse: Warehouse, shelf: Source) -> None:
    recorder = Recorder(warehouse, shelf)
    recorder.now["", LONG[:MAX_ID_LENGTH]] = {"authors": [author(1, LONG)]}
    for _ in range(2):
        recorder.full_refresh()
        land_items(warehouse, shelf, DAYS[0], [payload(b"[1", LONG[:MAX_ID_LENGTH], "")], received_at=START)
        transform(warehouse, shelf, DAYS[0], full=True)
    entries = "select stage, granularity, seen, external_id = %s from staging.quarantine order by 1"
    assert rows(warehouse, entries, [LONG[:MAX_ID_LENGTH]]) == [
        ("land", "payload", 2, True),
        ("transform", "row", 2, True),
    ]


@pytest.mark.parametrize("table", ["pending_rows", "aliases", "changed_rows"])
def test_a_row_may_wait_for_a_long_key(warehouse: Warehouse, table: str) -> None:
    columns: dict[str, Any] = {
        "pending_rows": ("record_id, stream, table_name, key, reason", "uuidv7(), 's', 't', %(key)s, 'parent'"),
        "aliases": ("record_id, table_name, lost_key, kept_key", "uuidv7(), 't', %(key)s, %(key)s"),
        "changed_rows": ("table_name, key", "'t', %(key)s"),
    }
    names, values = columns[table]
    with warehouse.connect() as connection:
        connection.execute(f"insert into staging.{table} ({names}) select {values}".encode(), {"key": LONG})


def test_a_host_may_have_a_long_name(warehouse: Warehouse) -> None:
    with warehouse.connect() as connection:
        for _ in range(2):
            with RateLimit(connection, LONG, None).slot():
                pass
    assert shown(warehouse, "select count(*) from ops.rate_limits") == [1]
