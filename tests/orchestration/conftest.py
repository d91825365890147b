"""A live source on loopback."""

from collections.abc import Iterator

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from pipelines import project
from pipelines.source import Source
from pipelines.warehouse.database import Warehouse


class Server:
    """An Ollama server with models by name; it may be out of order."""

    def __init__(self) -> None:
        self.models = ["heron:latest"]
        self.broken = False
        self.asked = 0

    def answer(self, request: Request) -> Response:
        self.asked += 1
        if self.broken:
            return Response("no", 403)
        listed = ", ".join(f'{{"name": "{name}"}}' for name in self.models)
        return Response(f'{{"models": [{listed}]}}', content_type="application/json")


@pytest.fixture
def ollama() -> Source:
    return project.sources()["catalog/ollama"]


@pytest.fixture
def site(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server that the live source is read from, with this test's warehouse."""
    made = Server()
    with HTTPServer() as http:
        http.expect_request("/api/tags").respond_with_handler(made.answer)
        monkeypatch.setenv("ATLAS_OLLAMA_BASE_URL", http.url_for(""))
        monkeypatch.setenv("DATABASE_URL", warehouse.conninfo)
        monkeypatch.setenv("ATLAS_MODE", "live")
        yield made
