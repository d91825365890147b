"""Hugging Face Hub: a listing that is walked by its Link header, what models and files become, and real records."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from pipelines import project
from pipelines.connectors.http import Client
from pipelines.ledger import Run
from pipelines.source import Cursor, FullScan, Item, Payload, Source, Window
from pipelines.warehouse.database import Warehouse
from tests.runs import land_items, transform

pytestmark = pytest.mark.emptied

Record = dict[str, Any]
TODAY = Window(date(2026, 11, 1))
PAGE = 3


@pytest.fixture(scope="module")
def hub() -> Source:
    return project.sources()["catalog/huggingface"]


def model(name: str, **more: Any) -> Record:
    return {"id": f"lab/{name}", "lastModified": "2026-11-01T12:00:00.000Z", "tags": [], "siblings": []} | more


def take(warehouse: Warehouse, source: Source, *records: Record, window: Window = TODAY) -> Run:
    payloads = [Payload(json.dumps(each).encode(), each["id"]) for each in records]
    landed = land_items(warehouse, source, window.key, payloads, received_at=window.start)
    assert landed.counts.quarantined == 0
    return transform(warehouse, source, window.key)


def rows(warehouse: Warehouse, query: str) -> list[Record]:
    with warehouse.connect() as connection:
        return connection.execute(query.encode()).fetchall()


# The listing


@dataclass
class Hub:
    """A hub with the paging of the real one: newest first, a cursor in the Link header, three models a page."""

    models: list[Record] = field(default_factory=list)
    pages: int = 0

    def answer(self, request: Request) -> Response:
        if name := request.path.removeprefix("/api/models").removeprefix("/"):
            found = [each for each in self.models if each["id"] == name]
            return Response(json.dumps(found[0] if found else {"error": "Repository not found"}), 200 if found else 404)
        assert request.args.to_dict() | {"cursor": ""} == {
            "sort": "lastModified",
            "direction": "-1",
            "full": "true",
            "limit": "1000",
            "cursor": "",
        }
        self.pages += 1
        first = int(request.args.get("cursor", 0))
        newest = sorted(self.models, key=lambda each: (each["lastModified"], each["id"]), reverse=True)
        answer = Response(json.dumps(newest[first : first + PAGE]), content_type="application/json")
        if first + PAGE < len(newest):
            query = f"sort=lastModified&direction=-1&full=true&limit=1000&cursor={first + PAGE}"
            answer.headers["Link"] = f'<https://huggingface.co/api/models?{query}>; rel="next"'
        return answer


@pytest.fixture
def fake(httpserver: HTTPServer) -> Hub:
    made = Hub()
    httpserver.expect_request("/api/models").respond_with_handler(made.answer)
    httpserver.expect_request("/api/models/lab/kept").respond_with_handler(made.answer)
    httpserver.expect_request("/api/models/lab/gone").respond_with_handler(made.answer)
    return made


@pytest.fixture
def client(fake: Hub, httpserver: HTTPServer) -> Iterator[Client]:
    with Client("catalog/huggingface", httpserver.url_for("")) as opened:
        yield opened


def keys(items: list[Item]) -> list[str]:
    return [json.loads(each.body)["id"].removeprefix("lab/") for each in items if isinstance(each, Payload)]


def cursors_of(items: list[Item]) -> dict[str, Any]:
    return {each.listing: each.value for each in items if isinstance(each, Cursor)}


def test_a_first_run_ends_below_the_days_start_and_the_next_one_below_its_cursor(
    hub: Source, fake: Hub, client: Client
) -> None:
    fake.models = [
        model("evening", lastModified="2026-11-01T20:00:00.000Z"),
        *(model(f"noon-{number}") for number in range(4)),
        model("early", lastModified="2026-11-01T00:00:00.000Z"),
        *(model(f"before-{number}", lastModified=f"2026-10-31T2{number}:00:00.000Z") for number in range(4)),
    ]
    first = list(hub.fetch(client, TODAY))
    assert keys(first) == [
        *("evening", "noon-3", "noon-2", "noon-1", "noon-0", "early", "before-3", "before-2", "before-1")
    ]
    assert not any(isinstance(each, FullScan) for each in first)

    fake.pages = 0
    fake.models.append(model("night", lastModified="2026-11-01T23:00:00.000Z"))
    second = list(hub.fetch(client, replace(TODAY, cursors=cursors_of(first))))
    assert keys(second)[:2] == ["night", "evening"]
    assert "early" not in keys(second)
    assert fake.pages <= 2


def test_models_changed_at_the_time_of_the_cursor_are_fetched_by_the_next_run(
    hub: Source, fake: Hub, client: Client
) -> None:
    at_once = {"lastModified": "2026-11-01T20:00:00.000Z"}
    fake.models = [model("first", **at_once), *(model(f"noon-{number}") for number in range(5))]
    cursors = cursors_of(list(hub.fetch(client, TODAY)))
    fake.models += [model("at-once", **at_once), model("late", lastModified="2026-11-01T19:52:00.000Z")]
    assert {"at-once", "late"} <= set(keys(list(hub.fetch(client, replace(TODAY, cursors=cursors)))))


def test_a_full_refresh_reads_the_listing_to_its_end_and_says_so(hub: Source, fake: Hub, client: Client) -> None:
    fake.models = [model(f"old-{number}", lastModified="2024-02-29T00:00:00.000Z") for number in range(7)]
    items = list(hub.fetch(client, replace(TODAY, full_refresh=True)))
    assert len(keys(items)) == 7
    assert items[-1] == FullScan("", responses=3)


def test_of_a_day_that_is_past_only_its_models_are_fetched_and_no_cursor_is_set(
    hub: Source, fake: Hub, client: Client
) -> None:
    fake.models = [
        *(model(f"later-{number}", lastModified="2026-11-03T08:00:00.000Z") for number in range(4)),
        model("last", lastModified="2026-11-01T23:59:59.999Z"),
        model("elsewhere", lastModified="2026-11-02T01:30:00.000+02:00"),
        model("first", lastModified="2026-11-01T00:00:00.000Z"),
        *(model(f"before-{number}", lastModified="2026-10-31T23:59:59.999Z") for number in range(9)),
    ]
    cursors = {"models": {"value": "2026-11-03T08:00:00+00:00"}}
    past = list(hub.fetch(client, replace(TODAY, current=False, cursors=cursors)))
    assert sorted(keys(past)) == ["elsewhere", "first", "last"]
    assert cursors_of(past) == {}
    assert fake.pages < 5, "it went on below the day"


def test_a_model_is_fetched_by_its_own_url(hub: Source, fake: Hub, client: Client) -> None:
    fake.models = [model("kept")]
    assert hub.get_record is not None and hub.change_token is not None
    kept = hub.get_record(client, "", "lab/kept")
    assert isinstance(kept, Payload) and json.loads(kept.body) == model("kept")
    assert hub.get_record(client, "", "lab/gone") is None


# What becomes of a model


def test_a_type_follows_from_tags_and_task(warehouse: Warehouse, hub: Source) -> None:
    expected: list[tuple[str, str | None, list[str]]] = [
        ("LLM", "text-generation", ["safetensors", "license:mit"]),
        ("LLM", "image-text-to-text", []),
        ("LORA", "text-generation", ["base_model:adapter:lab/big"]),
        ("LORA", "text-to-image", ["diffusers", "LoRA"]),
        ("Checkpoint", "text-to-image", ["diffusers"]),
        ("Controlnet", "text-to-image", ["controlnet"]),
        ("TextualInversion", None, ["textual_inversion"]),
        ("VAE", None, ["diffusers:AutoencoderKL"]),
        ("Other", "feature-extraction", ["base_model:quantized:lab/big"]),
        ("Other", None, []),
    ]
    take(
        warehouse,
        hub,
        *(model(str(at), pipeline_tag=task, tags=tags) for at, (_, task, tags) in enumerate(expected)),
    )
    found = rows(warehouse, "select type from catalog.models order by external_id")
    assert [each["type"] for each in found] == [type_ for type_, *_ in expected]


def test_ratings_follow_from_the_tag_that_the_content_policy_asks_for(warehouse: Warehouse, hub: Source) -> None:
    take(
        warehouse,
        hub,
        model("a", tags=["not-for-all-audiences"]),
        model("b", tags=["art"]),
        {"id": "lab/c", "downloads": 3},
    )
    found = rows(warehouse, "select nsfw_rating from catalog.models order by external_id")
    assert [each["nsfw_rating"] for each in found] == ["Questionable", "Safe", "Unknown"]


def test_the_category_of_a_tag_is_what_stands_before_its_colon(warehouse: Warehouse, hub: Source) -> None:
    take(warehouse, hub, model("it", tags=["license:mit", "art", "base_model:finetune:lab/b", ":odd"]))
    found = rows(warehouse, "select normalized_name, category from catalog.tags order by normalized_name")
    assert {each["normalized_name"]: each["category"] for each in found} == {
        "license:mit": "license",
        "art": None,
        "base_model:finetune:lab/b": "base_model",
        ":odd": None,
    }


def test_a_file_is_a_row_with_its_kind_its_content_and_where_it_is(warehouse: Warehouse, hub: Source) -> None:
    content = {"sha256": "AB" * 32, "size": 7, "pointerSize": 130}
    files = [
        {"rfilename": "b/copy.safetensors", "size": 7, "blobId": "1", "lfs": content},
        {"rfilename": "a.safetensors", "size": 7, "blobId": "2", "lfs": content},
        {"rfilename": "sub/50% off? #1.JSON"},
        {"rfilename": "README.md", "size": 12},
    ]
    take(warehouse, hub, model("it", sha="c0ffee" + 34 * "0", siblings=files))
    columns = "file_name, kind, size_bytes, sha256, url, metadata"
    found = rows(warehouse, f'select {columns} from catalog.artifacts order by file_name collate "C"')
    below = "/lab/it/resolve/c0ffee" + 34 * "0"
    assert [tuple(each.values()) for each in found] == [
        ("README.md", "Other", 12, None, f"{below}/README.md", None),
        (
            "a.safetensors",
            "Model",
            7,
            "ab" * 32,
            f"{below}/a.safetensors",
            {"blobId": "2", "lfs": {"size": 7, "pointerSize": 130}},
        ),
        ("sub/50% off? #1.JSON", "Config", None, None, f"{below}/sub/50%25%20off%3F%20%231.JSON", None),
    ]
    (kept,) = rows(warehouse, "select raw -> 'siblings' as files from catalog.models")
    assert kept["files"] == files, "the copy is in no row of its own"


def test_a_new_revision_takes_the_place_of_the_one_before_it(warehouse: Warehouse, hub: Source) -> None:
    take(warehouse, hub, model("it", sha=40 * "a", siblings=[{"rfilename": "old.bin"}, {"rfilename": "same.bin"}]))
    later = {"lastModified": "2026-11-02T12:00:00.000Z", "sha": 40 * "b", "siblings": [{"rfilename": "same.bin"}]}
    take(warehouse, hub, model("it", **later), window=Window(date(2026, 11, 2)))
    query = """
        select v.version_label, v.published_at, a.file_name
        from catalog.model_versions v join catalog.artifacts a using (model_version_id)
    """
    assert rows(warehouse, query) == [
        {
            "version_label": 12 * "b",
            "published_at": datetime(2026, 11, 2, 12, tzinfo=UTC),
            "file_name": "same.bin",
        }
    ]


# Real records


def test_real_records_land_whole(warehouse: Warehouse, hub: Source, shared_data: Path) -> None:
    """Those of the API, and those that the Python client has made into text here and there."""
    folder = shared_data / "huggingface"
    records = [
        json.loads(line)
        for name in ("api_models", "lineage_deephermes3")
        for line in (folder / f"{name}.ndjson").read_text().splitlines()
    ]
    run = take(warehouse, hub, *records)
    assert (run.status, run.counts.quarantined) == ("completed", 0)
    counted = rows(
        warehouse,
        """
        select (select count(*) from catalog.models) as models,
            (select count(*) from catalog.model_versions) as versions,
            (select count(*) from catalog.artifacts) as files,
            (select count(*) from catalog.model_tags) as tags,
            (select count(*) from catalog.model_stats) as stats,
            (select count(*) from catalog.models where raw ? 'siblings') as models_with_files_in_raw
        """,
    )
    assert counted == [
        {
            "models": 36,
            "versions": 36,
            "files": sum(isinstance(file, dict) for each in records for file in each["siblings"]),
            "tags": sum(len(set(each["tags"])) for each in records),
            "stats": 36,
            "models_with_files_in_raw": 5,
        }
    ]
    types = rows(warehouse, "select type, count(*) from catalog.models group by type order by type")
    assert [tuple(each.values()) for each in types] == [("Checkpoint", 4), ("LLM", 23), ("Other", 9)]


@pytest.mark.long("real payloads, where they are")
def test_seven_daily_listings_give_the_series_of_each_models_counters(
    warehouse: Warehouse, hub: Source, shared_data: Path
) -> None:
    expected: dict[str, list[tuple[date, int, int]]] = {}
    for path in sorted((shared_data / "hf_trending_daily").glob("*.json")):
        day = datetime.strptime(path.stem.rpartition("_")[2], "%d-%m-%Y").date()
        columns = json.loads(path.read_bytes())
        records = [{name: column[row] for name, column in columns.items()} for row in columns["id"]]
        for each in records:
            series = expected.setdefault(each["id"], [])
            if not series or series[-1][1:] != (each["downloads"], each["likes"]):
                series.append((day, each["downloads"], each["likes"]))
        run = take(warehouse, hub, *records, window=Window(day))
        assert (run.status, run.counts.quarantined) == ("completed", 0)

    found: dict[str, list[tuple[date, int, int]]] = {}
    query = "select m.name, s.* from catalog.model_stats s join catalog.models m using (model_id) order by observed_at"
    for each in rows(warehouse, query):
        found.setdefault(each["name"], []).append((each["observed_at"].date(), each["downloads"], each["likes"]))
    assert found == expected
    assert max(map(len, found.values())) == 7

    latest = rows(
        warehouse,
        "select name, (raw -> 'downloads')::int as downloads, (raw -> 'likes')::int as likes from catalog.models",
    )
    assert {each["name"]: (each["downloads"], each["likes"]) for each in latest} == {
        name: series[-1][1:] for name, series in expected.items()
    }
