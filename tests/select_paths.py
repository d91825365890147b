"""JSON paths that SELECT files read, found without `pipelines.columns`, so that tests can check what that finds.

Belongs here: paths of a JSON_TABLE on the body of a payload, and words quoted in SQL. Not here: what a test expects.
"""

import re
from collections.abc import Iterator, Sequence

import sqlglot
from sqlglot import exp

from pipelines.project import Select
from pipelines.source import Source

Path = tuple[str, str]
"""Kind, and path in its payloads."""


def read_columns(columns: Sequence[exp.Expression], below: str) -> Iterator[str]:
    """The path of each column of a JSON_TABLE, from the top of what it reads."""
    for column in columns:
        if isinstance(column, exp.JSONColumnDef) and column.args.get("path"):
            path = below + column.args["path"].this.removeprefix("strict ").removeprefix("$")
            nested = column.args.get("nested_schema")
            yield from read_columns(nested.expressions, path) if nested else [path]


def paths_read(source: Source, select: Select) -> Iterator[Path]:
    """What a SELECT file reads straight from payloads by JSON_TABLE."""
    kinds = {kind or "payloads": kind for kind in source.contracts}
    kinds |= {f"{kind}_observations" if kind else "observations": kind for kind in source.contracts}
    for table in sqlglot.parse_one(select.file.text, dialect="postgres").find_all(exp.JSONTable):
        value = table.this.unnest_operands()[0] if isinstance(table.this, exp.FormatJson) else table.this
        query = table.find_ancestor(exp.Select)
        while isinstance(value, exp.Column) and value.name == "body" and query is not None:
            read = query.args["from_"].this
            if isinstance(read, exp.Table) and read.alias == value.table and read.name in kinds:
                top = table.args["path"].this.removeprefix("strict ")
                yield from ((kinds[read.name], path) for path in read_columns(table.args["schema"].expressions, top))
                break
            query = query.find_ancestor(exp.Select)


def steps_of(path: str) -> list[str]:
    """The keys of a path, `[*]` and `*`, up to the first filter."""
    chosen = path.partition("?")[0].replace(".keyvalue().value", ".*").partition(".keyvalue()")[0]
    return re.findall(r"\[\*\]|[^.\[\]$ ]+", chosen)


def quoted_words(select: Select) -> set[str]:
    """Words in the string literals of a SELECT file: every key that it reads by name is one of them."""
    without_comments = re.sub("--.*", "", select.file.text)
    return set(re.findall(r"\w+", " ".join(re.findall("'[^']*'", without_comments))))
