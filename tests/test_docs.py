"""README.md and docs/: what they name exists, README.md is short, and a payload is followed in few steps."""

import re
from pathlib import Path

import pytest

from pipelines import project
from tests import documents
from tests.documents import DOCS, DOCUMENTS, README

HOW_IT_WORKS = DOCS / "how-it-works.md"
MAX_HOPS = 12
MAX_README_LINES = 200
MAX_LINE = 120
EXAMPLES = ("catalog/zoo", "/fonts/")
"""What docs/add-a-source.md and docs/add-a-domain.md add: these files do not exist."""

every_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


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


def test_readme_is_short() -> None:
    assert len(README.read_text().splitlines()) <= MAX_README_LINES


@every_document
def test_lines_of_prose_are_short(document: Path) -> None:
    """Rows of tables and questions with their names excepted."""
    lines = documents.prose(document.read_text()).splitlines()
    long = [line for line in lines if len(line) > MAX_LINE]
    assert [line for line in long if not re.fullmatch(r"\|.*|\*\*.+\*\* `\w+`", line)] == []


def anchors(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", documents.prose(document.read_text()), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_document
def test_every_link_leads_somewhere(document: Path) -> None:
    text = documents.prose(document.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text)
    relative = [found for found in (link or attribute for link, attribute in links) if "://" not in found]
    broken = []
    for link in relative:
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.is_file() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_readme_links_to_every_page() -> None:
    links = set(re.findall(r"\]\((docs/[^)#]+)", README.read_text()))
    assert links == {path.relative_to(project.ROOT).as_posix() for path in DOCS.glob("*.md")}


@every_document
def test_every_path_that_is_named_exists(document: Path) -> None:
    named = set(
        re.findall(
            r"(?<![\w/.>~-])((?:pipelines|assets|sql|samples|migrations|docs|tests)/[\w./*-]*)", document.read_text()
        )
    )
    paths = {path.rstrip(".") for path in named if not any(example in path for example in EXAMPLES)}
    assert {path for path in paths if not any(project.ROOT.glob(path))} == set()


def test_readme_names_each_folder_of_the_layout() -> None:
    (layout,) = re.findall(r"^## The layout$.*?^```\n(.*?)^```$", README.read_text(), re.M | re.S)
    packages = {path.parent.name for path in (project.ROOT / "pipelines").glob("*/__init__.py")}
    folders = packages | {"pipelines", "assets", "sql", "samples", "migrations", "docs", "tests"}
    assert len(packages) > 5
    assert {name for name in folders if f"{name}/" not in layout} == set()
