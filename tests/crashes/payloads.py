"""Payloads in CivitAI's shape that make a landing and a transform take every branch.

Records that are new, changed and repeated, rows that do not fit, and bytes that are not JSON.

Belongs here: payloads and the days they land for. Not here: who lands them (`scenarios`, the tests).
"""

import json
from typing import Any

EARLIER, DAY, LATER = "2026-11-04", "2026-11-05", "2026-11-06"


def a_model(number: int, *, edition: int = 0, downloads: int = 10, **more: Any) -> bytes:
    """One model in CivitAI's shape: two images, and files and tags that differ in another edition."""
    images = [{"id": number * 10 + each, "url": f"https://i/{number}/{each}.png"} for each in range(2)]
    images[0] |= {"meta": {"prompt": f"a lighthouse, number {number}", "seed": edition}}
    file = {"id": number, "name": f"{number}.safetensors", "type": "Model", "sizeKB": 10.5 + edition, "hashes": {}}
    body = {
        "id": number,
        "name": f"Lighthouse {number}" + " again" * edition,
        "type": "LORA",
        "nsfw": False,
        "tags": ["lighthouse", f"edition {edition} of {number % 4}"],
        "stats": {"downloadCount": downloads},
        "modelVersions": [
            {"id": number, "name": "v1", "files": [file] * (number % 3 > edition), "images": images[edition:]}
        ],
    }
    return json.dumps(body | more).encode()


FIRST = [a_model(number) for number in range(30)]
AFTER = [a_model(number) for number in range(5)]
NEWS = [
    *(a_model(number, downloads=20) for number in range(5)),  # as they landed for LATER
    *(a_model(number, edition=1) for number in range(5, 12)),
    *(a_model(number, downloads=30) for number in range(12, 18)),
    *(a_model(number) for number in range(18, 22)),
    *(a_model(number) for number in range(30, 45)),
    a_model(31),
    a_model(32, edition=1),
    a_model(46, description="one\0two"),
    b'{"id": 90, "name": 7, "type": "LORA"}',
    b'{"id": 91, "name": "Cut sh',
]
HALF = {"id": 51, "name": "half", "type": "Model", "hashes": {"SHA256": "abc"}}
UNFIT = [
    *(a_model(number, edition=1) for number in range(5, 9)),
    a_model(50, modelVersions=[{"id": 5, "name": "of another", "files": [], "images": []}]),
    a_model(51, modelVersions=[{"id": 51, "name": "v1", "files": [HALF], "images": []}]),
]
