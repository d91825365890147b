"""Transforms: payloads in, rows out; a row that does not fit is in quarantine with the reason, all others arrive."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from psycopg import IsolationLevel
from psycopg.rows import tuple_row

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.landing.land import land_items
from pipelines.ledger import Run
from pipelines.source import Contract, Payload, Source
from pipelines.transform.run import code_version, pending_partitions, transform
from pipelines.warehouse.database import Warehouse

DAY = "2026-11-01"
START = datetime(2026, 11, 1, tzinfo=UTC)
TABLES = ("models", "model_versions", "artifacts", "images", "tags", "model_tags", "prompts")

Json = dict[str, Any]


def file(number: int, **more: Any) -> Json:
    return {"id": number, "name": f"file {number}", "type": "Model", "hashes": {"SHA256": f"{number:064x}"}} | more


def image(number: int, **more: Any) -> Json:
    return {"id": number, "url": f"https://i/{number}.png", "width": 8, "meta": {"prompt": f"a cat {number}"}} | more


def version(number: int, **more: Any) -> Json:
    return {"id": number, "name": f"v{number}", "files": [], "images": []} | more


def model(number: int, **more: Any) -> Json:
    """A model with one of everything, numbered after itself."""
    mine = version(number * 10, files=[file(number * 100)], images=[image(number * 100)])
    return {
        "id": number,
        "name": f"model {number}",
        "type": "LORA",
        "tags": ["all", f"only {number}"],
        "modelVersions": [mine],
    } | more


def inside(number: int, **more: Any) -> Json:
    """A model whose one version is changed."""
    whole = model(number)
    whole["modelVersions"][0] |= more
    return whole


def rows(warehouse: Warehouse, query: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    with warehouse.connect() as connection:
        return connection.cursor(row_factory=tuple_row).execute(query.encode(), parameters).fetchall()


def sizes(warehouse: Warehouse) -> dict[str, int]:
    """Rows a table; tables without rows are left out."""
    found = {table: int(rows(warehouse, f"select count(*) from catalog.{table}")[0][0]) for table in TABLES}
    return {table: number for table, number in found.items() if number}


def entries(warehouse: Warehouse, *, closed: bool = False) -> list[tuple[str, str, str]]:
    """Table, reason and constraint of each open, or closed, entry."""
    return rows(
        warehouse,
        """
        select table_name, reason, constraint_name from staging.quarantine
        where stage = 'transform' and (closed_at is not null) = %s order by quarantine_id
        """,
        [closed],
    )


def waits(warehouse: Warehouse) -> list[tuple[str, str, str, str]]:
    """Record, table, external id (or key) of the row that another is pending for, and the reason."""
    return rows(
        warehouse,
        """
        select distinct v.external_id, w.table_name, coalesce(i.external_id, w.key), w.reason
        from staging.pending_rows w
        join staging.versions v using (record_id)
        left join catalog.images i on i.image_id::text = w.key
        order by 1, 2, 3, 4
        """,
    )


def land(warehouse: Warehouse, source: Source, *bodies: Json, day: str = DAY, days_later: int = 0) -> Run:
    kind = next(iter(source.contracts))
    items = [Payload(json.dumps(body).encode(), "made here", external_id=str(body["id"]), kind=kind) for body in bodies]
    return land_items(warehouse, source, day, items, fetched_at=START + timedelta(days=days_later))


def take(warehouse: Warehouse, source: Source, *bodies: Json, day: str = DAY, days_later: int = 0) -> Run:
    """Lands and transforms."""
    land(warehouse, source, *bodies, day=day, days_later=days_later)
    return transform(warehouse, source, day)


REJECTED: dict[str, tuple[Json, tuple[str, str, str]]] = {
    "a name too long": (model(2, name="x" * 501), ("catalog.models", "check", "models_name_check")),
    "a label too long": (
        inside(2, name="x" * 256),
        ("catalog.model_versions", "check", "model_versions_version_label_check"),
    ),
    "a time that is none": (inside(2, publishedAt="soon"), ("catalog.model_versions", "type", "published_at")),
    "a time on no calendar": (
        inside(2, publishedAt="2026-02-30T00:00:00Z"),
        ("catalog.model_versions", "type", "published_at"),
    ),
    "a time that is another one tomorrow": (
        inside(2, publishedAt="now"),
        ("catalog.model_versions", "type", "published_at"),
    ),
    "a file name too long": (
        inside(2, files=[file(200, name="x" * 501)]),
        ("catalog.artifacts", "check", "artifacts_file_name_check"),
    ),
    "a URL too long": (
        inside(2, files=[file(200, downloadUrl="https://f/" + "x" * 1000)]),
        ("catalog.artifacts", "check", "artifacts_url_check"),
    ),
    "an abbreviated hash": (
        inside(2, files=[file(200, hashes={"SHA256": "ABCDEF1234"})]),
        ("catalog.artifacts", "check", "artifacts_sha256_check"),
    ),
    "a negative size": (
        inside(2, files=[file(200, sizeKB=-1.5)]),
        ("catalog.artifacts", "check", "artifacts_size_bytes_check"),
    ),
    "a size beyond bigint": (inside(2, files=[file(200, sizeKB=1e20)]), ("catalog.artifacts", "type", "size_bytes")),
    "no width": (inside(2, images=[image(200, width=0)]), ("catalog.images", "check", "images_width_check")),
    "a width beyond integer": (inside(2, images=[image(200, width=2**31)]), ("catalog.images", "type", "width")),
    "a tag too long": (model(2, tags=["all", "x" * 256]), ("catalog.tags", "check", "tags_name_check")),
}


@pytest.mark.parametrize("kind", REJECTED)
def test_a_row_that_does_not_fit_waits_for_its_payload_to_be_mended_and_all_else_arrives(
    warehouse: Warehouse, civitai: Source, kind: str
) -> None:
    body, expected = REJECTED[kind]
    run = take(warehouse, civitai, model(1), body, model(3))
    waiting_rows = entries(warehouse)
    assert expected in waiting_rows
    assert {reason for _, reason, _ in waiting_rows if reason != expected[1]} <= {"parent"}
    assert rows(warehouse, "select external_id from catalog.models where external_id <> '2' order by 1") == [
        ("1",),
        ("3",),
    ]
    assert sizes(warehouse)["images"] >= 2 and sizes(warehouse)["artifacts"] >= 2
    assert (run.status, run.counts.quarantined) == ("partial_success", len(waiting_rows))
    assert run.counts.fetched == run.counts.created + run.counts.quarantined
    run = take(warehouse, civitai, model(2), days_later=1)
    assert sizes(warehouse) == dict.fromkeys(TABLES, 3) | {"tags": 4, "model_tags": 6}
    assert entries(warehouse) == []
    assert entries(warehouse, closed=True) == waiting_rows
    assert (run.status, run.counts.quarantined) == ("completed", 0)


def test_an_entry_names_table_key_constraint_row_record_and_run(warehouse: Warehouse, civitai: Source) -> None:
    run = take(warehouse, civitai, model(1), inside(2, images=[image(200, width=0)]))
    found = rows(
        warehouse,
        """
        select q.table_name, q.row_key = ops.key(q.stream, '200')::text, q.constraint_name, q.row ->> 'width',
            q.row ->> 'url', q.external_id, q.record_id = v.record_id, q.first_run, q.partition_key, q.request
        from staging.quarantine q left join staging.versions v using (record_id)
        """,
    )
    url = "https://i/200.png"
    assert found == [
        ("catalog.images", True, "images_width_check", "0", url, "2", True, run.id, DAY, "made here"),
    ]


def test_a_rejected_row_seen_again_counts_and_makes_no_second_entry(warehouse: Warehouse, civitai: Source) -> None:
    bad = inside(2, images=[image(200, width=0)])
    first = take(warehouse, civitai, bad)
    again = transform(warehouse, civitai, DAY, full=True)
    assert rows(warehouse, "select seen, first_run, last_run from staging.quarantine") == [(2, first.id, again.id)]


def test_a_fault_that_comes_back_opens_its_entry_again(warehouse: Warehouse, civitai: Source) -> None:
    bad = inside(2, images=[image(200, width=0)])
    take(warehouse, civitai, bad)
    take(warehouse, civitai, model(2), days_later=1)
    assert entries(warehouse) == []
    take(warehouse, civitai, bad | {"name": "again"}, days_later=2)
    assert entries(warehouse) == [("catalog.images", "check", "images_width_check")]
    assert rows(warehouse, "select seen from staging.quarantine") == [(2,)]


def test_children_of_a_rejected_row_are_rejected_and_their_reason_is_the_parent(
    warehouse: Warehouse, civitai: Source
) -> None:
    take(warehouse, civitai, model(1), model(2, name="x" * 501))
    assert sorted(entries(warehouse)) == [
        ("catalog.artifacts", "parent", "artifacts_model_version_id_fkey"),
        ("catalog.model_tags", "parent", "model_tags_model_id_fkey"),
        ("catalog.model_tags", "parent", "model_tags_model_id_fkey"),
        ("catalog.model_versions", "parent", "model_versions_model_id_fkey"),
        ("catalog.models", "check", "models_name_check"),
    ]


def test_a_reference_that_may_be_null_to_a_row_that_waits_goes_in_null(warehouse: Warehouse, civitai: Source) -> None:
    take(warehouse, civitai, model(1), model(2, name="x" * 501))
    query = """
        select external_id, model_id is null, model_version_id is null from catalog.images order by 1
    """
    assert rows(warehouse, query) == [("100", False, False), ("200", True, True)]
    links = "select model_id is null, image_id is null from catalog.prompts order by text"
    assert rows(warehouse, links) == [(False, False), (True, False)]
    take(warehouse, civitai, model(2), days_later=1)
    assert rows(warehouse, query) == [("100", False, False), ("200", False, False)]


def test_a_tag_of_nothing_but_a_row_that_waits_does_not_stay(warehouse: Warehouse, civitai: Source) -> None:
    take(warehouse, civitai, model(1), model(2, name="x" * 501))
    assert rows(warehouse, "select name from catalog.tags order by 1") == [("all",), ("only 1",)]


def test_a_row_whose_parent_is_rejected_leaves_its_table(warehouse: Warehouse, civitai: Source) -> None:
    take(warehouse, civitai, model(1), model(2))
    run = take(warehouse, civitai, model(2, name="x" * 501), days_later=1)
    assert sizes(warehouse) == dict.fromkeys(TABLES, 1) | {"images": 2, "prompts": 2, "tags": 2, "model_tags": 2}
    assert run.counts.deleted == 6


def test_many_faults_of_one_row_do_not_stop_the_partition(warehouse: Warehouse, civitai: Source) -> None:
    files = [file(200, name=f"copy {each}", hashes={}) for each in range(3)]
    run = take(warehouse, civitai, model(1), inside(2, files=files))
    assert set(entries(warehouse)) == {("catalog.artifacts", "unique", "artifacts_pkey")}
    assert run.counts.quarantined == 2
    assert sizes(warehouse)["artifacts"] == 2


def test_a_name_is_never_cut_to_fit(warehouse: Warehouse, civitai: Source) -> None:
    """PostgreSQL cuts spaces beyond a length without a word."""
    take(warehouse, civitai, model(1, name="x" * 500 + "  "))
    assert rows(warehouse, "select length(name) from catalog.models") in ([], [(502,)])
    assert transform(warehouse, civitai, DAY, full=True).counts.updated == 0


def test_rows_a_record_no_longer_yields_are_pruned(warehouse: Warehouse, civitai: Source) -> None:
    two = version(11, files=[file(110), file(111)], images=[image(110), image(111)])
    whole = model(1)
    whole["modelVersions"].append(two)
    take(warehouse, civitai, whole, model(2))
    assert sizes(warehouse)["artifacts"] == 4
    run = take(warehouse, civitai, model(1, tags=["all"]), days_later=1)
    assert sizes(warehouse) == dict.fromkeys(TABLES, 2) | {"model_tags": 3}
    assert run.counts.deleted == 1 + 2 + 2 + 2 + 1 + 1
    assert rows(warehouse, "select name from catalog.tags order by 1") == [("all",), ("only 2",)]


def test_a_tag_goes_with_the_last_model_that_has_it(warehouse: Warehouse, civitai: Source) -> None:
    take(warehouse, civitai, model(1, tags=["Shared Tag"]), model(2, tags=["shared_tag"]))
    assert rows(warehouse, "select normalized_name from catalog.tags") == [("shared_tag",)]
    take(warehouse, civitai, model(1, tags=[]), days_later=1)
    assert rows(warehouse, "select normalized_name from catalog.tags") == [("shared_tag",)]
    run = take(warehouse, civitai, model(2, tags=[]), days_later=1)
    assert rows(warehouse, "select normalized_name from catalog.tags") == []
    assert run.stats["tables"]["catalog.tags"]["deleted"] == 1


def test_a_row_that_two_records_have_is_the_one_of_the_smallest_id_whichever_came_first(
    warehouse: Warehouse, civitai: Source
) -> None:
    take(warehouse, civitai, inside(2, images=[image(7, url="https://i/of-2.png")]))
    run = take(warehouse, civitai, inside(1, images=[image(7, url="https://i/of-1.png")]) | {"tags": []})
    assert rows(warehouse, "select url from catalog.images") == [("https://i/of-1.png",)]
    assert waits(warehouse) == [("2", "catalog.images", "7", "key"), ("2", "catalog.prompts", "7", "key")]
    assert (run.status, run.counts.duplicates, entries(warehouse)) == ("completed", 2, [])
    assert sizes(warehouse)["models"] == 2


def test_of_two_records_in_one_batch_the_smallest_id_has_the_row(warehouse: Warehouse, civitai: Source) -> None:
    both = [inside(each, images=[image(7, url=f"https://i/of-{each}.png")]) for each in (2, 1)]
    run = take(warehouse, civitai, *both)
    assert rows(warehouse, "select url from catalog.images") == [("https://i/of-1.png",)]
    assert waits(warehouse) == [("2", "catalog.images", "7", "key"), ("2", "catalog.prompts", "7", "key")]
    assert (run.status, run.counts.duplicates, entries(warehouse)) == ("completed", 2, [])


def test_of_two_records_in_one_batch_the_same_has_the_row_each_time(warehouse: Warehouse, civitai: Source) -> None:
    take(warehouse, civitai, *(inside(each, images=[image(7)]) for each in (2, 1)))
    owner = "select v.external_id from catalog.images join staging.versions v using (record_id)"
    assert rows(warehouse, owner) == [("1",)]
    before = waits(warehouse)
    again = transform(warehouse, civitai, DAY, full=True)
    assert (again.counts.created, again.counts.updated, again.counts.deleted) == (0, 0, 0)
    assert rows(warehouse, owner) == [("1",)]
    assert waits(warehouse) == before


def test_what_did_not_change_keeps_its_times_and_what_changed_has_a_new_one(
    warehouse: Warehouse, civitai: Source
) -> None:
    query = "select created_at, updated_at, xmin::text from catalog.models order by external_id"
    take(warehouse, civitai, model(1), model(2))
    one, two = rows(warehouse, query)
    run = take(warehouse, civitai, model(1), model(2, description="new"), days_later=1)
    one_later, two_later = rows(warehouse, query)
    assert one_later == one
    assert two_later[0] == two[0] and two_later[1] > two[1]
    assert (run.counts.updated, run.counts.created) == (1, 0)


def test_a_normal_run_takes_only_what_no_transform_has_taken(warehouse: Warehouse, civitai: Source) -> None:
    take(warehouse, civitai, model(1), model(2))
    assert pending_partitions(warehouse, civitai) == []
    land(warehouse, civitai, model(2, description="new"), model(3), days_later=1)
    assert pending_partitions(warehouse, civitai) == [DAY]
    assert transform(warehouse, civitai, DAY).stats["records"] == 2
    assert transform(warehouse, civitai, DAY).stats["records"] == 0
    assert transform(warehouse, civitai, DAY, full=True).stats["records"] == 3


def test_sql_shows_the_pending_and_the_effective_versions(warehouse: Warehouse, civitai: Source) -> None:
    code = code_version(project.selects(civitai.name))
    pending = "select external_id, partition_key from staging.pending_versions({}) order by 1, 2"
    of_no_select, of_code, of_other = (pending.format(each) for each in ("", f"'{code}'", "'another'"))
    effective = "select external_id, valid_from_run, applied_sql from staging.effective_versions order by 1"
    land(warehouse, civitai, model(1))
    assert [rows(warehouse, each) for each in (of_no_select, of_code, of_other)] == [[("1", DAY)]] * 3
    assert rows(warehouse, effective) == []
    run = transform(warehouse, civitai, DAY)
    assert [rows(warehouse, each) for each in (of_no_select, of_code, of_other)] == [[], [], [("1", DAY)]]
    assert rows(warehouse, effective) == [("1", run.id, code)]


def test_versions_show_from_which_run_to_which_they_are_effective(warehouse: Warehouse, civitai: Source) -> None:
    first = take(warehouse, civitai, model(1))
    second = take(warehouse, civitai, model(1, description="new"), day="2026-11-02", days_later=1)
    found = rows(warehouse, "select latest, valid_from_run, valid_to_run from staging.versions order by version_id")
    assert found == [(False, first.id, second.id), (True, second.id, None)]


def test_another_text_of_a_select_makes_the_next_run_take_everything(warehouse: Warehouse, civitai: Source) -> None:
    take(warehouse, civitai, model(1), model(2))
    with warehouse.connect() as connection:
        connection.execute(
            """
            update ops.fetch_runs set code_version = 'an older text' where kind = 'transform';
            update staging.versions set applied_sql = 'an older text'
            """
        )
    assert pending_partitions(warehouse, civitai) == [DAY]
    assert transform(warehouse, civitai, DAY).stats["records"] == 2
    assert pending_partitions(warehouse, civitai) == []
    assert transform(warehouse, civitai, DAY).stats["records"] == 0


def test_each_select_that_ran_is_kept_by_its_digest(warehouse: Warehouse, civitai: Source) -> None:
    run = take(warehouse, civitai, model(1))
    transform(warehouse, civitai, DAY, full=True)
    files = sorted((project.SQL / "catalog" / "civitai").glob("*.sql"))
    assert {path.stem for path in files} == {*TABLES, "model_stats"}
    kept = rows(warehouse, 'select path, digest, text from ops.sql order by path collate "C"')
    assert kept == [
        (f"catalog/civitai/{path.name}", hashlib.sha256(path.read_bytes()).hexdigest(), path.read_text())
        for path in files
    ]
    assert run.stats["sql"] == {path.removesuffix(".sql"): digest for path, digest, _ in kept}


def test_published_numbers_grow_over_landings_and_transforms(warehouse: Warehouse, civitai: Source) -> None:
    runs = [
        land(warehouse, civitai, model(1)),
        transform(warehouse, civitai, DAY),
        land(warehouse, civitai, model(2), day="2026-11-02"),
        transform(warehouse, civitai, "2026-11-02"),
        transform(warehouse, civitai, DAY),
    ]
    assert rows(warehouse, "select fetch_run_id from ops.fetch_runs order by publish_seq") == [
        (run.id,) for run in runs
    ]


def test_the_counts_of_the_tables_add_up_to_those_of_the_run(warehouse: Warehouse, civitai: Source) -> None:
    run = take(warehouse, civitai, model(1), model(2, name="x" * 501), inside(3, images=[image(7, width=0)]))
    for name, total in vars(run.counts).items():
        assert sum(counts[name] for counts in run.stats["tables"].values()) == total
    for table, number in sizes(warehouse).items():
        assert run.stats["tables"][f"catalog.{table}"]["created"] == number
    assert run.counts.deleted == 0
    assert rows(warehouse, "select count(*) from staging.quarantine") == [(run.counts.quarantined,)]


def test_a_reader_sees_a_partition_whole_or_not_at_all(warehouse: Warehouse, civitai: Source) -> None:
    many = 600
    seen: list[tuple[Any, ...]] = []
    done, ready = threading.Event(), threading.Event()

    def read() -> None:
        with warehouse.connect() as connection:
            connection.isolation_level = IsolationLevel.REPEATABLE_READ
            while not done.is_set():
                with connection.transaction(), connection.cursor(row_factory=tuple_row) as cursor:
                    models = cursor.execute("select count(*) from catalog.models").fetchone()
                    files = cursor.execute("select count(*) from catalog.artifacts").fetchone()
                    tags = cursor.execute("select count(*) from catalog.tags").fetchone()
                assert models and files and tags
                seen.append((*models, *files, *tags))
                ready.set()

    reader = threading.Thread(target=read)
    land(warehouse, civitai, *(model(each) for each in range(many)))
    reader.start()
    try:
        assert ready.wait(30)
        transform(warehouse, civitai, DAY)
        land(warehouse, civitai, *(inside(each, files=[]) | {"tags": []} for each in range(many)), days_later=1)
        between = len(seen)
        transform(warehouse, civitai, DAY, shrink=True)
    finally:
        done.set()
        reader.join()
    assert set(seen) <= {(0, 0, 0), (many, many, many + 1), (many, 0, 0)}
    assert {(0, 0, 0), (many, many, many + 1)} <= set(seen)
    assert len(seen) > between + 2


class Anything(Contract):
    """A contract that asks for nothing, as one that was looser when the payload landed."""


MADE = {
    "models": """
-- One row per model in the payload.
select
    ops.key(p.source, m.external_id)    as model_id,
    p.record_id,
    ops.key(p.source)                   as source_id,
    m.external_id,
    m.name,
    m.type,
    'Safe'                              as nsfw_rating,
    jsonb_build_object()                as raw
from payloads as p
cross join json_table(p.body, '$.models[*]' columns (
    external_id text path '$.id', name text path '$.name', type text path '$.type'
)) as m
""",
    "model_versions": """
-- One row per version in the payload; `hundred_by` must not be 0.
select
    ops.key(p.source, v.model, v.external_id)   as model_version_id,
    p.record_id,
    ops.key(p.source, v.model)                  as model_id,
    v.external_id,
    v.label                                     as version_label,
    jsonb_build_object('per', 100 / v.hundred_by::integer) as metadata
from payloads as p
cross join json_table(p.body, '$.versions[*]' columns (
    external_id text path '$.id', model text path '$.model', label text path '$.label', hundred_by text path '$.by'
)) as v
""",
    "images": """
-- One row per image in the payload.
select
    ops.key(p.source, i.external_id)    as image_id,
    p.record_id,
    ops.key(p.source)                   as source_id,
    i.external_id,
    i.width,
    i.height,
    i.rating
from payloads as p
cross join json_table(p.body, '$.images[*]' columns (
    external_id text path '$.id', width text path '$.width', height numeric path '$.height', rating text path '$.rating'
)) as i
""",
}

Make = Callable[..., Source]


@pytest.fixture
def made(civitai: Source, tmp_path: Path) -> Make:
    """Makes a source of the domain whose SELECT files are somewhere else, some with another text."""

    def make(**changed: str) -> Source:
        for table, text in (MADE | changed).items():
            (tmp_path / f"{table}.sql").write_text(text)
        place = os.path.relpath(tmp_path, project.SQL / "catalog")
        return replace(civitai, name=f"catalog/{place}", contracts={"": Anything})

    return make


def row(number: int, **more: Any) -> Json:
    return {"id": number, "name": f"model {number}", "type": "LORA"} | more


def picture(number: int, **more: Any) -> Json:
    return {"id": number, "width": 8, "height": 8, "rating": "Safe"} | more


ROWS: dict[str, tuple[Json, tuple[str, str, str]]] = {
    "no name": ({"models": [row(2, name=None)]}, ("catalog.models", "not_null", "name")),
    "an unknown type": ({"models": [row(2, type="Robot")]}, ("catalog.models", "check", "models_type_check")),
    "a key twice": (
        {"models": [row(2), row(2, name="other")]},
        ("catalog.models", "unique", "models_pkey"),
    ),
    "a label twice": (
        {
            "models": [row(2)],
            "versions": [{"id": each, "model": 2, "label": "v1", "by": 1} for each in (1, 2)],
        },
        ("catalog.model_versions", "unique", "model_versions_model_id_version_label_key"),
    ),
    "a parent that is not there": (
        {"versions": [{"id": 1, "model": 99, "label": "v1", "by": 1}]},
        ("catalog.model_versions", "parent", "model_versions_model_id_fkey"),
    ),
    "a width of 1.5": ({"images": [picture(2, width=1.5)]}, ("catalog.images", "type", "width")),
    "a height of 1.5": ({"images": [picture(2, height=1.5)]}, ("catalog.images", "type", "height")),
    "a height beyond integer": ({"images": [picture(2, height=2**40)]}, ("catalog.images", "type", "height")),
    "an unknown rating": ({"images": [picture(2, rating="Odd")]}, ("catalog.images", "check", "images_rating_check")),
}


@pytest.mark.parametrize("kind", ROWS)
def test_of_a_record_one_row_may_not_fit(warehouse: Warehouse, made: Make, kind: str) -> None:
    body, expected = ROWS[kind]
    good = {"models": [row(1)], "images": [picture(1)], "id": "good"}
    run = take(warehouse, made(), good, body | {"id": "bad"})
    assert entries(warehouse) == [expected]
    there = rows(warehouse, "select external_id from catalog.models union select external_id from catalog.images")
    assert ("1",) in there
    assert run.counts.quarantined == 1
    assert sum(sizes(warehouse).values()) == run.counts.created


def test_a_row_yielded_twice_is_one_row_and_one_duplicate(warehouse: Warehouse, made: Make) -> None:
    run = take(warehouse, made(), {"id": "a", "models": [row(1), row(1), row(2)]})
    assert (run.counts.fetched, run.counts.created, run.counts.duplicates) == (3, 2, 1)
    assert (run.status, entries(warehouse)) == ("completed", [])


def test_a_unique_value_claimed_by_two_records_goes_to_the_smallest_id(warehouse: Warehouse, made: Make) -> None:
    labels = [{"id": name, "versions": [{"id": name, "model": 1, "label": "v1", "by": 1}]} for name in ("b", "c", "a")]
    take(warehouse, made(), {"id": "z", "models": [row(1)]}, *labels)
    assert rows(warehouse, "select external_id from catalog.model_versions") == [("a",)]
    waits = rows(warehouse, "select external_id, constraint_name from staging.quarantine order by 1")
    assert waits == [(name, "model_versions_model_id_version_label_key") for name in ("b", "c")]


def test_a_unique_value_in_the_table_goes_to_a_smaller_id_that_comes_later(warehouse: Warehouse, made: Make) -> None:
    source = made()
    take(warehouse, source, {"id": "b", "models": [row(1)], "versions": [{"id": 1, "model": 1, "label": "v", "by": 1}]})
    run = take(warehouse, source, {"id": "a", "versions": [{"id": 2, "model": 1, "label": "v", "by": 1}]})
    assert rows(warehouse, "select external_id from catalog.model_versions") == [("2",)]
    assert rows(warehouse, "select external_id, reason, constraint_name from staging.quarantine") == [
        ("b", "unique", "model_versions_model_id_version_label_key")
    ]
    assert [(record, table, reason) for record, table, _, reason in waits(warehouse)] == [
        ("b", "catalog.model_versions", "unique")
    ]
    assert (run.status, run.counts.quarantined) == ("partial_success", 1)


def test_two_rows_of_a_record_may_swap_their_unique_values(warehouse: Warehouse, made: Make) -> None:
    source = made()
    for labels in (("one", "two"), ("two", "one")):
        versions = [{"id": number, "model": 1, "label": label, "by": 1} for number, label in enumerate(labels)]
        run = take(
            warehouse,
            source,
            {"id": "a", "models": [row(1)], "versions": versions},
            days_later=labels == ("two", "one"),
        )
    assert rows(warehouse, "select version_label from catalog.model_versions order by external_id") == [
        ("two",),
        ("one",),
    ]
    assert (run.status, run.counts.updated) == ("completed", 2)


def test_a_whole_number_written_as_a_decimal_fits_an_integer(warehouse: Warehouse, made: Make) -> None:
    take(warehouse, made(), {"id": "a", "images": [picture(1, height=512.0)]})
    assert rows(warehouse, "select height from catalog.images") == [(512,)]


def test_rows_of_a_record_on_which_a_select_fails_go_and_come_back(warehouse: Warehouse, made: Make) -> None:
    source = made()

    def record(name: str, by: int) -> Json:
        versions = [{"id": name, "model": name, "label": f"by {by}", "by": by}]
        return {"id": name, "models": [row(0, id=name)], "versions": versions}

    take(warehouse, source, record("a", 1), record("b", 1), record("c", 1))
    run = take(warehouse, source, record("a", 2), record("b", 0), record("c", 2), days_later=1)
    labels = "select version_label from catalog.model_versions order by external_id"
    assert rows(warehouse, labels) == [("by 2",), ("by 2",)]
    assert rows(warehouse, "select reason, table_name, row_key, detail from staging.quarantine") == [
        ("select_fails", "catalog.model_versions", "b", "division by zero")
    ]
    assert (run.status, run.counts.quarantined, run.counts.deleted) == ("partial_success", 1, 2)
    take(warehouse, source, record("b", 2), days_later=2)
    assert rows(warehouse, labels) == [("by 2",)] * 3
    assert entries(warehouse) == []


def test_a_condition_that_fails_on_one_record_does_not_stop_the_others(warehouse: Warehouse, made: Make) -> None:
    """The planner would ask it of every version that staging holds."""
    source = made(models=MADE["models"] + "where 1 / (case when p.external_id = '2' then 0 else 1 end) > 0")
    for number in (1, 2, 3):
        land(warehouse, source, {"id": str(number), "models": [row(number)]})
    run = transform(warehouse, source, DAY)
    assert rows(warehouse, "select external_id from catalog.models order by 1") == [("1",), ("3",)]
    assert rows(warehouse, "select reason, external_id, request is null from staging.quarantine") == [
        ("select_fails", "2", False)
    ]
    assert run.status == "partial_success"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("select nonsense from payloads", "cannot be run"),
        ("select record_id, 1 as shoe_size from payloads", "yields shoe_size, which is not a column"),
        ("select record_id, '2026-11-01' as created_at from payloads", "yields created_at, which is not a column"),
        ("select ops.key('a') as image_id, record_id, 'a' as external_id from payloads", "does not yield rating"),
        ("select 1 / 0 as height", "cannot be run"),
    ],
)
def test_a_select_that_cannot_work_changes_nothing_and_says_which(
    warehouse: Warehouse, made: Make, text: str, words: str
) -> None:
    source = made(images=text)
    land(warehouse, source, {"id": "a", "models": [row(1)]})
    with pytest.raises(AtlasError, match=words) as caught:
        transform(warehouse, source, DAY)
    assert "images" in str(caught.value)
    assert sizes(warehouse) == {}
    found = rows(warehouse, "select status, error_text, publish_seq from ops.fetch_runs where kind = 'transform'")
    assert found == [("failed", str(caught.value), None)]
    assert rows(warehouse, "select valid_from_run from staging.versions") == [(None,)]
