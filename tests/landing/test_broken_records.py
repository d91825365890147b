"""A broken record stops neither its page, its file nor its source: over HTTP and from files, of the toy library."""

import json
import random
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.connectors.retries import ATTEMPTS
from pipelines.errors import AtlasError
from pipelines.landing import bulk_files
from pipelines.landing.land import land_intake
from pipelines.source import Source
from pipelines.warehouse.database import Warehouse
from tests import hostile
from tests.corruptions import CORRUPTIONS, Broken, held, two_places
from tests.hostile import Answer, Asked, Fault, Server
from tests.library import whole
from tests.runs import land_anew

pytestmark = pytest.mark.usefixtures("toy")
TODAY = datetime.now(UTC).date().isoformat()


@dataclass
class Library:
    """The toy library over HTTP: authors on pages of four, no covers."""

    authors: dict[int, Any]

    def answer(self, asked: Asked) -> Answer:
        *_, kind, key = ("", *asked.path.split("/"))
        if key.isdigit():
            found = self.authors.get(int(key)) if kind == "authors" else None
            return Answer(found or {"error": "none"}, 200 if found else 404)
        if key == "covers":
            return Answer({"items": None})
        begin = int(asked.arguments.get("from", 0))
        page = list(self.authors.values())[begin : begin + 4]
        following = f"/authors?from={begin + 4}" if begin + 4 < len(self.authors) else None
        return Answer({"items": page, "next": following})


@pytest.mark.emptied
@pytest.mark.parametrize("seed", range(100))
@pytest.mark.sample(8)
def test_two_broken_records_of_a_page_of_the_library(
    warehouse: Warehouse, library: Source, serve: Callable[..., Server], seed: int
) -> None:
    api = Library({number: whole(number) for number in range(1, 7)})
    broken = Broken(api.answer)
    serve("library", broken.answer)
    land_anew(warehouse, library)
    assert {key for _, key in held(warehouse)} == {str(number) for number in api.authors}
    api.authors |= {number: whole(number, name="another") for number in (1, 2, 3, 7, 8)}
    broken.kinds = two_places(random.Random(seed), 4)
    run = land_anew(warehouse, library)
    expected = {
        str(each["id"]): each for number, each in enumerate(api.authors.values()) if number % 4 not in broken.kinds
    }
    after = {key: body for (_, key), body in held(warehouse).items()}
    assert {key: after.get(key) for key in expected} == expected, "the others have landed"
    assert after.keys() >= {str(number) for number in range(1, 7)}, "nothing is deleted"
    assert run.counts.deleted == 0
    broken.kinds = {}
    land_anew(warehouse, library)
    assert {key: body for (_, key), body in held(warehouse).items()} == {
        str(number): each for number, each in api.authors.items()
    }


@pytest.mark.emptied
@pytest.mark.parametrize("seed", range(100))
@pytest.mark.sample(8)
def test_two_broken_records_of_a_file(warehouse: Warehouse, library: Source, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    records = [json.dumps(whole(number)).encode() for number in range(1, 6)]
    kinds = two_places(draw, 5)
    for place, kind in kinds.items():
        records[place] = CORRUPTIONS[kind](records[place])
    pages = [(b"[", b"]"), (b'{"items": [', b'], "next": null}'), (b'\xef\xbb\xbf{"items": [', b"]}")]
    before, after = draw.choice(pages)
    (tmp_path / "authors.json").write_bytes(before + b", ".join(records) + after)
    intake = bulk_files.intake(library, "authors", tmp_path / "authors.json", None)
    land_intake(warehouse, library.streams[0], TODAY, nullcontext(intake))
    assert {key for _, key in held(warehouse)} >= {str(number + 1) for number in range(5) if number not in kinds}


@pytest.mark.emptied
@pytest.mark.parametrize("name", [*hostile.NO_LIMITS, "408", "421", "425"])
@pytest.mark.sample(6)
def test_a_fault_of_a_page_keeps_the_checkpoint(
    warehouse: Warehouse, library: Source, serve: Callable[..., Server], name: str
) -> None:
    api = Library({number: whole(number) for number in range(1, 10)})
    server = serve("library", api.answer)

    def script(asked: Asked) -> Fault | None:
        return Fault(name) if asked.arguments.get("from") == "8" and name in hostile.FAULTS else None

    server.script = script
    if name.isdigit():
        server.answer = lambda asked: (
            Answer(b"later", int(name)) if asked.arguments.get("from") == "8" else api.answer(asked)
        )
    with pytest.raises(AtlasError, match="toy/library"):
        land_anew(warehouse, library)
    assert [asked.arguments.get("from") for asked in server.log] == [None, "4", *["8"] * ATTEMPTS]
    server.script, server.answer = hostile.nothing, api.answer
    server.log.clear()
    assert land_anew(warehouse, library).counts.created == 9
    assert [asked.arguments.get("from") for asked in server.log if asked.path == "/authors"] == ["8"]
