"""What SELECT files read from payloads: the JSON paths that they rely on, found with sqlglot.

Each column is followed through JSON_TABLE, subqueries and CTEs to the payload it comes from. Belongs here: paths of
SELECT files. Not: what happens where a payload lacks them (`test_i10_drift`).
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import sqlglot
from sqlglot import exp

from pipelines.project import Select
from pipelines.source import Source

Steps = tuple[str | int, ...]
"""Keys, `[*]` for any element, a number for one element, `*` for any value, `~regex` for keys that match."""

Read = tuple[str, Steps]
"""Kind of a payload, and a path in it."""

EXTRACTS = (exp.JSONExtract, exp.JSONExtractScalar, exp.JSONBExtract, exp.JSONBExtractScalar)

_TOKEN = re.compile(
    r"(?P<pairs>\.keyvalue\(\))|\?\s*\((?P<filter>.+?)\)(?=$|[.\[])|(?P<each>\[\*\])|\[(?P<index>\d+)\]"
    r"|(?P<any>\.\*)|\.(?P<key>\w+)|\s+"
)


def of_jsonpath(text: str) -> tuple[Steps, list[Steps]]:
    """The steps of a JSON path, and those of what its filters look at."""
    rest, steps, looked_at = re.sub(r"^(strict|lax) ", "", text).removeprefix("$"), list[str | int](), list[Steps]()
    position = 0
    while position < len(rest):
        token = _TOKEN.match(rest, position)
        assert token, f"a JSON path that this reading does not know: {text}"
        position = token.end()
        found = {name: value for name, value in token.groupdict().items() if value}
        if "filter" in found:
            if matching := re.search(r'@\.key like_regex "(.+)"', found["filter"]):
                steps[-1] = f"{{~{matching.group(1)}}}"
            for path in re.findall(r"@((?:\.\w+)+)(?!\()(?=[ )!=]|$)", found["filter"]):
                if path != ".key":
                    looked_at.append((*steps, *of_jsonpath(f"${path}")[0]))
        elif "index" in found:
            steps.append(int(found["index"]))
        elif found:
            steps.append({"pairs": "{}", "each": "[*]", "any": "*"}.get(next(iter(found)), found.get("key", "")))
    return tuple(steps), looked_at


def plain(steps: Steps) -> Steps:
    """Steps without pairs of key and value: to the values."""
    result: list[str | int] = []
    after_pairs = False
    for step in steps:
        if isinstance(step, str) and step.startswith("{"):
            result.append(step[1:-1] or "*")
        elif not (after_pairs and step in ("key", "value")):
            result.append(step)
        after_pairs = isinstance(step, str) and step.startswith("{")
    return tuple(result)


class Reading:
    """One SELECT file, over the streams of its source."""

    def __init__(self, source: Source, select: Select) -> None:
        self.tree = sqlglot.parse_one(select.file.text, dialect="postgres")
        self.kinds = {kind or "payloads": kind for kind in source.contracts}
        self.kinds |= {f"{kind}_observations" if kind else "observations": kind for kind in source.contracts}
        self.ctes = {cte.alias: cte for cte in self.tree.find_all(exp.CTE)}

    def paths(self) -> set[Read]:
        return {(kind, plain(steps)) for kind, steps in self._paths() if steps}

    def _paths(self) -> Iterator[Read]:
        for node in self.tree.walk():
            if isinstance(node, exp.JSONTable):
                for kind, base in self._of(node.this):
                    for steps, looked_at in self._columns(node):
                        yield from ((kind, base + each) for each in (steps, *looked_at))
            elif isinstance(node, EXTRACTS):
                yield from self._of(node)
            elif isinstance(node, exp.Anonymous) and node.name.lower().startswith("jsonb_path_"):
                steps, looked_at = of_jsonpath(node.expressions[1].name)
                for kind, base in self._of(node.expressions[0]):
                    yield from ((kind, base + each) for each in (steps, *looked_at))

    def _columns(self, table: exp.JSONTable, name: str | None = None) -> Iterator[tuple[Steps, list[Steps]]]:
        """The paths of a JSON_TABLE from what it reads: of all its columns, or of one."""
        top, looked_at = of_jsonpath(table.args["path"].this)
        yield from self._below(table.args["schema"].expressions, top, looked_at, name)

    def _below(
        self, columns: Sequence[exp.Expression], above: Steps, looked_at: list[Steps], name: str | None
    ) -> Iterator[tuple[Steps, list[Steps]]]:
        for column in columns:
            if not isinstance(column, exp.JSONColumnDef) or not column.args.get("path"):
                continue
            steps, more = of_jsonpath(column.args["path"].this)
            found = looked_at + [(*above, *each) for each in more]
            if nested := column.args.get("nested_schema"):
                yield from self._below(nested.expressions, above + steps, found, name)
            elif name in (None, column.name):
                yield above + steps, found

    def _of(self, node: Any) -> set[Read]:
        """Where the value of an expression comes from."""
        if isinstance(node, exp.Column):
            return self._of_column(node)
        if isinstance(node, EXTRACTS):
            return {(kind, base + self._key(node.expression)) for kind, base in self._of(node.this)}
        if isinstance(node, exp.Case):
            values = [each.args["true"] for each in node.args["ifs"]] + [node.args.get("default")]
            return set().union(*(self._of(each) for each in values if each is not None))
        if isinstance(node, exp.Expression) and not isinstance(node, exp.Query):
            return set().union(*(self._of(each) for each in node.iter_expressions()))
        return set()

    @staticmethod
    def _key(node: exp.Expression) -> Steps:
        if isinstance(node, exp.JSONPath):
            parts = [each for each in node.expressions if not isinstance(each, exp.JSONPathRoot)]
            return tuple(int(each.this) if isinstance(each, exp.JSONPathSubscript) else each.this for each in parts)
        if isinstance(node, exp.Literal):
            return tuple(each for each in node.name.strip("{}").split(",") if each)
        return ("*",)

    def _of_column(self, column: exp.Column) -> set[Read]:
        query = column.find_ancestor(exp.Select)
        while query is not None:
            sources = [query.args.get("from_"), *query.args.get("joins", []), *query.args.get("laterals", [])]
            for each in sources:
                found = each.this if isinstance(each, exp.From | exp.Join) else each
                if found is not None and found.alias_or_name == column.table:
                    return self._of_source(found, column.name)
            query = query.find_ancestor(exp.Select)
        return set()

    def _of_source(self, found: exp.Expression, name: str) -> set[Read]:
        if isinstance(found, exp.Table) and isinstance(found.this, exp.JSONTable):
            return {
                (kind, base + steps)
                for steps, _ in self._columns(found.this, name)
                for kind, base in self._of(found.this.this)
            }
        if isinstance(found, exp.Table):
            if found.name in self.kinds:
                return {(self.kinds[found.name], ())} if name == "body" else set()
            cte = self.ctes.get(found.name)
            return self._of_query(cte.this, name) if cte is not None else set()
        if isinstance(found, exp.Subquery | exp.Lateral):
            return self._of_query(found.this, name)
        return set()

    def _of_query(self, query: exp.Expression, name: str) -> set[Read]:
        while isinstance(query, exp.Subquery):
            query = query.this
        sides: list[exp.Expression] = []
        while isinstance(query, exp.SetOperation):
            sides.append(query.expression)
            query = query.this
        result: set[Read] = set()
        if not isinstance(query, exp.Select):
            return result
        names = [each.alias_or_name for each in query.expressions]
        for each in query.expressions:
            if each.is_star:
                star = exp.column(name, table=each.args["table"].name if isinstance(each, exp.Column) else None)
                star.parent = each.parent
                result |= self._of_column(star)
        if name in names:
            place = names.index(name)
            for side in (query, *sides):
                while isinstance(side, exp.Subquery):
                    side = side.this
                result |= self._of(side.expressions[place])
        return result


def paths_read(source: Source, select: Select) -> set[Read]:
    """The paths that a SELECT file reads from the payloads of a source."""
    return Reading(source, select).paths()
