"""The HTTP client against a hostile server on loopback: what is tried again, what is waited for, faults in words."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import count

import httpx
import msgspec
import pytest
import stamina

from pipelines.connectors import http, retries
from pipelines.connectors.http import Client, request_of
from pipelines.connectors.rate_limit import RateLimit
from pipelines.connectors.retries import ATTEMPTS
from pipelines.connectors.urls import without_secrets
from pipelines.errors import AtlasError, Refused, SourceFault
from pipelines.warehouse.database import Warehouse
from tests import hostile
from tests.hostile import Answer, Asked, Fault, Server

Serve = Callable[..., Server]
WHOLE = {"items": [1, 2, 3]}


class Page(msgspec.Struct):
    items: list[int]
    more: str = ""


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that gives one answer after the other, the last one for ever."""
    servers = []

    def start(*answers: Answer, **more: object) -> Server:
        numbers = count()
        given = answers or (Answer(WHOLE),)
        server = Server(lambda _: given[min(next(numbers), len(given) - 1)], **more)  # type: ignore[arg-type]
        servers.append(server.__enter__())
        return server

    yield start
    for each in servers:
        each.__exit__()


@pytest.fixture
def at_once() -> Iterator[None]:
    """Tries again without a pause, for tests of anything but the pause."""
    with stamina.set_testing(True, attempts=ATTEMPTS, cap=True):
        yield


def ask(server: Server, target: str = "/list", **more: object) -> Page | None:
    with Client("catalog/invented", server.url, **more) as client:  # type: ignore[arg-type]
        return client.request(target, Page)[1]


def test_an_answer_is_decoded_and_its_request_is_kept(serve: Serve) -> None:
    server = serve()
    with Client("catalog/invented", server.url, token="a-secret", contact="me@example.org") as client:
        response, page = client.request("/list?limit=2&cursor=a%7Cb", Page)
    assert page == Page([1, 2, 3])
    assert request_of(response) == f"{server.url}/list?limit=2&cursor=a%7Cb"
    (asked,) = server.log
    assert asked.headers["authorization"] == "Bearer a-secret"
    assert asked.headers["user-agent"] == f"{http.USER_AGENT} (me@example.org)"
    assert client.notes == {"requests": 1}


def test_a_token_of_two_parts_is_sent_as_the_operator_wants_it(serve: Serve) -> None:
    server = serve()
    ask(server, token="me:a-secret", auth="basic")
    assert server.log[0].headers["authorization"] == "Basic bWU6YS1zZWNyZXQ="


def test_a_body_makes_it_a_post(serve: Serve) -> None:
    server = serve()
    with Client("catalog/invented", server.url) as client:
        assert client.get_record("/show", Page, b'{"model":"x"}') == (json.dumps(WHOLE).encode(), f"{server.url}/show")
    (asked,) = server.log
    assert (asked.method, asked.body, asked.headers["content-type"]) == ("POST", b'{"model":"x"}', "application/json")


# What is tried again


@pytest.mark.parametrize("name", hostile.NO_LIMITS)
def test_a_fault_that_passes_is_tried_again(serve: Serve, at_once: None, name: str) -> None:
    server = serve(script=hostile.at({0: Fault(name), 1: Fault(name)}))
    assert ask(server) == Page([1, 2, 3])
    assert len(server.log) == 3


@pytest.mark.parametrize("name", [*hostile.NO_LIMITS, "429", "503 for seconds"])
def test_a_fault_that_stays_is_raised_after_the_last_attempt_and_is_no_page(
    serve: Serve, at_once: None, name: str
) -> None:
    server = serve(script=lambda _: Fault(name, seconds=0))
    with pytest.raises(AtlasError, match=r"catalog/invented (does not answer|cannot be reached)") as caught:
        ask(server)
    assert len(server.log) == ATTEMPTS
    assert not isinstance(caught.value, SourceFault)


def test_a_fault_on_a_connection_that_was_in_use_spoils_nothing_after_it(serve: Serve, at_once: None) -> None:
    """What is left of a broken answer must not be read as the beginning of the next one."""
    faults = {number * 2 + 1: Fault(name) for number, name in enumerate(hostile.NO_LIMITS)}
    server = serve(script=hostile.at(faults))
    with Client("catalog/invented", server.url) as client:
        for _ in range(len(hostile.NO_LIMITS) + 1):
            assert client.request("/list", Page)[1] == Page([1, 2, 3])


def test_a_server_that_says_nothing_is_given_up_on(
    serve: Serve, at_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.1)
    server = serve(script=hostile.at({0: Fault("latency", 0.3)}))
    assert ask(server) == Page([1, 2, 3])
    assert len(server.log) == 2


def test_pauses_grow(serve: Serve) -> None:
    server = serve(script=hostile.at({0: Fault("500"), 1: Fault("reset")}))
    assert ask(server) == Page([1, 2, 3])
    first, second, third = (asked.began for asked in server.log)
    assert second - first >= 0.1
    assert third - second >= 0.2


def test_no_server_is_a_sentence_that_says_what_to_check(at_once: None, serve: Serve) -> None:
    server = serve()
    server.__exit__()
    with pytest.raises(AtlasError, match=r"cannot be reached at http://127.* Check ATLAS_INVENTED_BASE_URL"):
        ask(server)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer({"items": {"1": 2}}), r"not a valid page \(.*\$\.items"),
        (Answer(b'{"items": [], "more": "\xff"}'), "not a valid page"),
        (Answer(b"[" * 100_000), "not a valid page"),
        (Answer(WHOLE, headers={"Content-Encoding": "gzip"}), "catalog/invented"),
    ],
    ids=["another shape", "no UTF-8", "brackets", "false gzip"],
)
def test_an_answer_that_is_no_page_is_a_fault_in_words(serve: Serve, at_once: None, answer: Answer, words: str) -> None:
    server = serve(answer)
    with pytest.raises(AtlasError, match=words):
        ask(server)
    assert len(server.log) == ATTEMPTS


@pytest.mark.parametrize("status", [408, 421, 425, 429, 500, 503])
def test_a_status_that_may_pass_is_tried_again(
    serve: Serve, at_once: None, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    server = serve(Answer(b"later", status, {"Retry-After": "0"}), Answer(WHOLE))
    assert ask(server) == Page([1, 2, 3])
    assert f"catalog/invented: status {status}; trying again in 0.0 s (1 of 5)" in caplog.text


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_names_its_target_and_the_setting(serve: Serve, status: int) -> None:
    target = "https://me:a-secret@elsewhere.example/new/list?token=a-secret&page=2"
    words = r"It redirects to https://elsewhere\.example/new/list: .* set ATLAS_INVENTED_LIBRARY_BASE_URL"
    server = serve(Answer(b"", status, {"Location": target}))
    with Client("catalog/invented", server.url, variable="ATLAS_INVENTED_LIBRARY") as library:
        with pytest.raises(Refused, match=words) as caught:
            library.request("/list", Page)
        assert "a-secret" not in str(caught.value)


@pytest.mark.parametrize(("status", "requests"), [(400, 1), (401, 1), (403, 1), (500, ATTEMPTS)])
def test_a_record_that_cannot_be_fetched_is_refused_with_a_reason(
    serve: Serve, at_once: None, status: int, requests: int
) -> None:
    server = serve(Answer(b"no", status))
    with Client("catalog/invented", server.url) as client, pytest.raises(Refused) as caught:
        client.get_record("/one/7", Page)
    assert (caught.value.reason, len(server.log)) == (f"status {status}", requests)


def test_records_that_the_source_fails_to_serve_stop_no_other(serve: Serve, at_once: None) -> None:
    """After five in a row, the next ones are asked for once each, until one is served."""
    server = serve(Answer(b"ill", 503))
    with Client("catalog/invented", server.url) as client:
        for number in range(8):
            with pytest.raises(Refused) as caught:
                client.get_record(f"/one/{number}", Page)
            assert caught.value.reason == "status 503"
        assert len(server.log) == 5 * ATTEMPTS + 3
        server.script = hostile.at({len(server.log): Fault("reset")})
        server.answer = lambda _: Answer(b"no", 403)
        with pytest.raises(Refused, match="403"):
            client.get_record("/one/8", Page)
        server.script = hostile.nothing
        server.answer = lambda _: Answer(WHOLE)
        assert client.get_record("/one/9", Page)
        server.answer = lambda _: Answer(b"ill", 503)
        server.log.clear()
        with pytest.raises(Refused, match=f"after {ATTEMPTS} attempts"):
            client.get_record("/one/10", Page)
        assert len(server.log) == ATTEMPTS


def test_after_several_records_without_a_response_the_source_is_down(serve: Serve, at_once: None) -> None:
    server = serve()
    with Client("catalog/invented", server.url) as client:
        for is_down in (False, False, False, True, True, False, True, True, True, True):
            server.script = lambda _, is_down=is_down: Fault("reset") if is_down else None  # type: ignore[misc]
            if not is_down:
                assert client.get_record("/one/7", Page)
                continue
            with pytest.raises(Refused):
                client.get_record("/one/7", Page)
        with pytest.raises(AtlasError, match="5 records in a row have no response") as caught:
            client.get_record("/one/7", Page)
        assert not isinstance(caught.value, Refused)


def test_a_record_within_a_document_keeps_its_bytes(serve: Serve) -> None:
    class One(msgspec.Struct):
        post: msgspec.Raw

    server = serve(Answer(b'{"post": {"id": 7 , "x": NaN}}'))
    with Client("catalog/invented", server.url) as client:
        found = client.get_record("/one/7", One, record=lambda one: one.post)
    assert found == (b'{"id": 7 , "x": NaN}', f"{server.url}/one/7")


@pytest.mark.parametrize("status", [302, 400, 401, 403, 451])
def test_a_refusal_is_raised_at_once(serve: Serve, status: int) -> None:
    server = serve(Answer(b"no", status, {"Location": "http://elsewhere.invalid/"}))
    with pytest.raises(Refused, match=f"catalog/invented refused {server.url}/list: status {status}"):
        ask(server)
    assert len(server.log) == 1


@pytest.mark.parametrize("status", [404, 410])
def test_what_is_gone_is_nothing(serve: Serve, status: int) -> None:
    server = serve(Answer({"error": "no such model"}, status))
    with Client("catalog/invented", server.url) as client:
        assert client.get_record("/one/7", Page) is None


def test_what_is_unchanged_is_nothing(serve: Serve) -> None:
    server = serve(Answer(WHOLE, headers={"ETag": '"one"'}))
    with Client("catalog/invented", server.url) as client:
        response, page = client.request("/list", Page, {"if-none-match": '"one"'})
    assert (response.status_code, page) == (304, None)


# What is waited for


@pytest.mark.parametrize(
    ("name", "skew_s"),
    [
        ("429 for seconds", 0),
        ("503 for seconds", 0),
        ("429 until a date", 0),
        ("429 until a date", 7200),
        ("429 until a date", -7200),
    ],
)
@pytest.mark.sample(2)
def test_a_server_that_asks_to_be_left_alone_is(serve: Serve, name: str, skew_s: float) -> None:
    """For longer than the usual pause before a second attempt, 1.1 s, and than the wait after a 429 without a time."""
    server = serve(script=hostile.at({0: Fault(name, 1.5)}), skew=timedelta(seconds=skew_s))
    assert ask(server) == Page([1, 2, 3])
    first, second = server.log
    assert server.hammered() == []
    assert 1.5 <= second.began - first.ended < 3.5


@pytest.mark.parametrize(
    ("retry_after", "at_least_s"),
    [
        ("0", 0),
        ("-7", 0),
        ("nan", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Wed, 21 Oct 2015 07:28:00 -0000", 0),
        ("soon", 0.2),
        ("", 0.2),
        ("Wed, 99 Oct 2015 07:28:00 GMT", 0.2),
    ],
)
def test_a_time_to_wait_may_be_none(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, retry_after: str, at_least_s: float
) -> None:
    monkeypatch.setattr(retries, "DEFAULT_WAIT_S", 0.2)
    server = serve(Answer(b"", 429, {"Retry-After": retry_after}), Answer(WHOLE))
    assert ask(server) == Page([1, 2, 3])
    assert at_least_s <= server.log[1].began - server.log[0].ended < at_least_s + 1


@pytest.mark.parametrize("retry_after", ["86400", "1e400", "99999999999999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_server_that_asks_to_wait_too_long_is_left(serve: Serve, warehouse: Warehouse, retry_after: str) -> None:
    server = serve(Answer(b"tomorrow", 429, {"Retry-After": retry_after}))
    with (
        warehouse.connect() as connection,
        pytest.raises(AtlasError, match=r"deferred: invented\.example accepts no requests until"),
    ):
        ask(server, rate_limit=RateLimit(connection, "invented.example", None))
    assert len(server.log) == 1


# Links


@pytest.mark.parametrize(
    ("base", "link", "target"),
    [
        ("", "/list?cursor=a", "/list?cursor=a"),
        ("", "https://elsewhere.example/list?cursor=a", "/list?cursor=a"),
        ("/mirror", "https://elsewhere.example/list?cursor=a", "/list?cursor=a"),
        ("/mirror/", "/mirror/list?cursor=a", "/list?cursor=a"),
        ("/mirror", "/mirrored/list", "/mirrored/list"),
    ],
)
def test_only_the_path_of_a_link_is_followed(serve: Serve, base: str, link: str, target: str) -> None:
    server = serve()
    with Client("catalog/invented", server.url + base, token="a-secret") as client:
        assert client.target_of(link) == target
        client.request(client.target_of(link), Page)
    assert server.log[0].target == base.rstrip("/") + target


@pytest.mark.parametrize("link", ["http://host:port/list", "\x00"], ids=ascii)
def test_a_link_that_is_none_is_a_fault_in_words(serve: Serve, link: str) -> None:
    with Client("catalog/invented", serve().url) as client, pytest.raises(SourceFault, match="catalog/invented names"):
        client.target_of(link)


def test_a_document_is_asked_for_by_the_base_url_itself(serve: Serve) -> None:
    server = serve()
    with Client("catalog/invented", f"{server.url}/library.json") as client:
        assert client.request("", Page)[1] == Page([1, 2, 3])
    assert server.log[0].target == "/library.json"


def test_secrets_are_sent_and_not_kept(serve: Serve) -> None:
    server = serve()
    with Client("catalog/invented", server.url) as client:
        response, _ = client.request("/list?token=a-secret&cursor=b&API_KEY=a-secret", Page)
    assert server.log[0].arguments == {"token": "a-secret", "cursor": "b", "API_KEY": "a-secret"}
    assert request_of(response) == f"{server.url}/list?cursor=b"
    assert without_secrets("https://me:a-secret@host/list?page=2&key=a-secret") == "https://host/list?page=2"
    assert without_secrets("/list?access_token=a-secret") == "/list"


# The fake itself, so that the tests above could fail


def test_the_fake_tells_who_hammers_and_who_is_too_fast(serve: Serve) -> None:
    server = serve(script=hostile.at({0: Fault("429 for seconds", 0.2)}))

    def careless(_: Asked) -> None:
        time.sleep(0.01)

    server.before = careless
    with httpx.Client() as client:
        for _ in range(3):
            client.get(server.url)
    assert [each.number for each in server.hammered()] == [1, 2]
    assert server.faster_than(20) and not server.faster_than(1000)
