"""The documents: README.md and the pages of docs/, as tests read and write them."""

import re

from pipelines import project

README = project.ROOT / "README.md"
DOCS = project.ROOT / "docs"
FIGURES = DOCS / "operations.md"
"""The document with the measured figures."""
QUESTIONS = DOCS / "questions.md"
REFERENCE = DOCS / "reference.md"
ADD_A_SOURCE = DOCS / "add-a-source.md"
ADD_A_DOMAIN = DOCS / "add-a-domain.md"
DOCUMENTS = (README, *sorted(DOCS.glob("*.md")))


def text() -> str:
    """All documents together."""
    return "\n".join(path.read_text() for path in DOCUMENTS)


def prose(document: str) -> str:
    """A document without its code blocks."""
    return re.sub(r"^```.*?^```$", "", document, flags=re.M | re.S)


def between(document: str, begin: str, end: str) -> tuple[str, str, str]:
    """What stands before, between and after two marks."""
    before, _, rest = document.partition(begin)
    inside, _, after = rest.partition(end)
    return before, inside, after
