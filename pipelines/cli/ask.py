"""`atlas ask`: answers questions; each is a SELECT in `sql/<domain>/questions/`.

Belongs here: its options and output. Not here: where the questions lie (`pipelines.project`).
"""

from typing import Annotated

import typer

from pipelines import project
from pipelines.cli import context, show
from pipelines.cli.context import AsJson
from pipelines.errors import AtlasError


def ask(
    questions: Annotated[list[str] | None, typer.Argument(help="Names of questions; without any, all.")] = None,
    json: AsJson = False,
) -> None:
    """Answer questions about the warehouse. Each is a SELECT that you can build on."""
    known = {each.name: each for each in project.questions()}
    unknown = [name for name in questions or [] if name not in known]
    if unknown:
        raise AtlasError(f"There is no question {unknown[0]!r}. There are: {', '.join(known)}.", usage=True)
    answers = {}
    with context.warehouse() as warehouse, warehouse.connect() as connection:
        for name in questions or known:
            answers[name] = connection.execute(known[name].text).fetchall()
    if json:
        show.as_json(answers)
        return
    for name, rows in answers.items():
        show.table(f"{known[name].sentence} ({name})", rows)
