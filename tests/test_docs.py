"""docs/ names modules that exist, and follows a payload in few steps."""

import re

from pipelines import project

HOW_IT_WORKS = project.ROOT / "docs" / "how-it-works.md"
MAX_HOPS = 12


def test_a_payload_is_followed_in_twelve_hops_each_a_module_and_a_sentence() -> None:
    hops = re.findall(r"^\| (\d+) \| `([^`]+)` \| ([^|]+\.) \|$", HOW_IT_WORKS.read_text(), re.M)
    assert [int(number) for number, _, _ in hops] == list(range(1, len(hops) + 1))
    assert 5 < len(hops) <= MAX_HOPS
    assert [path for _, path, _ in hops if not (project.ROOT / path).is_file()] == []


def test_every_module_that_how_it_works_names_exists() -> None:
    named = set(re.findall(r"`([a-z_/]+\.py)`", HOW_IT_WORKS.read_text()))
    assert len(named) > 20
    assert {
        path
        for path in named
        if not any((folder / path).is_file() for folder in (project.ROOT, project.ROOT / "pipelines"))
    } == set()
