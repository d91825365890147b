"""Danbooru and e621: paging of a booru served over real HTTP, what ratings and tags become, and real posts."""

import csv
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from pipelines import project
from pipelines.connectors.http import Client
from pipelines.source import Checkpoint, Cursor, FullScan, Item, Payload, Source, Window
from pipelines.warehouse.database import Warehouse
from tests.runs import fetched, land_items, transform

pytestmark = pytest.mark.emptied

Record = dict[str, Any]
DAY = "2026-11-01"
TODAY, PAST_DAY = Window.of(DAY), replace(Window.of(DAY), current=False)
ABOVE_ALL = 2**31 - 1
MOST = 7
LAST_PAGE = 9


@dataclass
class Booru:
    """A booru with the paging grammar of both sites; a page has no more than seven records."""

    name: str
    posts: list[Record] = field(default_factory=list)
    tags: list[Record] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def add(self, post_id: int, *, created: str = f"{DAY}T12:00:00Z", change: int = 0) -> None:
        common = {"id": post_id, "created_at": created, "updated_at": created}
        if self.name == "danbooru":
            self.posts.append(common | {"rating": "g", "tag_string": "sea sky"})
        else:
            tags = {"general": ["sea", "sky"], "meta": []}
            self.posts.append(common | {"rating": "s", "tags": tags, "change_seq": change or post_id})

    def change(self, post_id: int, updated: str, change: int) -> None:
        (post,) = [each for each in self.posts if each["id"] == post_id]
        post |= {"updated_at": updated} if self.name == "danbooru" else {"change_seq": change}

    def add_tag(self, tag_id: int, name: str) -> None:
        self.tags.append({"id": tag_id, "name": name, "category": 0, "post_count": 1, "created_at": f"{DAY}T12:00:00Z"})

    def answer(self, request: Request) -> Response:
        kind, _, number = request.path.removeprefix("/").removesuffix(".json").partition("/")
        self.asked.append(f"{kind}/{number}" if number else f"{kind} {request.args.get('page', '1')}")
        records = self.posts if kind == "posts" else self.tags
        if number:
            found = [each for each in records if each["id"] == int(number)]
            document: Any = found[0] if found else {"success": False}
            wrapped = {"post": document} if self.name == "e621" and kind == "posts" else document
            return Response(json.dumps(wrapped), 200 if found else 404, content_type="application/json")
        words, size = request.args.get("tags", "").split(), min(int(request.args["limit"]), MOST)
        page = self.page(records, words, request.args.get("page", "1"), size)
        document = page
        if self.name == "e621":
            document = {kind: page} if kind == "posts" or not page else page
        return Response(json.dumps(document), content_type="application/json")

    def page(self, records: list[Record], words: list[str], page: str, size: int) -> list[Record]:
        """A day is told by created_at, changes by their time or number, and `b<id>` always by id."""
        order, first = "id", 0
        for word in words:
            if word.startswith("date:"):
                order = "created_at"
                since, dots, last = word.removeprefix("date:").partition("..")
                until = last or ("9999" if dots else since)
                records = [each for each in records if since <= each[order][:10] <= until]
            elif word == "order:change":
                order = "updated_at" if self.name == "danbooru" else "change_seq"
        if page.startswith("b"):
            order = "id"
            records = [each for each in records if each[order] < int(page[1:])]
        else:
            assert int(page) <= LAST_PAGE
            first = size * (int(page) - 1)
        return sorted(records, key=lambda each: each[order], reverse=True)[first : first + size]


@pytest.fixture(params=["danbooru", "e621"])
def source(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setattr(f"assets.catalog.{request.param}.PAGE_SIZE", MOST)
    monkeypatch.setattr(f"assets.catalog.{request.param}.LAST_PAGE", LAST_PAGE)
    return project.sources()[f"catalog/{request.param}"]


@pytest.fixture
def booru(source: Source, httpserver: HTTPServer) -> Booru:
    made = Booru(source.stem)
    httpserver.expect_request("").respond_with_handler(made.answer)
    return made


@pytest.fixture
def client(source: Source, httpserver: HTTPServer) -> Iterator[Client]:
    with Client(source.name, httpserver.url_for("")) as opened:
        yield opened


def told(items: list[Item], kind: str) -> list[int]:
    """Ids of the payloads of a kind, in the order received."""
    return [json.loads(item.body)["id"] for item in items if isinstance(item, Payload) and item.kind == kind]


def after(items: list[Item], window: Window = TODAY) -> Window:
    """The window of the run after one that yielded these items."""
    return replace(window, cursors={item.listing: item.value for item in items if isinstance(item, Cursor)})


# Paging


def test_a_past_day_is_read_by_id_to_an_empty_page(source: Source, booru: Booru, client: Client) -> None:
    """Ids and times of creation may disagree: by created_at, some would be lost below the first page."""
    for post_id in range(1, 16):
        booru.add(post_id, created=f"{DAY}T{post_id * 7 % 24:02}:00:00Z")
    booru.add(16, created="2026-11-02T00:00:00Z")
    booru.add_tag(1, "sea")
    items = fetched(source, client, PAST_DAY)
    assert told(items, "posts") == list(range(15, 0, -1))
    assert booru.asked == [f"posts b{ABOVE_ALL}", "posts b9", "posts b2", "posts b1"]
    assert [item for item in items if isinstance(item, FullScan)] == [FullScan("posts", 4, id_range=(1, 15))]


def test_a_day_without_posts_is_one_empty_page_that_proves_nothing(
    source: Source, booru: Booru, client: Client
) -> None:
    items = fetched(source, client, PAST_DAY)
    assert [item for item in items if isinstance(item, FullScan)] == []
    assert told(items, "posts") == []


def test_the_next_run_reads_down_to_what_the_last_one_saw(source: Source, booru: Booru, client: Client) -> None:
    for number in range(1, 31):
        booru.add(number, created=f"2026-10-{number:02}T00:00:00Z", change=5000 * number)
        booru.add_tag(100 * number, f"tag_{number}")
    first = fetched(source, client, TODAY)
    booru.asked.clear()
    booru.change(1, f"{DAY}T13:00:00Z", 155_000)
    booru.add(31, created=f"{DAY}T14:00:00Z", change=160_000)
    booru.add_tag(3100, "tag_31")
    second = fetched(source, client, after(first))
    assert told(second, "posts") == [31, 1, 30, 29, 28, 27, 26, 26, 25, 24, 23, 22, 21]
    assert told(second, "tags") == [3100 - 100 * number for number in range(14)]
    assert booru.asked == ["posts 1", "posts 2", f"tags b{ABOVE_ALL}", "tags b2500"]
    third = fetched(source, client, after(second, after(first)))
    assert after(third).cursors["posts"]["value"] == after(second).cursors["posts"]["value"]
    assert [item for item in [*second, *third] if isinstance(item, FullScan)] == []


def test_the_first_run_reads_the_day_and_one_page_of_tags(source: Source, booru: Booru, client: Client) -> None:
    for number in range(1, 21):
        booru.add(number, created=f"{DAY if number > 8 else '2026-10-31'}T{number:02}:00:00Z")
        booru.add_tag(number, f"tag_{number}")
    items = fetched(source, client, TODAY)
    assert set(range(9, 21)) <= set(told(items, "posts"))
    assert told(items, "tags") == [20, 19, 18, 17, 16, 15, 14]
    assert [item.kind for item in items if isinstance(item, FullScan) and item.kind == "tags"] == []


def test_a_full_refresh_reads_news_a_month_and_every_tag(source: Source, booru: Booru, client: Client) -> None:
    for number in range(1, 21):
        booru.add(number, created=f"2026-10-{number // 6 + 1:02}T{number:02}:00:00Z")
        booru.add_tag(number, f"tag_{number}")
    marked = after(fetched(source, client, TODAY))
    items = fetched(source, client, replace(marked, full_refresh=True))
    assert told(items, "tags") == list(range(20, 0, -1))
    full_scans = {item.kind: item.id_range for item in items if isinstance(item, FullScan)}
    assert full_scans == {"tags": None, "posts": (6, 20)}
    assert set(told(items, "posts")) >= set(range(6, 21))


def test_a_run_that_goes_on_asks_for_the_page_after_the_last_landed(
    source: Source, booru: Booru, client: Client
) -> None:
    for number in range(1, 21):
        booru.add(number, created=f"{DAY}T{number:02}:00:00Z", change=10_000 * number)
    marked = replace(TODAY, cursors={"posts": {"value": 5000 if source.stem == "e621" else f"{DAY}T00:30:00+00:00"}})
    items = fetched(source, client, marked)
    assert told(items, "posts")[:15] == [20, 19, 18, 17, 16, 15, 14, 14, 13, 12, 11, 10, 9, 10, 9]
    asked = booru.asked.copy()
    booru.asked.clear()
    _, second = [item for item in items if isinstance(item, Checkpoint) and item.listing == "posts"][:2]
    broken_off = replace(marked, checkpoints={"posts": second.state})
    assert told(fetched(source, client, broken_off), "posts") == told(items, "posts")[13:]
    assert booru.asked == asked[2:]


def test_more_changes_than_pages_are_noted_and_the_cursor_stays(source: Source, booru: Booru, client: Client) -> None:
    for number in range(1, 101):
        booru.add(number, change=10_000 * number)
    mark = 1 if source.stem == "e621" else "2020-01-01T00:00:00+00:00"
    items = fetched(source, client, replace(TODAY, cursors={"posts": {"value": mark}}))
    assert len(set(told(items, "posts"))) > 50
    assert client.notes["listings that ended before the last cursor, which is kept"] == 1
    assert after(items).cursors["posts"]["value"] == mark
    assert [item for item in items if isinstance(item, FullScan) and item.kind == "posts"] == []


@pytest.mark.parametrize("source", ["e621"], indirect=True)
def test_a_change_that_leaves_its_time_as_it_is_hides_none_below_it(
    source: Source, booru: Booru, client: Client
) -> None:
    """A flag gives a post of e621 a new change_seq, but no new updated_at."""
    for number in range(1, 10):
        booru.add(number, created="2020-01-01T00:00:00Z", change=10_000 * number)
    marked = replace(TODAY, cursors={"posts": {"value": 10_500}})
    assert set(told(fetched(source, client, marked), "posts")) == set(range(1, 10))


def test_a_record_is_fetched_by_its_own_url(source: Source, booru: Booru, client: Client) -> None:
    assert source.get_record and source.change_token
    booru.add(7)
    booru.add_tag(8, "sea")
    post, tag = source.get_record(client, "posts", "7"), source.get_record(client, "tags", "8")
    assert isinstance(post, Payload) and isinstance(tag, Payload)
    assert (json.loads(post.body)["id"], post.kind, json.loads(tag.body)["name"], tag.kind) == (
        7,
        "posts",
        "sea",
        "tags",
    )
    assert post.request.endswith("/posts/7.json")
    assert source.get_record(client, "posts", "9") is None
    assert source.get_record(client, "tags", "9") is None


def test_the_change_token_follows_a_change_and_a_new_tag_but_no_count(
    source: Source, booru: Booru, client: Client
) -> None:
    assert source.change_token
    change_token = source.change_token

    def tokens() -> tuple[str, ...]:
        return tuple(change_token(client, kind) for kind in source.contracts)

    told = [tokens()]
    booru.add(1, created="2026-10-01T00:00:00Z")
    booru.add_tag(1, "sea")
    told.append(tokens())
    booru.change(1, f"{DAY}T13:00:00Z", 2)
    told.append(tokens())
    booru.add_tag(2, "sky")
    told.append(tokens())
    booru.tags[1]["post_count"] = 17
    assert tokens() == told[-1]
    assert len(set(told)) == 4
    assert len(booru.asked) == 2 * 5


# What posts and tags become


def take(warehouse: Warehouse, source: Source, posts: list[Record], tags: list[Record]) -> None:
    """Lands and transforms; no record may be refused, and no row be left over."""
    items = [
        Payload(json.dumps(record).encode(), f"test:{kind}", kind=kind)
        for kind, records in (("posts", posts), ("tags", tags))
        for record in records
    ]
    land_items(warehouse, source, DAY, items, received_at=TODAY.start)
    transform(warehouse, source, DAY)
    assert query(warehouse, "select * from staging.quarantine") == []


def query(warehouse: Warehouse, text: str) -> list[Record]:
    with warehouse.connect() as connection:
        return connection.execute(text.encode()).fetchall()


def post(source: Source, post_id: int, rating: str | None, *words: str) -> Record:
    tags: Record = {"tag_string": " ".join(words)} if source.stem == "danbooru" else {"tags": {"general": words}}
    return {"id": post_id, "rating": rating} | tags


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("danbooru", {"g": "Safe", "s": "Questionable", "q": "Questionable", "e": "Explicit", "x": "Unknown"}),
        ("e621", {"s": "Safe", "q": "Questionable", "e": "Explicit", "g": "Unknown"}),
    ],
    indirect=["source"],
)
def test_ratings_read_alike(warehouse: Warehouse, source: Source, expected: dict[str, str]) -> None:
    posts = [post(source, number, rating, "sea") for number, rating in enumerate(expected)]
    take(warehouse, source, [*posts, post(source, 99, None, "sea")], [])
    rows = query(warehouse, "select metadata ->> 'rating' as said, rating from catalog.images")
    assert {row["said"]: row["rating"] for row in rows} == expected | {None: "Unknown"}


def test_a_tag_is_one_by_its_name_and_a_record_defines_its_category(warehouse: Warehouse, source: Source) -> None:
    posts = [post(source, 1, "s", "Light_House", "sea"), post(source, 2, "s", "light_house", "long__exposure", "gulls")]
    categories = {"light_house": 0, "sea": 5, "long_exposure": 99}
    tags = [{"id": number, "name": name, "category": categories[name]} for number, name in enumerate(categories, 1)]
    take(warehouse, source, posts, tags)
    rows = query(
        warehouse,
        """
        select t.normalized_name, t.name, d.name as defined, d.category
        from catalog.tags t left join catalog.tag_definitions d using (tag_id)
        """,
    )
    assert {row.pop("normalized_name"): tuple(row.values()) for row in rows} == {
        "light_house": ("light house", "light_house", "general"),
        "sea": ("sea", "sea", "meta" if source.stem == "danbooru" else "species"),
        "long_exposure": ("long exposure", "long_exposure", "99"),
        "gulls": ("gulls", None, None),
    }
    links = query(
        warehouse, "select spelling, normalized_name from catalog.image_tags join catalog.tags using (tag_id)"
    )
    assert Counter(row["normalized_name"] for row in links) == Counter(
        {"light_house": 2, "sea": 1, "long_exposure": 1, "gulls": 1}
    )
    assert {row["spelling"] for row in links} == {"Light_House", "light_house", "sea", "long__exposure", "gulls"}


def test_an_image_tag_has_the_category_under_which_the_post_lists_it(warehouse: Warehouse, source: Source) -> None:
    words = {"artist": "ann bob", "general": "sea"}
    if source.stem == "danbooru":
        of_post: Record = {"tag_string": "ann bob sea fog"} | {
            f"tag_string_{name}": each for name, each in words.items()
        }
    else:
        of_post = {"tags": {name: each.split() for name, each in words.items()} | {"fog": ["mist"]}}
    take(warehouse, source, [{"id": 1, "rating": "s"} | of_post], [])
    rows = query(warehouse, "select spelling, category from catalog.image_tags")
    listed = {"ann": "artist", "bob": "artist", "sea": "general"}
    expected = listed | ({"fog": None} if source.stem == "danbooru" else {"mist": "fog"})
    assert {row["spelling"]: row["category"] for row in rows} == expected


def test_a_post_without_its_file_is_an_image_still(warehouse: Warehouse, source: Source) -> None:
    hidden = post(source, 1, "q", "sea")
    take(warehouse, source, [hidden | {"file": {"md5": None, "url": None}, "preview": None}], [])
    (row,) = query(warehouse, "select external_id, md5, url, preview_url, width from catalog.images")
    assert row == {"external_id": "1", "md5": None, "url": None, "preview_url": None, "width": None}


def test_tags_that_are_no_rows_of_their_own_stay_with_the_image(warehouse: Warehouse, source: Source) -> None:
    take(warehouse, source, [post(source, 1, "s", "sea", "SEA"), post(source, 2, "s", "sea", "_")], [])
    key = "tag_string" if source.stem == "danbooru" else "tags"
    rows = query(warehouse, f"select metadata ? '{key}' as kept from catalog.images")
    assert [row["kept"] for row in rows] == [True, True]


# Real records


def test_real_posts_of_ten_years_have_all_their_tags(warehouse: Warehouse, source: Source, shared_data: Path) -> None:
    document = json.loads((shared_data / "booru" / f"{source.stem}_posts.json").read_bytes())
    posts: list[Record] = document["posts"] if source.stem == "e621" else document
    take(warehouse, source, posts, [])
    expected = {}
    for each in posts:
        groups = each["tags"].values() if source.stem == "e621" else [each["tag_string"].split()]
        expected[str(each["id"])] = sorted(word for group in groups for word in group)
    rows = query(
        warehouse,
        """
        select i.external_id, array_agg(t.spelling order by t.spelling collate "C") as words
        from catalog.images as i join catalog.image_tags as t using (image_id) group by i.external_id
        """,
    )
    assert {row["external_id"]: row["words"] for row in rows} == expected
    files = query(warehouse, "select count(md5) as md5, count(url) as url, count(width) as width from catalog.images")
    assert files == [{"md5": len(posts), "url": len(posts), "width": len(posts)}]
    assert query(warehouse, "select * from catalog.images where metadata ?| array['tags', 'tag_string', 'md5']") == []


@pytest.mark.parametrize("source", ["e621"], indirect=True)
def test_real_tags_have_their_categories(warehouse: Warehouse, source: Source, shared_data: Path) -> None:
    with (shared_data / "booru" / "tags_e621_sfw.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    tags = [
        {"id": number, "name": name, "category": int(category), "post_count": int(posts)}
        for number, (name, category, posts, _) in enumerate(lines, 1)
    ]
    take(warehouse, source, [], tags)
    words = {0: "general", 1: "artist", 3: "copyright", 4: "character", 5: "species", 7: "meta", 8: "lore"}
    rows = query(warehouse, "select category, count(*) as number from catalog.tag_definitions group by category")
    assert {row["category"]: row["number"] for row in rows} == Counter(words[int(line[1])] for line in lines)
