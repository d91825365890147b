"""ComfyUI: every graph of the package once, counted independently; the API's format and graphs from pictures too."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from pipelines import fetching, landing
from pipelines.ledger import Run
from pipelines.source import Payload, Source, Window
from pipelines.transform import transform
from pipelines.warehouse.engine import Warehouse

DAY = "2026-11-01"


def take(warehouse: Warehouse, source: Source, *items: Payload) -> Run:
    landing.land(warehouse, source, DAY, items, fetched_at=Window.of(DAY).start)
    return transform(warehouse, source, DAY)


def counts(warehouse: Warehouse) -> dict[str, int]:
    with warehouse.connect() as connection:
        rows = connection.execute("select external_id, nodes_count from catalog.workflows").fetchall()
    return {row["external_id"]: row["nodes_count"] for row in rows}


def prompts(warehouse: Warehouse) -> list[str]:
    with warehouse.connect() as connection:
        return [row["text"] for row in connection.execute("select text from catalog.prompts order by text")]


def graph(*texts: str) -> dict[str, Any]:
    return {
        "nodes": [{"id": each, "type": "CLIPTextEncode", "widgets_values": [text]} for each, text in enumerate(texts)]
    }


def test_every_graph_of_the_package_is_there_once_with_its_nodes_counted(warehouse: Warehouse, comfyui: Source) -> None:
    spec = importlib.util.find_spec("comfyui_workflow_templates_json")
    assert spec is not None and spec.origin is not None
    expected: dict[str, int] = {}
    skipped = 0
    for path in Path(spec.origin).parent.glob("templates/*.json"):
        document = json.loads(path.read_bytes())
        if isinstance(document, dict) and isinstance(document.get("nodes"), list):
            expected[path.name] = len(document["nodes"])
        else:
            skipped += 1

    fetched = fetching.fetched(comfyui, Window.of(DAY), "recorded")
    landed = landing.land(warehouse, comfyui, DAY, fetched.items, fetched_at=fetched.at)
    assert transform(warehouse, comfyui, DAY).status == "completed"
    assert counts(warehouse) == expected
    assert len(expected) > 600
    assert landed.stats["skipped"] == {"no workflow graph": skipped}


def test_a_graph_in_the_apis_format_counts_its_numbered_nodes(warehouse: Warehouse, comfyui: Source) -> None:
    body = {
        "3": {"class_type": "KSampler", "inputs": {"positive": ["6", 0], "negative": ["7", 0]}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a quiet harbour"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "people"}},
    }
    take(warehouse, comfyui, Payload(json.dumps(body).encode(), "api.json", "api.json"))
    assert counts(warehouse) == {"api.json": 3}
    assert prompts(warehouse) == ["a quiet harbour", "people"]


def test_a_prompt_inside_a_subgraph_is_found_and_a_blank_one_is_none(warehouse: Warehouse, comfyui: Source) -> None:
    body = graph("on top", "  ") | {"definitions": {"subgraphs": [{"id": "s", "name": "inner"} | graph("inside")]}}
    take(warehouse, comfyui, Payload(json.dumps(body).encode(), "sub.json", "sub.json"))
    assert counts(warehouse) == {"sub.json": 2}
    assert prompts(warehouse) == ["inside", "on top"]


@pytest.mark.parametrize("field", ["prompt_raw", "workflow_raw"])
def test_graphs_of_real_pictures_land_in_both_formats(
    warehouse: Warehouse, comfyui: Source, shared_data: Path, field: str
) -> None:
    lines = (shared_data / "comfyui" / "png_api_prompts.ndjson").read_text().splitlines()
    found = {line["file"]: line[field] for line in map(json.loads, lines) if line.get(field)}
    run = take(warehouse, comfyui, *(Payload(text.encode(), name, name) for name, text in found.items()))
    assert run.counts.quarantined == 0
    expected = {}
    for name, text in found.items():
        document = json.loads(text)
        expected[name] = len(document["nodes"] if field == "workflow_raw" else document)
    assert counts(warehouse) == expected
    assert prompts(warehouse)
