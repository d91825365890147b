"""Which JSON paths of its streams a SELECT reads, and into which columns, found by parsing the SELECT with sqlglot.

    SQL ──sqlglot──> syntax tree ──> each JSON_TABLE, ->, ->>, #>, ?, jsonb_path_… ──> stream and JSON path
                          └──> each column that the SELECT yields ──────────────────────────┘

A column is followed through JSON_TABLE, subqueries and CTEs to the `body` of its stream. Modules that Dagster loads
import this one inside a function: sqlglot takes 0.2 s.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import pairwise
from typing import Any

import sqlglot
from sqlglot import exp

from pipelines.project import Select
from pipelines.source import Source

Steps = tuple[str | int, ...]
"""Keys, `[*]` for any element, a number for one element, `*` for any key, `~regex` for keys that match."""
Read = tuple[str, Steps]  # kind of a payload, and a path in it

EXTRACTS = exp.JSONExtract | exp.JSONExtractScalar | exp.JSONBExtract | exp.JSONBExtractScalar | exp.JSONBContainsTopKey
REPLACE_NULL = (
    *(exp.Anonymous, exp.Case, exp.Coalesce, exp.Greatest, exp.Least, exp.Concat, exp.ConcatWs, exp.Format),
    *(exp.Array, exp.ArrayAgg, exp.Count, exp.Is, exp.NullSafeEQ, exp.NullSafeNEQ),
)
"""Expressions that may have a value where an argument is NULL."""

_TOKEN = re.compile(
    r"(?P<pairs>\.keyvalue\(\))|\?\s*\((?P<filter>.+?)\)(?=$|[.\[])|(?P<each>\[\*\])|\[(?P<index>\d+)\]"
    r'|(?P<any>\.\*)|\.(?P<key>\w+)|\."(?P<quoted>[^"\\]+)"|\s+'
)


@dataclass(frozen=True)
class Reads:
    """What a SELECT reads from payloads."""

    paths: frozenset[Read] = frozenset()
    unresolved: frozenset[Steps] = frozenset()  # within a value of which the parser does not know where it comes from
    problem: str | None = None  # why the SELECT could not be followed
    columns: Mapping[Read, Mapping[str, bool]] = field(default_factory=dict, compare=False)
    """By path, the columns of the SELECT that depend on it; True where the column is NULL without it."""


def reads(source: Source, select: Select) -> Reads:
    """What a SELECT file of a source reads. Raises nothing: a SELECT that cannot be followed has a `problem`."""
    return _reads(select.file.text, tuple(source.contracts))


@cache
def _reads(sql: str, kinds: tuple[str, ...]) -> Reads:
    try:
        return _Reader(sql, kinds).reads()
    except Exception as error:  # sqlglot's tree may have any shape for a construct that is new here
        return Reads(problem=f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")


def parse_jsonpath(text: str) -> tuple[Steps, list[Steps]]:
    """The steps of a JSON path, and the paths that its filters read. Raises ValueError for an unknown construct."""
    rest, steps, filtered = re.sub(r"^(strict|lax) ", "", text).removeprefix("$"), list[str | int](), list[Steps]()
    position = 0
    while position < len(rest):
        token = _TOKEN.match(rest, position)
        if token is None:
            raise ValueError(f"unknown construct in the JSON path {text!r}")
        position = token.end()
        name = token.lastgroup
        if name == "filter":
            if matching := re.search(r'@\.key like_regex "(.+)"', token[name]):
                steps[-1] = f"{{~{matching.group(1)}}}"
            for path in re.findall(r"@((?:\.\w+)+)(?!\()(?=[ )!=]|$)", token[name]):
                if path != ".key":
                    filtered.append((*steps, *parse_jsonpath(f"${path}")[0]))
        elif name == "index":
            steps.append(int(token[name]))
        elif name:
            steps.append({"pairs": "{}", "each": "[*]", "any": "*"}.get(name, token[name]))
    return tuple(steps), filtered


def _to_values(steps: Steps) -> Steps:
    """The same path without `.keyvalue()`, which makes pairs of key and value: it leads to the values themselves."""
    result: list[str | int] = []
    for before, step in pairwise(("", *steps)):
        if isinstance(step, str) and step.startswith("{"):
            result.append(step[1:-1] or "*")
        elif not (str(before).startswith("{") and step in ("key", "value")):
            result.append(step)
    return tuple(result)


def _keys(node: exp.Expression) -> Steps:
    """The steps that the right side of an operator or a subscript takes; `*` for a key that is computed."""
    if isinstance(node, exp.JSONPath):
        parts = [each for each in node.expressions if not isinstance(each, exp.JSONPathRoot)]
        return tuple(int(each.this) if isinstance(each, exp.JSONPathSubscript) else each.this for each in parts)
    if isinstance(node, exp.Literal):
        return tuple(each for each in node.name.strip("{}").split(",") if each)
    return ("*",)


def _extracted(node: Any) -> Steps | None:
    """The steps that an operator or a subscript takes from its left side; None for any other expression."""
    if isinstance(node, exp.Bracket) and node.expressions[0].is_string:  # a number may be the place in an SQL array
        return _keys(node.expressions[0])
    return _keys(node.expression) if isinstance(node, EXTRACTS) else None


def _json_columns(
    columns: Sequence[exp.Expression], above: Steps, filtered: list[Steps]
) -> Iterator[tuple[str, Steps, list[Steps]]]:
    """Name and path of each column of a JSON_TABLE, from the value that it reads; with the paths that filters read."""
    for column in columns:
        if not isinstance(column, exp.JSONColumnDef) or column.args.get("ordinality"):
            continue
        path = column.args.get("path")
        steps, more = parse_jsonpath(path.this) if path else ((column.name,), [])
        found = filtered + [(*above, *each) for each in more]
        if nested := column.args.get("nested_schema"):
            yield from _json_columns(nested.expressions, above + steps, found)
        else:
            yield column.name, above + steps, found


def _json_table(table: exp.JSONTable) -> Iterator[tuple[str, Steps, list[Steps]]]:
    return _json_columns(table.args["schema"].expressions, *parse_jsonpath(table.args["path"].this))


def _sides(query: Any) -> list[exp.Select]:
    """The SELECTs of a query: one, or those of its UNION, in order."""
    if isinstance(query, exp.Subquery):
        return _sides(query.this)
    if isinstance(query, exp.SetOperation):
        return _sides(query.this) + _sides(query.expression)
    return [query] if isinstance(query, exp.Select) else []


class _Reader:
    """Follows the columns of one SELECT, over the streams of its source."""

    def __init__(self, sql: str, kinds: Sequence[str]) -> None:
        self.tree = sqlglot.parse_one(sql, dialect="postgres")
        if not isinstance(self.tree, exp.Query):
            raise ValueError("this is not a SELECT")
        self.kinds = {kind or "payloads": kind for kind in kinds}
        self.kinds |= {f"{kind}_observations" if kind else "observations": kind for kind in kinds}
        self.ctes = {cte.alias: cte.this for cte in self.tree.find_all(exp.CTE)}
        self.following: list[tuple[str, str]] = []  # columns of CTEs on the way here: a recursive CTE reads itself
        self.with_conditions = False  # whether a value comes from the conditions of a CASE too, not only its branches

    def reads(self) -> Reads:
        paths, unresolved = set[Read](), set[Steps]()
        for value, steps in self._steps():
            origins = self._of(value)
            paths |= {(kind, path) for kind, base in origins if (path := _to_values(base + steps))}
            if steps and not origins:
                unresolved.add(_to_values(steps))
        self.with_conditions = True
        columns: dict[Read, dict[str, bool]] = defaultdict(dict)
        sides = _sides(self.tree)
        for side in sides:
            for named, value in zip(sides[0].expressions, side.expressions, strict=False):
                is_null = value.find(*REPLACE_NULL) is None
                for kind, steps in self._of(value):
                    found = columns[kind, _to_values(steps)]
                    found[named.alias_or_name] = found.get(named.alias_or_name, True) and is_null
        return Reads(frozenset(paths), frozenset(unresolved), columns=columns)

    def _steps(self) -> Iterator[tuple[Any, Steps]]:
        """Each value that the SELECT looks into, with the path that it takes from there."""
        for node in self.tree.walk():
            if isinstance(node, exp.JSONTable):
                for _, steps, filtered in _json_table(node):
                    yield from ((node.this, each) for each in (steps, *filtered))
            elif (extracted := _extracted(node)) is not None:
                yield node.this, extracted
            elif isinstance(node, exp.Anonymous) and re.match("jsonb_path_|json_(query|exists)", node.name.lower()):
                steps, filtered = parse_jsonpath(node.expressions[1].name)
                yield from ((node.expressions[0], each) for each in (steps, *filtered))

    def _of(self, node: Any) -> set[Read]:
        """Where the value of an expression comes from."""
        if isinstance(node, exp.Column):
            return self._of_column(node)
        if (extracted := _extracted(node)) is not None:
            return {(kind, base + extracted) for kind, base in self._of(node.this)}
        if isinstance(node, exp.Case) and not self.with_conditions:
            values = [each.args["true"] for each in node.args["ifs"]] + [node.args.get("default")]
            return set().union(*(self._of(each) for each in values if each is not None))
        if isinstance(node, exp.Expression) and not isinstance(node, exp.Query):
            return set().union(*(self._of(each) for each in node.iter_expressions()))
        return set()

    def _of_column(self, column: exp.Column) -> set[Read]:
        """Where a column comes from; without a table's name, from whatever table nearby has such a column."""
        query = column.find_ancestor(exp.Select)
        while query is not None:
            sources = [query.args.get("from_"), *query.args.get("joins", []), *query.args.get("laterals", [])]
            found = [each.this if isinstance(each, exp.From | exp.Join) else each for each in sources if each]
            named = [each for each in found if column.table in ("", each.alias_or_name)]
            origins = set[Read]().union(*(self._of_source(each, column.name) for each in named))
            if origins or (named and column.table):
                return origins
            query = query.find_ancestor(exp.Select)
        return set()

    def _of_source(self, found: exp.Expression, name: str) -> set[Read]:
        """Where a column of a table, subquery, CTE or JSON_TABLE comes from."""
        if isinstance(found, exp.Subquery | exp.Lateral):
            return self._of_query(found.this, name)
        if not isinstance(found, exp.Table):
            return set()
        if isinstance(found.this, exp.JSONTable):
            columns = [steps for column, steps, _ in _json_table(found.this) if column == name]
            return {(kind, base + steps) for steps in columns for kind, base in self._of(found.this.this)}
        if found.name in self.kinds:
            return {(self.kinds[found.name], ())} if name == "body" else set()
        if found.name not in self.ctes or (found.name, name) in self.following:
            return set()
        self.following.append((found.name, name))
        origins = self._of_query(self.ctes[found.name], name)
        self.following.pop()
        return origins

    def _of_query(self, query: exp.Expression, name: str) -> set[Read]:
        """Where a column that a query yields comes from, in each part of a UNION."""
        result: set[Read] = set()
        sides = _sides(query)
        for number, each in enumerate(sides[0].expressions if sides else []):
            if each.is_star:
                star = exp.column(name, table=each.args["table"].name if isinstance(each, exp.Column) else None)
                star.parent = each.parent
                result |= self._of_column(star)
            elif each.alias_or_name == name:
                result = result.union(*(self._of(side.expressions[number]) for side in sides))
        return result
