"""The HTTP client against a real server on loopback: pages, retries, faults in words; and a live run of CivitAI."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count

import msgspec
import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from pipelines import fetching, landing, transform
from pipelines.errors import AtlasError
from pipelines.http import Answer, Client, without_secrets
from pipelines.ledger import Run
from pipelines.source import Item, Source, Window
from pipelines.warehouse.engine import Warehouse

Handler = Callable[[Request], Response]
Serve = Callable[..., None]


class Page(msgspec.Struct):
    items: list[int]
    following: str | None = None


def page(*items: int, following: str | None = None) -> Response:
    return Response(json.dumps({"items": items, "following": following}), content_type="application/json")


def cut_short(_: Request) -> Response:
    whole = page(1).get_data()
    return Response(iter([whole[:5]]), headers={"Content-Length": str(len(whole))})


@pytest.fixture
def serve(httpserver: HTTPServer) -> Serve:
    """Makes the server give one answer after the other, the last one for ever."""

    def answers(*given: Response | Handler) -> None:
        numbers = count()

        def answer(request: Request) -> Response:
            chosen = given[min(next(numbers), len(given) - 1)]
            return chosen if isinstance(chosen, Response) else chosen(request)

        httpserver.expect_request("/list").respond_with_handler(answer)

    return answers


@pytest.fixture
def client(httpserver: HTTPServer) -> Iterator[Client]:
    with Client("catalog/invented", httpserver.url_for(""), token="a-secret") as opened:
        yield opened


def pages(client: Client, path: str = "/list", **parameters: str | int) -> list[Answer[Page]]:
    return list(client.pages(path, parameters, Page, lambda page: page.following))


def items(answers: list[Answer[Page]]) -> list[int]:
    return [item for answer in answers for item in answer.page.items]


def test_pages_are_followed_to_the_end(client: Client, serve: Serve, httpserver: HTTPServer) -> None:
    serve(
        page(1, 2, following=httpserver.url_for("/list?limit=2&cursor=a%7Cb")),
        page(following="/list?limit=2&cursor=c"),
        page(3),
    )
    answers = pages(client, limit=2)
    assert items(answers) == [1, 2, 3]
    assert [answer.request for answer in answers] == [
        httpserver.url_for("/list?limit=2"),
        httpserver.url_for("/list?limit=2&cursor=a%7Cb"),
        httpserver.url_for("/list?limit=2&cursor=c"),
    ]
    asked = [request for request, _ in httpserver.log]
    assert [request.args.get("cursor") for request in asked] == [None, "a|b", "c"]
    assert {request.headers["authorization"] for request in asked} == {"Bearer a-secret"}


@pytest.mark.parametrize(
    ("retry_after", "at_least_s", "at_most_s"),
    [
        (lambda: "1", 0.99, 3),
        (lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True), 0.9, 4),
        (lambda: "0", 0, 3),
        (lambda: "Wed, 21 Oct 2015 07:28:00 GMT", 0, 3),
        (lambda: "Wed, 21 Oct 2015 07:28:00 -0000", 0, 3),
        (lambda: "soon", 0, 3),
    ],
    ids=["seconds", "a date", "no time", "a date that has passed", "a date of no zone", "nonsense"],
)
def test_a_server_that_asks_to_wait_is_waited_for(
    client: Client, serve: Serve, retry_after: Callable[[], str], at_least_s: float, at_most_s: float
) -> None:
    serve(lambda _: Response("slow down", 429, headers={"Retry-After": retry_after()}), page(1))
    started = time.monotonic()
    assert items(pages(client)) == [1]
    assert at_least_s <= time.monotonic() - started <= at_most_s


def test_a_server_that_asks_to_wait_too_long_is_left_in_words(
    client: Client, serve: Serve, httpserver: HTTPServer
) -> None:
    serve(Response("tomorrow", 429, headers={"Retry-After": "86400"}))
    with pytest.raises(AtlasError, match="status 429, and it asks to wait 86400 s"):
        pages(client)
    assert len(httpserver.log) == 1


def test_a_passing_fault_is_tried_again(client: Client, serve: Serve, httpserver: HTTPServer) -> None:
    serve(Response("busy", 503), cut_short, page(1))
    assert items(pages(client)) == [1]
    assert len(httpserver.log) == 3


def test_a_fault_that_stays_is_told_after_the_last_attempt(
    client: Client, serve: Serve, httpserver: HTTPServer
) -> None:
    serve(Response("busy", 503, headers={"Retry-After": "0"}))
    with pytest.raises(AtlasError, match="catalog/invented does not answer /list: status 503, after 6 attempts"):
        pages(client)
    assert len(httpserver.log) == 6


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Response("<html>We will be back soon</html>", content_type="text/html"), "something that is no page of it"),
        (Response('{"items": [1, 2'), "something that is no page of it"),
        (Response('{"items": {"1": 2}}'), r"no page of it: .*\$\.items"),
        (Response(b'{"items": [], "following": "\xff"}'), "something that is no page of it"),
        (Response("", 200), "something that is no page of it"),
        (Response("not here", 404), "refused .*: status 404"),
        (Response("", 302, headers={"Location": "http://elsewhere.invalid/"}), "refused .*: status 302"),
        (Response("no gzip", headers={"Content-Encoding": "gzip"}), "catalog/invented"),
    ],
    ids=["HTML", "half a document", "another shape", "no UTF-8", "nothing", "404", "a redirect", "false gzip"],
)
def test_an_answer_that_is_no_page_is_a_fault_in_words(
    client: Client, serve: Serve, answer: Response, told: str
) -> None:
    serve(answer)
    with pytest.raises(AtlasError, match=told):
        pages(client)


@pytest.mark.parametrize("link", ["http://host:port/list", "\x00"], ids=ascii)
def test_a_link_that_is_none_is_a_fault_in_words(client: Client, serve: Serve, link: str) -> None:
    serve(page(1, following=link))
    with pytest.raises(AtlasError, match="catalog/invented"):
        pages(client)


def test_a_repeated_link_stops_the_listing(client: Client, serve: Serve, httpserver: HTTPServer) -> None:
    serve(page(1, following="/list?cursor=a"), page(2, following="/list?cursor=b"), page(3, following="/list?cursor=a"))
    with pytest.raises(AtlasError, match=r"repeats itself: it names /list\?cursor=a as the next page a second time"):
        pages(client)
    assert len(httpserver.log) == 3


def test_a_link_to_another_host_is_followed_on_ours_alone(client: Client, serve: Serve, httpserver: HTTPServer) -> None:
    with HTTPServer() as other:
        serve(page(1, following=other.url_for("/list?cursor=a")), page(2))
        assert items(pages(client)) == [1, 2]
        assert other.log == []
    assert httpserver.log[1][0].headers["authorization"] == "Bearer a-secret"


def test_a_source_below_a_path_is_followed_there() -> None:
    with HTTPServer() as server:
        server.no_handler_status_code = 404
        following = page(1, following=server.url_for("/mirror/list?cursor=a"))
        server.expect_oneshot_request("/mirror/list").respond_with_response(following)
        server.expect_request("/mirror/list", query_string="cursor=a").respond_with_response(page(2))
        with Client("catalog/invented", server.url_for("/mirror")) as client:
            assert items(pages(client)) == [1, 2]


def test_tokens_in_links_are_sent_and_not_kept(client: Client, serve: Serve, httpserver: HTTPServer) -> None:
    serve(page(following="/list?token=a-secret&cursor=b&API_KEY=a-secret"), page(1))
    answers = pages(client)
    assert httpserver.log[1][0].args["token"] == "a-secret"
    assert answers[1].request == httpserver.url_for("/list?cursor=b")


def test_a_url_is_shown_without_its_user() -> None:
    assert without_secrets("https://me:a-secret@host/list?page=2&key=a-secret") == "https://host/list?page=2"
    assert without_secrets("/list?access_token=a-secret") == "/list"


MODELS = "/api/v1/models"


def models_page(numbers: range, following: str | None) -> Response:
    models = [
        {
            "id": number,
            "name": f"Lighthouse {number}",
            "type": "LORA",
            "nsfw": False,
            "tags": ["coast"],
            "modelVersions": [{"id": number * 10, "name": "v1", "files": [], "images": []}],
        }
        for number in numbers
    ]
    return Response(json.dumps({"items": models, "metadata": {"nextPage": following} if following else {}}))


@pytest.fixture
def civitai_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HTTPServer]:
    """A listing of three pages that the live source is read from; a test may stop it."""
    with HTTPServer() as server:

        def answer(request: Request) -> Response:
            cursor = int(request.args.get("cursor", 0))
            following = server.url_for(f"{MODELS}?cursor={cursor + 1}") if cursor < 2 else None
            return models_page(range(cursor * 4, cursor * 4 + 4), following)

        server.expect_request(MODELS).respond_with_handler(answer)
        monkeypatch.setenv("ATLAS_CIVITAI_BASE_URL", server.url_for(""))
        yield server


def landed(warehouse: Warehouse, source: Source, through: Callable[[Iterator[Item]], Iterator[Item]] = iter) -> Run:
    """Lands the source as it answers today."""
    window = Window(datetime.now(UTC).date())
    fetched = fetching.fetched(source, window, "live")
    return landing.land(warehouse, source, window.key, through(fetched.items), fetched_at=fetched.at)


def numbers_of(warehouse: Warehouse) -> tuple[int, int]:
    """How many models are in the table, and how many versions in staging."""
    with warehouse.connect() as connection:
        row = connection.execute(
            "select (select count(*) from catalog.models) as rows, (select count(*) from staging.versions) as versions"
        ).fetchone()
    assert row is not None
    return row["rows"], row["versions"]


def test_a_live_listing_ends_in_rows(warehouse: Warehouse, civitai: Source, civitai_server: HTTPServer) -> None:
    run = landed(warehouse, civitai)
    assert (run.status, run.counts.fetched, run.counts.created) == ("completed", 12, 12)
    done = transform.transform(warehouse, civitai, run.partition)
    assert done.counts.created == 12 + 12 + 12 + 1  # models, versions, a tag on each, the tag
    with warehouse.connect() as connection:
        requests = connection.execute("select distinct request from staging.versions order by request").fetchall()
    assert [row["request"] for row in requests] == [
        civitai_server.url_for(f"{MODELS}?cursor=1"),
        civitai_server.url_for(f"{MODELS}?cursor=2"),
        civitai_server.url_for(f"{MODELS}?limit=100&nsfw=true"),
    ]
    assert landed(warehouse, civitai).counts.unchanged == 12


def test_a_server_that_dies_in_the_middle_changes_nothing(
    warehouse: Warehouse, civitai: Source, civitai_server: HTTPServer
) -> None:
    def dying(items: Iterator[Item]) -> Iterator[Item]:
        for number, item in enumerate(items):
            if number == 5:  # one of the second page
                civitai_server.stop()
            yield item

    with pytest.raises(AtlasError, match="catalog/civitai cannot be reached at http://localhost"):
        landed(warehouse, civitai, dying)
    assert numbers_of(warehouse) == (0, 0)
    with warehouse.connect() as connection:
        (row,) = connection.execute("select status, published, fetched, error_text from ops.fetch_runs").fetchall()
    assert (row["status"], row["published"], row["fetched"]) == ("failed", None, 0)
    assert "cannot be reached" in row["error_text"]
