"""CivitAI: real models, the documentation's own examples, images returned twice, counters, and a listing with holes."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from pipelines.connectors.http import Client
from pipelines.ledger import Run
from pipelines.source import Cursor, FullScan, Item, Payload, Source, Window
from pipelines.warehouse.database import Warehouse
from tests.runs import fetched, land_items, land_recorded, transform

pytestmark = pytest.mark.emptied

DAY, NEXT_DAY = date(2026, 11, 1), date(2026, 11, 2)
NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
MODELS, IMAGES = "/api/v1/models", "/api/v1/images"


def payload(kind: str, document: dict[str, Any]) -> Payload:
    return Payload(json.dumps(document).encode(), f"{kind} {document['id']}", kind=kind)


def take(warehouse: Warehouse, source: Source, *items: Item, day: date = DAY) -> Run:
    window = Window(day)
    land_items(warehouse, source, window.key, items, received_at=window.start)
    return transform(warehouse, source, window.key)


def rows(warehouse: Warehouse, query: str) -> list[dict[str, Any]]:
    with warehouse.connect() as connection:
        return connection.execute(query.encode()).fetchall()


def number_of(warehouse: Warehouse, *tables: str) -> dict[str, int]:
    return {table: rows(warehouse, f"select count(*) as number from catalog.{table}")[0]["number"] for table in tables}


def model(number: int, *versions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": number, "name": f"Lighthouse {number}", "type": "LORA", "modelVersions": list(versions), **more}


def version(number: int, *images: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": number, "name": f"v{number}", "images": list(images), **more}


def image(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "url": f"https://image.example/{number}.jpeg", **more}


# Real payloads


def test_real_models_land_and_each_of_their_parts_is_a_row(
    warehouse: Warehouse, civitai: Source, shared_data: Path
) -> None:
    lines = (shared_data / "civitai" / "models_dev.ndjson").read_text().splitlines()
    run = take(warehouse, civitai, *(payload("models", json.loads(line)) for line in lines))
    assert (run.status, run.counts.quarantined) == ("completed", 0)
    assert number_of(warehouse, "models", "model_versions", "artifacts", "images", "prompts", "model_stats") == {
        "models": 200,
        "model_versions": 233,
        "artifacts": 252,
        "images": 1663,
        "prompts": 1265,
        "model_stats": 200,
    }


def test_the_examples_of_the_documentation_land_but_for_a_checksum_that_they_abbreviate(
    warehouse: Warehouse, civitai: Source, shared_data: Path
) -> None:
    pages = shared_data / "civitai" / "current_api_doc_examples"
    run = take(
        warehouse,
        civitai,
        *(
            payload(kind, document)
            for kind in ("models", "images")
            for document in json.loads((pages / f"{kind}_0.json").read_text())["items"]
        ),
    )
    assert (run.counts.quarantined, run.stats["values"]) == (0, 1)
    assert rows(warehouse, "select count(*) as number from catalog.artifacts where sha256 is null") == [{"number": 1}]
    assert number_of(warehouse, "models", "model_versions", "artifacts", "images", "prompts", "model_stats") == {
        "models": 1,
        "model_versions": 1,
        "artifacts": 1,
        "images": 1,
        "prompts": 1,
        "model_stats": 1,
    }
    (series,) = rows(warehouse, "select downloads, likes, rating, metadata from catalog.model_stats")
    rest = {"thumbsDownCount": 202, "commentCount": 1931, "tippedAmountCount": 156742}
    assert series == {"downloads": 1272529, "likes": 79272, "rating": None, "metadata": rest}


# Images of the listing and of showcases

SHOWN = """
    select i.external_id as image, v.external_id as version, m.external_id as model, i.rating, p.text
    from catalog.images as i
    left join catalog.model_versions as v using (model_version_id)
    left join catalog.models as m on m.model_id = i.model_id
    left join catalog.prompts as p using (image_id)
    order by i.external_id
"""


@pytest.mark.parametrize("first", ["models", "images", "both"])
def test_an_image_told_by_both_is_the_listings_in_any_order_of_arrival(
    warehouse: Warehouse, civitai: Source, first: str
) -> None:
    shown = image(7, nsfwLevel=1, meta={"prompt": "as the model shows it"})
    told = {
        "models": payload("models", model(1, version(11, shown, image(8, nsfwLevel=1)))),
        "images": payload("images", image(7, browsingLevel=2, modelVersionIds=[11], meta={"prompt": "as listed"})),
    }
    if first == "both":
        take(warehouse, civitai, *told.values())
    else:
        take(warehouse, civitai, told.pop(first))
        take(warehouse, civitai, *told.values(), day=NEXT_DAY)
    assert rows(warehouse, SHOWN) == [
        {"image": "7", "version": "11", "model": None, "rating": "Questionable", "text": "as listed"},
        {"image": "8", "version": "11", "model": "1", "rating": "Safe", "text": None},
    ]


def test_an_image_has_the_smallest_of_its_versions_once_that_is_known(warehouse: Warehouse, civitai: Source) -> None:
    take(warehouse, civitai, payload("images", image(7, modelVersionIds=[110, 11, 9])), payload("images", image(8)))
    assert [row["version"] for row in rows(warehouse, SHOWN)] == [None, None]
    take(warehouse, civitai, payload("models", model(1, version(9), version(11))), day=NEXT_DAY)
    assert [row["version"] for row in rows(warehouse, SHOWN)] == ["9", None]


@pytest.mark.parametrize(
    ("said", "rating"),
    [
        ({"nsfw": False, "nsfwLevel": "None", "browsingLevel": 1}, "Safe"),
        ({"nsfw": True, "nsfwLevel": "Soft", "browsingLevel": 2}, "Questionable"),
        ({"nsfw": True, "nsfwLevel": "Mature", "browsingLevel": 4}, "Questionable"),
        ({"nsfw": True, "nsfwLevel": "X", "browsingLevel": 16}, "Explicit"),
        ({"nsfw": True, "nsfwLevel": "Blocked", "browsingLevel": 32}, "Explicit"),
        ({"nsfw": True, "nsfwLevel": "Mature"}, "Questionable"),
        ({"nsfw": True}, "Explicit"),
        ({}, "Unknown"),
    ],
    ids=str,
)
def test_a_listed_image_is_rated_by_the_most_exact_of_what_is_said(
    warehouse: Warehouse, civitai: Source, said: dict[str, Any], rating: str
) -> None:
    take(warehouse, civitai, payload("images", image(7, **said)))
    assert [row["rating"] for row in rows(warehouse, SHOWN)] == [rating]


@pytest.mark.parametrize(
    ("meta", "text"),
    [
        (None, None),
        ({"steps": 20}, None),
        ({"prompt": "a quiet harbour"}, "a quiet harbour"),
        ({"id": 7, "meta": {"prompt": "a quiet harbour"}}, "a quiet harbour"),
        ({"id": 7, "meta": None}, None),
    ],
    ids=str,
)
def test_a_listed_image_may_have_a_prompt_wrapped_or_not(
    warehouse: Warehouse, civitai: Source, meta: dict[str, Any] | None, text: str | None
) -> None:
    take(warehouse, civitai, payload("images", image(7, meta=meta)))
    assert [row["text"] for row in rows(warehouse, SHOWN)] == [text]


# Counters


def test_counters_are_a_series_and_make_no_version(warehouse: Warehouse, civitai: Source) -> None:
    for day, downloads in ((DAY, 10), (NEXT_DAY, 12)):
        counted = model(
            1,
            version(11, stats={"downloadCount": downloads}),
            stats={"downloadCount": downloads, "favoriteCount": 3, "rating": 4.5, "commentCount": 1},
        )
        take(warehouse, civitai, payload("models", counted), day=day)
    series = rows(
        warehouse, "select downloads, likes, rating::text, metadata from catalog.model_stats order by observed_at"
    )
    assert series == [
        {"downloads": downloads, "likes": 3, "rating": "4.5", "metadata": {"commentCount": 1}} for downloads in (10, 12)
    ]
    assert rows(warehouse, "select count(*) as versions from staging.versions") == [{"versions": 1}]
    (latest,) = rows(
        warehouse,
        """
        select m.raw -> 'stats' as model, v.metadata -> 'stats' as version
        from catalog.models as m join catalog.model_versions as v using (model_id)
        """,
    )
    assert latest == {"model": None, "version": {"downloadCount": 12}}


# The listings


@dataclass
class Site:
    """The API as far as it is asked here. leaves_out: its next page begins one record too late."""

    models: list[dict[str, Any]]
    images: list[dict[str, Any]]
    leaves_out: bool = False
    asked: list[str] = field(default_factory=list)

    def answer(self, request: Request) -> Response:
        self.asked.append(request.full_path)
        records = self.models if request.path == MODELS else self.images
        if wanted := request.args.get("imageId"):
            return page([each for each in records if str(each["id"]) == wanted])
        begin, limit = int(request.args.get("cursor", 0)), int(request.args["limit"])
        end = begin + limit
        if end >= len(records):
            return page(records[begin:])
        following = urlencode({**request.args, "cursor": end + self.leaves_out})
        return page(records[begin:end], f"{request.base_url}?{following}")


def page(records: list[dict[str, Any]], following: str | None = None) -> Response:
    return Response(json.dumps({"items": records, "metadata": {"nextPage": following} if following else {}}))


def published(number: int) -> dict[str, Any]:
    """A model of many, each published a minute after the one with the next smaller number."""
    at = NOON + timedelta(minutes=number)
    return model(number, version(number * 10, publishedAt=at.isoformat()))


def posted(number: int) -> dict[str, Any]:
    return image(number, createdAt=(NOON + timedelta(minutes=number)).isoformat())


@pytest.fixture
def site() -> Site:
    return Site([], [])


@pytest.fixture
def client(site: Site) -> Iterator[Client]:
    with HTTPServer() as server:
        server.expect_request(MODELS).respond_with_handler(site.answer)
        server.expect_request(IMAGES).respond_with_handler(site.answer)
        with Client("catalog/civitai", server.url_for("")) as client:
            yield client


def listed(items: list[Item], kind: str) -> list[int]:
    return [json.loads(each.body)["id"] for each in items if isinstance(each, Payload) and each.kind == kind]


@pytest.mark.parametrize("models", [100, 150, 250, 1000])
@pytest.mark.parametrize("day", range(1, 8))
@pytest.mark.sample(6)
def test_what_the_listing_of_one_day_leaves_out_between_pages_that_of_the_next_one_has(
    civitai: Source, site: Site, client: Client, models: int, day: int
) -> None:
    site.models = [published(number) for number in reversed(range(models))]
    site.leaves_out = True
    windows = [Window(date(2026, 11, day + after), full_refresh=True) for after in (0, 1)]
    first, second = (fetched(civitai, client, window) for window in windows)
    assert len(listed(first, "models")) < models
    assert sorted({*listed(first, "models"), *listed(second, "models")}) == list(range(models))
    assert {each.kind for each in first if isinstance(each, FullScan)} == {"models"}


def test_two_runs_of_a_day_ask_for_pages_of_different_sizes_and_two_replays_of_the_same(
    civitai: Source, site: Site, client: Client
) -> None:
    cursors: list[dict[str, Any]] = [
        {},
        {},
        *({"models": {"value": f"2026-11-05T12:00:{n:02}+00:00"}} for n in range(9)),
    ]
    for each in cursors:
        fetched(civitai, client, Window(DAY, full_refresh=True, cursors=each))
    sizes = [target.partition("limit=")[2].partition("&")[0] for target in site.asked if "sort=Newest" in target]
    sizes = [size for size in sizes if size != "200"]
    assert (len(sizes), sizes[0] == sizes[1], len(set(sizes))) == (11, True, 3)


def test_an_increment_tells_new_versions_of_old_models_and_ends_at_known_ground(
    civitai: Source, site: Site, client: Client
) -> None:
    site.models = [published(number) for number in reversed(range(250))]
    site.images = [posted(number) for number in reversed(range(500))]
    marks = {
        each.listing: each.value
        for each in fetched(civitai, client, Window(DAY, full_refresh=True))
        if isinstance(each, Cursor)
    }
    renewed = site.models.pop()
    renewed["modelVersions"].append(version(5, publishedAt=(NOON + timedelta(days=1)).isoformat()))
    site.models.insert(0, renewed)
    site.images.insert(0, posted(500))
    site.asked.clear()
    items = fetched(civitai, client, Window(NEXT_DAY, cursors=marks))
    assert listed(items, "models")[0] == renewed["id"]
    assert listed(items, "images")[0] == 500
    assert len([target for target in site.asked if "cursor" in target]) == 2  # the page on which known ground begins
    assert [each for each in items if isinstance(each, FullScan)] == []


def test_a_cursor_of_another_base_url_does_not_count(
    warehouse: Warehouse, civitai: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A site with older models too is read whole, not down to where the listing of the first site began."""
    today = datetime.now(UTC).date()
    for oldest in (300, 0):
        site = Site([published(number) for number in reversed(range(oldest, 600))], [])
        with HTTPServer() as server:
            server.expect_request(MODELS).respond_with_handler(site.answer)
            server.expect_request(IMAGES).respond_with_handler(site.answer)
            monkeypatch.setenv("ATLAS_CIVITAI_BASE_URL", server.url_for(""))
            run = land_recorded(warehouse, replace(civitai, rate=None), Window(today), "live")
        assert run.counts.created == 300


def test_the_change_token_changes_with_a_new_version_or_image_and_with_nothing_else(
    civitai: Source, site: Site, client: Client
) -> None:
    assert civitai.change_token
    site.models, site.images = [published(2), published(1)], [posted(1)]

    def tokens() -> list[str]:
        assert civitai.change_token
        return [civitai.change_token(client, kind) for kind in civitai.contracts]

    seen = tokens()
    assert len(site.asked) == 2
    site.models[0]["stats"] = {"downloadCount": 1}
    assert tokens() == seen
    site.models[0] |= {"modelVersions": [version(21, publishedAt=(NOON + timedelta(days=1)).isoformat())]}
    renewed = tokens()
    site.images.insert(0, posted(2))
    assert len({tuple(each) for each in (seen, renewed, tokens())}) == 3
