"""Ollama: a server and a library over real HTTP, a model that both have, numbers in words, and the real listings."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from decimal import Decimal
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
from tests.runs import land_listing, land_recorded, transform

pytestmark = pytest.mark.emptied

Record = dict[str, Any]
FIRST, SECOND, THIRD = (Window(date(2026, 11, day)) for day in (1, 2, 3))
SERVER, LIBRARY = (replace(FIRST, kind=kind) for kind in ("local", "library"))
BLOB = 32 * "c4"
LISTING = "/some/models.json"


@pytest.fixture(scope="module")
def ollama() -> Source:
    return project.sources()["catalog/ollama"]


def local(name: str, **more: Any) -> Record:
    return {"name": name, "model": name, "size": 5, "digest": 32 * "d1", "details": {"family": "llama"}} | more


def shown(**more: Any) -> Record:
    return {
        "modelfile": f"# FROM it\n\nFROM /models/blobs/sha256-{BLOB}\nPARAMETER stop x\n",
        "license": "MIT",
        "details": {},
    } | more


def listed(*tags: str, **more: Any) -> Record:
    described = {tag: {"size": "4.9GB", "modelHash": 6 * "d1", "capabilities": []} for tag in tags}
    return {"description": "A model.", "categories": ["tools"], "pullCount": "1.5M", "tags": described} | more


def payload(kind: str, name: str, document: Record) -> Payload:
    return Payload(json.dumps(document).encode(), kind, external_id=name, kind=kind)


def take(warehouse: Warehouse, source: Source, items: list[Item], window: Window = FIRST) -> tuple[Run, Run]:
    landed = land_listing(warehouse, source, window.key, items, window.start, get_record=None)
    return landed, transform(warehouse, source, window.key)


def rows(warehouse: Warehouse, query: str) -> list[Record]:
    with warehouse.connect() as connection:
        return connection.execute(query.encode()).fetchall()


def values(warehouse: Warehouse, query: str) -> list[tuple[Any, ...]]:
    return [tuple(each.values()) for each in rows(warehouse, query)]


# A server and a library


@dataclass
class Fake:
    """A server that lists and shows models, and a document of the library elsewhere, which knows conditions."""

    listed: list[Record] = field(default_factory=list)
    shown: dict[str, Record] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)
    library: bytes = b'{"models": {}}'

    def tags(self, _: Request) -> Response:
        return Response(json.dumps({"models": self.listed}), content_type="application/json")

    def show(self, request: Request) -> Response:
        asked = request.get_json()
        assert list(asked) == ["model"]
        if asked["model"] in self.refused:
            return Response(status=403)
        document = self.shown.get(asked["model"])
        return Response(json.dumps(document or {"error": "model not found"}), 200 if document else 404)

    def document(self, request: Request) -> Response:
        answer = Response(self.library, content_type="application/json")
        answer.add_etag()
        return answer.make_conditional(request)


@pytest.fixture
def fake(httpserver: HTTPServer) -> Fake:
    made = Fake()
    httpserver.expect_request("/api/tags", method="GET").respond_with_handler(made.tags)
    httpserver.expect_request("/api/show", method="POST").respond_with_handler(made.show)
    httpserver.expect_request(LISTING, method="GET").respond_with_handler(made.document)
    return made


@pytest.fixture
def client(fake: Fake, httpserver: HTTPServer) -> Iterator[Client]:
    with Client("catalog/ollama", httpserver.url_for("")) as opened:
        yield opened


@pytest.fixture
def library_client(fake: Fake, httpserver: HTTPServer) -> Iterator[Client]:
    with Client("catalog/ollama", httpserver.url_for(LISTING)) as opened:
        yield opened


def told(items: list[Item]) -> list[tuple[str, str | None]]:
    return [
        (each.kind, each.external_id or json.loads(each.body)["name"]) for each in items if isinstance(each, Payload)
    ]


def full_scans(items: list[Item]) -> list[Item]:
    return [each for each in items if isinstance(each, FullScan)]


def test_server_and_library_are_read_whole_and_say_so(
    ollama: Source, fake: Fake, client: Client, library_client: Client
) -> None:
    fake.listed = [local("a:latest"), local("b:1b")]
    fake.shown = {"a:latest": shown(), "b:1b": shown(system="Be kind.")}
    fake.library = json.dumps({"totalModels": 1, "models": {"a": listed("latest")}}).encode()
    items = [*ollama.fetch(client, SERVER), *ollama.fetch(library_client, LIBRARY)]
    assert told(items) == [
        ("local", "a:latest"),
        ("shown", "a:latest"),
        ("local", "b:1b"),
        ("shown", "b:1b"),
        ("library", "a"),
    ]
    assert full_scans(items) == [FullScan("shown", 1), FullScan("local", 1), FullScan("library", 1)]
    documents = {each.kind: json.loads(each.body) for each in items if isinstance(each, Payload)}
    assert documents == {"local": local("b:1b"), "shown": shown(system="Be kind."), "library": listed("latest")}


def test_an_unchanged_library_is_not_sent_again_and_nothing_of_it_is_missing(
    ollama: Source, fake: Fake, library_client: Client
) -> None:
    fake.library = json.dumps({"models": {"a": listed("latest")}}).encode()
    marks = {each.listing: each.value for each in ollama.fetch(library_client, LIBRARY) if isinstance(each, Cursor)}
    again = list(ollama.fetch(library_client, replace(LIBRARY, cursors=marks)))
    assert told(again) == []
    assert FullScan("library", 1) not in again
    fake.library = json.dumps({"models": {"b": listed("latest")}}).encode()
    assert told(list(ollama.fetch(library_client, replace(LIBRARY, cursors=marks)))) == [("library", "b")]


def test_a_model_that_goes_between_the_list_and_a_look_at_it_is_listed_alone(
    ollama: Source, fake: Fake, client: Client
) -> None:
    fake.listed = [local("going:latest")]
    items = list(ollama.fetch(client, SERVER))
    assert told(items) == [("local", "going:latest")]
    assert FullScan("shown", 1) in items


def test_while_a_name_cannot_be_read_nothing_that_was_shown_is_given_up(
    ollama: Source, fake: Fake, client: Client
) -> None:
    fake.listed = [local("a:latest"), local("b:latest") | {"name": 7}]
    fake.shown = {"a:latest": shown()}
    items = list(ollama.fetch(client, SERVER))
    assert len([each for each in items if isinstance(each, Payload)]) == 3
    assert FullScan("shown", 1) not in items


def test_the_change_token_changes_with_what_the_server_lists(ollama: Source, fake: Fake, client: Client) -> None:
    assert ollama.change_token is not None
    before = ollama.change_token(client, "local")
    assert ollama.change_token(client, "local") == before
    fake.listed = [local("a:latest")]
    assert ollama.change_token(client, "local") != before


# A model that is in the list no more


@pytest.fixture
def live(fake: Fake, httpserver: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setenv("ATLAS_OLLAMA_BASE_URL", httpserver.url_for(""))
    monkeypatch.setenv("ATLAS_OLLAMA_LIBRARY_BASE_URL", httpserver.url_for(LISTING))
    fake.listed = [local(name) for name in "abcd"]
    fake.shown = {name: shown() for name in "abcd"}
    fake.library = json.dumps({"models": {name: listed("latest") for name in "ab"}}).encode()
    return fake


def load(warehouse: Warehouse, ollama: Source) -> Run:
    return land_recorded(warehouse, ollama, Window(datetime.now(UTC).date()), "live")


def there(warehouse: Warehouse, kind: str) -> str:
    query = f"""
        select coalesce(string_agg(external_id, '' order by external_id), '') from staging.versions
        where latest and payload_id is not null and stream = 'catalog/ollama.{kind}'
    """
    ((names,),) = values(warehouse, query)
    return str(names)


def test_a_model_that_the_server_lists_no_more_is_gone_if_it_cannot_be_shown(
    warehouse: Warehouse, ollama: Source, live: Fake
) -> None:
    load(warehouse, ollama)
    live.listed, live.refused = [local("d")], {"c"}
    del live.shown["a"]
    live.shown["b"] = shown(system="Be kind.")
    run = load(warehouse, ollama)
    assert (there(warehouse, "local"), there(warehouse, "shown")) == ("bcd", "bcd")
    assert (run.status, run.counts.deleted, run.counts.updated) == ("partial_success", 2, 1)
    assert run.stats["skipped"] == {
        "missing from a full scan, and cannot be fetched by id: status 403": 2,
        "missing from the list, still shown": 1,
    }
    live.refused = set()
    assert load(warehouse, ollama).status == "completed"
    assert rows(
        warehouse,
        "select body from staging.versions join staging.payloads using (payload_id)"
        " where latest and external_id = 'b' and stream = 'catalog/ollama.local'",
    ) == [{"body": local("b")}]


def test_a_model_is_gone_from_the_library_with_the_second_listing_also_if_that_is_unchanged(
    warehouse: Warehouse, ollama: Source, live: Fake
) -> None:
    load(warehouse, ollama)
    live.library = json.dumps({"models": {"b": listed("latest")}}).encode()
    listings = [(load(warehouse, ollama).stats["notes"], there(warehouse, "library")) for _ in range(3)]
    assert [names for _, names in listings] == ["ab", "b", "b"]
    assert [notes.get("listings unchanged", 0) for notes, _ in listings] == [0, 0, 1]


def test_the_recordings_delete_what_the_server_does_not_show(warehouse: Warehouse, ollama: Source) -> None:
    land_recorded(warehouse, ollama, FIRST)
    run = land_recorded(warehouse, ollama, SECOND)
    gone = "select stream, external_id from staging.versions where latest and payload_id is null order by 1"
    assert values(warehouse, gone) == [
        (f"catalog/ollama.{kind}", "harbour-embed:latest") for kind in ("local", "shown")
    ]
    missing = "select stream from staging.versions where missing_at is not null"
    assert (run.counts.deleted, values(warehouse, missing)) == (2, [("catalog/ollama.library",)])


# What becomes of a model


def test_a_model_of_both_is_one_with_the_tags_of_the_library_and_those_that_are_here(
    warehouse: Warehouse, ollama: Source
) -> None:
    items: list[Item] = [
        payload("library", "it", listed("latest", "8b")),
        payload("local", "it:latest", local("it:latest", size=4_900_000_001)),
        payload("shown", "it:latest", shown()),
        payload("local", "reg:5000/my/own", local("reg:5000/my/own")),
    ]
    _, run = take(warehouse, ollama, items)
    assert (run.status, run.counts.quarantined) == ("completed", 0)
    query = """
        select m.name, m.nsfw_rating, v.version_label, v.external_id, a.size_bytes, a.sha256
        from catalog.models m
        join catalog.model_versions v using (model_id)
        join catalog.artifacts a using (model_version_id)
        order by m.name, v.version_label, a.size_bytes nulls last
    """
    assert values(warehouse, query) == [
        ("it", "Safe", "8b", "it:8b", 4_900_000_000, None),
        ("it", "Safe", "latest", "it:latest", 4_900_000_000, None),
        ("it", "Safe", "latest (local)", "it:latest", 4_900_000_001, None),
        ("it", "Safe", "latest (local)", "it:latest", None, BLOB),
        ("reg:5000/my/own", "Unknown", "latest (local)", "reg:5000/my/own", 5, None),
    ]
    up_to_date = """
        select here.metadata ->> 'digest' like (there.metadata ->> 'modelHash') || '%' as same
        from catalog.model_versions here join catalog.model_versions there using (model_id, external_id)
        where here.version_label = there.version_label || ' (local)'
    """
    assert values(warehouse, up_to_date) == [(True,)]


def test_a_model_that_the_library_gives_up_stays_as_what_is_here(warehouse: Warehouse, ollama: Source) -> None:
    here: list[Item] = [payload("local", "it:latest", local("it:latest")), payload("shown", "it:latest", shown())]
    take(warehouse, ollama, [payload("library", "it", listed("latest")), *here])
    other = payload("library", "other", listed("latest"))
    for window, deleted in ((SECOND, 0), (THIRD, 1)):
        landed, _ = take(warehouse, ollama, [other, *here, FullScan("library", 1)], window)
        assert landed.counts.deleted == deleted
    assert values(warehouse, "select name, nsfw_rating from catalog.models order by name") == [
        ("it", "Unknown"),
        ("other", "Safe"),
    ]
    labels = "select m.name, v.version_label from catalog.models m join catalog.model_versions v using (model_id)"
    assert sorted(values(warehouse, labels)) == [("it", "latest (local)"), ("other", "latest")]


def test_the_weights_are_known_by_their_content(warehouse: Warehouse, ollama: Source) -> None:
    lines = [
        f"FROM /usr/share/ollama/.ollama/models/blobs/sha256-{BLOB}",
        f"FROM /Users/me/.ollama/models/blobs/sha256:{BLOB}",
        f"FROM C:\\Users\\me\\.ollama\\models\\blobs\\sha256-{BLOB}",
        "FROM it:cloud",
    ]
    modelfiles = [f"# FROM it:latest\n\n{line}\nTEMPLATE x\n" for line in lines]
    items: list[Item] = []
    for number, modelfile in enumerate(modelfiles):
        items.append(payload("local", f"it:{number}", local(f"it:{number}")))
        items.append(payload("shown", f"it:{number}", shown(modelfile=modelfile)))
    take(warehouse, ollama, items)
    query = """
        select a.kind, a.sha256, a.metadata
        from catalog.artifacts a join catalog.model_versions v using (model_version_id)
        where a.size_bytes is null order by v.version_label
    """
    assert values(warehouse, query) == [
        (kind, sha256, {"modelfile": modelfile, "license": "MIT", "details": {}})
        for kind, sha256, modelfile in zip(
            ("Model", "Model", "Model", "Other"), (BLOB, BLOB, BLOB, None), modelfiles, strict=True
        )
    ]


def test_a_system_prompt_is_a_prompt_and_a_blank_one_is_none(warehouse: Warehouse, ollama: Source) -> None:
    items: list[Item] = []
    for name, system in (("a:latest", "You are a harbour pilot."), ("b:latest", " \n")):
        items += [payload("local", name, local(name)), payload("shown", name, shown(system=system))]
    take(warehouse, ollama, items)
    query = """
        select m.name, v.version_label, p.text
        from catalog.prompts p
        join catalog.models m using (model_id)
        join catalog.model_versions v using (model_version_id)
    """
    assert values(warehouse, query) == [("a", "latest (local)", "You are a harbour pilot.")]
    kept = "select metadata -> 'system' from catalog.artifacts where sha256 is not null order by 1 nulls last"
    assert values(warehouse, kept) == [(" \n",), (None,)]


def test_numbers_in_words_are_numbers_and_what_is_none_is_null_with_an_entry(
    warehouse: Warehouse, ollama: Source
) -> None:
    pulls = {"54.3M": 54_300_000, "166.8K": 166_800, "1B": 10**9, "402": 402, None: None}
    items: list[Item] = [
        payload("library", f"pulls-{number}", listed(pullCount=text)) for number, text in enumerate(pulls)
    ]
    sizes = {"1.3TB": 1_300_000_000_000, "4.9GB": 4_900_000_000, "274MB": 274_000_000, "12KB": 12_000, "9B": 9}
    tags = {text: {"size": text} for text in sizes}
    items.append(payload("library", "sizes", listed(tags=tags)))
    items.append(payload("library", "strange", listed(pullCount="a few", tags={"latest": {"size": "4.9 GiB"}})))
    _, run = take(warehouse, ollama, items)
    counted = """
        select s.downloads from catalog.model_stats s join catalog.models m using (model_id)
        where m.name ~ 'pulls' order by m.name
    """
    assert [each for (each,) in values(warehouse, counted)] == list(pulls.values())
    found = values(warehouse, "select metadata ->> 'size', size_bytes from catalog.artifacts")
    assert dict(found) == sizes | {"4.9 GiB": None}
    entries = "select granularity, table_name, row from staging.quarantine order by 2"
    assert values(warehouse, entries) == [
        ("value", "catalog.artifacts", {"size_bytes": "4.9 GiB"}),
        ("value", "catalog.model_stats", {"downloads": "a few"}),
    ]
    assert (run.status, run.stats["values"]) == ("completed", 2)


def test_types_and_ratings(warehouse: Warehouse, ollama: Source) -> None:
    items: list[Item] = [
        payload("library", "a-llm", listed()),
        payload("library", "b-vectors", listed(description="A small embedding model.")),
        payload("library", "c-free", listed(categories=["uncensored"])),
        payload("local", "d:latest", local("d:latest", details={"family": "nomic-bert"})),
        payload("local", "e:latest", local("e:latest", capabilities=["embedding"])),
        payload("local", "f:latest", local("f:latest", details=None)),
    ]
    take(warehouse, ollama, items)
    assert values(warehouse, "select name, type, nsfw_rating from catalog.models order by name") == [
        ("a-llm", "LLM", "Safe"),
        ("b-vectors", "Other", "Safe"),
        ("c-free", "LLM", "Questionable"),
        ("d", "Other", "Unknown"),
        ("e", "Other", "Unknown"),
        ("f", "LLM", "Unknown"),
    ]


# Real listings


@pytest.mark.long("real payloads, where they are")
def test_real_listings_land_whole_and_what_the_second_does_not_tell_goes(
    warehouse: Warehouse, ollama: Source, fake: Fake, client: Client, library_client: Client, shared_data: Path
) -> None:
    """The later one first, so that a model goes; and the server's list from its documentation."""
    units = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    fake.listed = json.loads((shared_data / "ollama" / "api_doc_examples" / "doc_29.json").read_bytes())["models"]
    fake.shown = {each["name"]: shown() for each in fake.listed}
    for day, windows, gone in (("2025-08-04", (FIRST,), 0), ("2025-07-23", (SECOND, THIRD), 1)):
        fake.library = (shared_data / "ollama" / f"models_{day}.json").read_bytes()
        library = json.loads(fake.library)["models"]
        for window in windows:
            items = [*ollama.fetch(client, window), *ollama.fetch(library_client, replace(window, kind="library"))]
            landed, run = take(warehouse, ollama, items, window)
        assert (landed.status, landed.counts.deleted) == ("completed", gone)
        assert (run.status, run.counts.quarantined) == ("completed", 0)

        (counted,) = rows(
            warehouse,
            """
            select (select count(*) from catalog.models) as models,
                (select count(*) from catalog.model_versions) as versions,
                (select count(*) from catalog.artifacts) as packages,
                (select sum(size_bytes) from catalog.artifacts where metadata ? 'size') as size_bytes,
                (select sum(size_bytes) from catalog.artifacts where metadata is null) as size_bytes_here
            """,
        )
        tags = [tag for each in library.values() for tag in each["tags"].values()]
        assert counted == {
            "models": len(library),
            "versions": len(tags) + len(fake.listed),
            "packages": len(tags) + 2 * len(fake.listed),
            "size_bytes": sum(int(Decimal(tag["size"][:-2]) * units[tag["size"][-2:]]) for tag in tags),
            "size_bytes_here": sum(each["size"] for each in fake.listed),
        }

    assert values(warehouse, "select count(*) from catalog.models where name = 'qwen3-coder'") == [(0,)]
    series = """
        select s.downloads from catalog.model_stats s join catalog.models m using (model_id)
        where m.name = 'llama3.2' order by s.observed_at
    """
    assert values(warehouse, series) == [(28_200_000,), (26_300_000,)]
