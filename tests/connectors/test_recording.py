"""`atlas record`: what a live source answers over real HTTP, or a folder holds, becomes a recording that replays."""

import json
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from pipelines import project
from pipelines.cli.main import app
from pipelines.connectors.redaction import Redactor, without_secrets_in_urls
from pipelines.errors import AtlasError
from pipelines.landing import extract
from pipelines.landing.land import land_intake
from pipelines.source import FullScan, Payload, Source, Window
from pipelines.warehouse.database import Warehouse
from tests.hostile import Answer, Asked, Server

TODAY = datetime.now(UTC).date()
EARLIER = TODAY - timedelta(days=7)
"""Pages of CivitAI have the same size on that day."""
TOKEN = "hf_" + "a1B2" * 8

Record = Callable[..., Result]


@dataclass
class Hub:
    """Models on pages of two, each naming the next; a model by its own URL; no images."""

    models: dict[int, dict[str, Any]] = field(default_factory=dict)
    refuses: bool = False
    url: str = ""

    def answer(self, asked: Asked) -> Answer:
        if self.refuses:
            return Answer(b"no", 403)
        if asked.path == "/api/v1/images":
            return Answer({"items": [], "metadata": {}})
        if asked.path != "/api/v1/models":
            number = int(asked.path.rpartition("/")[2])
            return Answer(self.models[number]) if number in self.models else Answer(b"<p>not here", 404)
        begin = int(asked.arguments.get("cursor", 0))
        following = (
            f"{self.url}/api/v1/models?cursor={begin + 2}&token=a-secret" if begin + 2 < len(self.models) else None
        )
        page = list(self.models.values())[begin : begin + 2]
        headers = {"Set-Cookie": "session=a-secret", "X-Request": "a-secret"}
        return Answer({"items": page, "metadata": {"nextPage": following}}, headers=headers)


def a_model(number: int, **more: Any) -> dict[str, Any]:
    return {"id": number, "name": f"Model {number}", "type": "LORA", "modelVersions": [], **more}


@pytest.fixture
def samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(project, "SAMPLES", tmp_path / "samples")
    return tmp_path / "samples"


@pytest.fixture
def record(warehouse: Warehouse, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Record:
    """Runs the command."""
    monkeypatch.setenv("DATABASE_URL", warehouse.conninfo)
    monkeypatch.setenv("ATLAS_HOME", str(tmp_path))
    return lambda *arguments: CliRunner().invoke(app, ["record", *arguments])


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub({number: a_model(number) for number in range(1, 6)})
    with Server(made.answer) as server:
        made.url = server.url
        monkeypatch.setenv("ATLAS_CIVITAI_BASE_URL", server.url)
        monkeypatch.setenv("ATLAS_CIVITAI_TOKEN", "a-secret")
        yield made


def replayed(source: Source, warehouse: Warehouse, day: object = TODAY) -> list[Any]:
    with extract.open_intake(warehouse, source, Window.of(str(day)), "recorded") as intake:
        return list(intake.items({}))


def ids(items: list[Any]) -> list[int]:
    return [json.loads(each.body)["id"] for each in items if isinstance(each, Payload)]


def test_a_recording_of_a_live_source_replays_the_same_records(
    record: Record, hub: Hub, samples: Path, civitai: Source, warehouse: Warehouse
) -> None:
    hub.models[2] |= {"description": "by ann@site.org, see https://me:pw@x.org/?api_key=k&a=b", "apiKey": "a-secret"}
    done = record("catalog/civitai", "--json")
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    assert (said["recording"], said["responses"], said["payloads"]) == (f"samples/catalog/civitai/{TODAY}.json", 4, 5)
    text = (samples / "catalog" / "civitai" / f"{TODAY}.json").read_text()
    for secret in ("a-secret", "ann@", "me:pw", "api_key", "127.0.0.1"):
        assert secret not in text
    items = replayed(civitai, warehouse)
    assert ids(items) == [1, 2, 3, 4, 5]
    assert any(isinstance(each, FullScan) for each in items)
    model = json.loads(next(each.body for each in items if isinstance(each, Payload) and b'"id": 2' in each.body))
    assert model["description"] == "by person1@example.org, see https://x.org/?a=b"
    assert items[0].body == json.dumps(hub.models[1]).encode(), "all else is byte for byte what was received"


def test_a_limit_keeps_few_pages_and_records_and_nothing_counts_as_missing(
    record: Record, hub: Hub, civitai: Source, warehouse: Warehouse
) -> None:
    record("catalog/civitai")
    done = record("catalog/civitai", "--limit", "1", "--replace")
    assert done.exit_code == 0, done.output
    items = replayed(civitai, warehouse)
    assert ids(items) == [1]
    assert not any(isinstance(each, FullScan) for each in items)


def test_a_record_that_is_missing_since_the_last_recording_is_asked_for_by_id(
    record: Record, hub: Hub, samples: Path, civitai: Source, warehouse: Warehouse
) -> None:
    """So that the replay deletes what the source says is gone, and nothing else."""
    record("catalog/civitai")
    folder = samples / "catalog" / "civitai"
    (folder / f"{TODAY}.json").rename(folder / f"{EARLIER}.json")
    del hub.models[4]
    assert record("catalog/civitai").exit_code == 0
    for day in (str(EARLIER), str(TODAY)):
        opened = extract.open_intake(warehouse, civitai, Window.of(day), "recorded")
        run = land_intake(warehouse, civitai, day, opened)
    assert (run.counts.unchanged, run.counts.deleted) == (4, 1)


def test_an_existing_recording_is_overwritten_only_on_request(record: Record, hub: Hub, samples: Path) -> None:
    record("catalog/civitai")
    refused = record("catalog/civitai")
    assert isinstance(refused.exception, AtlasError) and refused.exception.usage
    assert str(refused.exception) == (
        f"samples/catalog/civitai/{TODAY}.json exists already. To overwrite it, add --replace."
    )
    assert record("catalog/civitai", "--replace").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["catalog"], "Name one source: catalog/civitai, "),
        (["catalog/nothing"], "There is no source or domain 'catalog/nothing'"),
        (["catalog/civitai", "--day", "2026-11-01"], "catalog/civitai has no history"),
        (["catalog/ollama"], "catalog/ollama reads library too: set ATLAS_OLLAMA_LIBRARY_BASE_URL"),
        (["catalog/comfyui"], "catalog/comfyui reads a folder"),
    ],
)
def test_what_cannot_be_recorded_is_told_in_a_sentence(
    record: Record, samples: Path, arguments: list[str], said: str
) -> None:
    done = record(*arguments)
    assert isinstance(done.exception, AtlasError) and said in str(done.exception)
    assert not samples.exists()


def test_a_source_that_fails_leaves_no_recording(record: Record, hub: Hub, samples: Path) -> None:
    hub.refuses = True
    assert isinstance(record("catalog/civitai").exception, AtlasError)
    assert not samples.exists()


# Folders


def a_picture(text: bytes) -> bytes:
    data = b"workflow\0" + text
    chunks = [(b"tEXt", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I4s", len(body), kind) + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))
        for kind, body in chunks
    )


def test_a_folder_is_copied_file_by_file(
    record: Record, tmp_path: Path, comfyui: Source, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "workflows"
    (folder / "deep").mkdir(parents=True)
    (folder / "plain.json").write_bytes(b'{"nodes": [],   "z": 1.50}')
    (folder / "deep" / "by.json").write_bytes(b'{"nodes": [], "author": "ann@site.org", "token": "a-secret"}')
    (folder / "a.png").write_bytes(a_picture(b'{"nodes": []}'))
    (folder / "secret.png").write_bytes(a_picture(b'{"nodes": [], "api_key": "a-secret"}'))
    (folder / "notes.txt").write_text("a-secret")
    monkeypatch.setenv("ATLAS_COMFYUI_BASE_URL", str(folder))
    done = record("catalog/comfyui", "--json")
    assert done.exit_code == 3, "a picture that seems to hold a secret is left out"
    assert json.loads(done.stdout)["left_out"] == ["secret.png"]
    found = {each.request: each.body for each in replayed(comfyui, warehouse) if isinstance(each, Payload)}
    assert found == {
        "a.png#workflow": b'{"nodes": []}',
        "deep/by.json": b'{"nodes": [], "author": "person1@example.org", "token": "REDACTED"}',
        "plain.json": b'{"nodes": [],   "z": 1.50}',
    }
    assert record("catalog/comfyui", "--limit", "1", "--replace").exit_code == 0
    assert len(replayed(comfyui, warehouse)) == 1


# Secrets


@pytest.mark.parametrize(
    ("received", "kept"),
    [
        (
            '{"token": "abc", "max_tokens": 5, "tokenizer": "bpe"}',
            '{"token": "REDACTED", "max_tokens": 5, "tokenizer": "bpe"}',
        ),
        (
            '{"api_key" :"a\\"b","password":"x","clientSecret":"y"}',
            '{"api_key" :"REDACTED","password":"REDACTED","clientSecret":"REDACTED"}',
        ),
        (
            '["\\nann@site.org", "a\\u0040b.org", "ann@site.org"]',
            '["\\nperson1@example.org", "person2@example.org", "person1@example.org"]',
        ),
        ('{"x": "Bearer abcdef123456", "y": "' + TOKEN + '"}', '{"x": "Bearer REDACTED", "y": "REDACTED"}'),
        ('{"nested": "{\\"token\\": \\"abc\\"}"}', '{"nested": "{\\"token\\": \\"REDACTED\\"}"}'),
        ('{"v": 1.50, "u": "\\u00e9", "n": "pkg@1.2"}', '{"v": 1.50, "u": "\\u00e9", "n": "pkg@1.2"}'),
    ],
    ids=range(6),
)
def test_secrets_and_addresses_are_replaced_and_every_other_byte_stays(received: str, kept: str) -> None:
    assert Redactor().document(received) == kept


@pytest.mark.parametrize(
    ("received", "kept"),
    [
        ("/list?token=a&key=b&page=2", "/list?page=2"),
        ("/list?page=2&key=a&b=c&api_key=d", "/list?page=2&b=c"),
        ("see https://me:pw@host/list?page=2&sig=x now", "see https://host/list?page=2 now"),
        ('"/list?token=a" "/list?key=a&sig=b#c"', '"/list" "/list#c"'),
    ],
)
def test_secret_parameters_are_removed_from_urls(received: str, kept: str) -> None:
    assert without_secrets_in_urls(received) == kept
