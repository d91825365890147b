"""What the parser of SELECTs finds: JSON paths through JSON_TABLE, operators, subqueries and CTEs; and its limits."""

from dataclasses import dataclass
from itertools import permutations

import pytest
from sqlalchemy import MetaData, Table

from pipelines import project
from pipelines.columns import Reads, reads
from pipelines.project import Select, SqlFile
from pipelines.source import Source


@dataclass(frozen=True)
class Streams:
    """The streams of a source, which is all that the parser asks of it."""

    contracts: dict[str, None]


def read(sql: str, *kinds: str) -> Reads:
    select = Select(SqlFile(project.SQL / "toy/source/things.sql", sql), Table("things", MetaData()))
    return reads(Streams(dict.fromkeys(kinds or ("",))), select)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sql", "paths"),
    [
        ("select p.body -> 'a' ->> 'b' from payloads as p", {("a",), ("a", "b")}),
        ("select p.body #>> '{a,b}' from payloads as p", {("a", "b")}),
        ("select p.body['a']['b'], p.body ? 'c' from payloads as p", {("a",), ("a", "b"), ("c",)}),
        ("select p.body -> 0 ->> 'a' from payloads as p", {(0,), (0, "a")}),
        ("select (array_agg(p.body ->> 'a'))[1] from payloads as p", {("a",)}),
        ("select body ->> 'title' from payloads", {("title",)}),
        (
            "select jsonb_path_query_array(p.body, '$.a[*] ? (@.b == 1).c') from payloads as p",
            {("a", "[*]", "b"), ("a", "[*]", "c")},
        ),
        (
            "select t.x from payloads as p, json_table(p.body, '$.a[*]' columns (x text, n for ordinality)) as t",
            {("a", "[*]", "x")},
        ),
        (
            """
            select t.y ->> 'z' from payloads as p
            cross join json_table(p.body, '$.a' columns (
                nested path '$.b[*]' columns (y jsonb path '$."c d"')
            )) as t
            """,
            {("a", "b", "[*]", "c d"), ("a", "b", "[*]", "c d", "z")},
        ),
        (
            "select t.v from payloads, json_table(body, '$.a.keyvalue()' columns (v text path '$.value.x')) as t",
            {("a", "*", "x")},
        ),
        ("with q as (select p.body -> 'a' as c from payloads as p) select q.c ->> 'b' from q", {("a",), ("a", "b")}),
        (
            """
            with recursive q as (
                select p.body as c from payloads as p union all select q.c -> 'child' from q
            )
            select q.c ->> 'a' from q
            """,
            {("child",), ("a",)},
        ),
        ("select s.* from (select case when true then p.body end -> 'a' as c from payloads as p) as s", {("a",)}),
    ],
)
def test_paths_are_followed_to_the_stream(sql: str, paths: set[tuple[str | int, ...]]) -> None:
    assert read(sql) == Reads(frozenset(("", path) for path in paths))


def test_each_path_is_of_the_stream_that_it_is_read_from() -> None:
    sql = """
    select s.body ->> 'name' from (
        select m.body from models as m union all select i.body -> 'meta' from images_observations as i
    ) as s
    """
    paths = {("models", ("name",)), ("images", ("meta", "name")), ("images", ("meta",))}
    assert read(sql, "models", "images") == Reads(frozenset(paths))


def test_keys_of_a_value_from_an_unknown_place_are_told_apart() -> None:
    found = read("select e.value ->> 'b' from payloads as p, lateral jsonb_array_elements(p.body -> 'a') as e")
    assert found == Reads(frozenset({("", ("a",))}), frozenset({("b",)}))


@pytest.mark.parametrize(
    "sql",
    [
        "select p.body -> from payloads as p",
        "select 'unclosed from payloads",
        "delete from payloads",
        "select jsonb_path_query(p.body, '$[0 to 3]') from payloads as p",
        "select jsonb_path_query(p.body) from payloads as p",
        "",
        f"select {'(' * 5_000}",
    ],
)
def test_a_select_that_cannot_be_followed_has_a_problem_and_raises_nothing(sql: str) -> None:
    found = read(sql)
    assert found.problem
    assert "\n" not in found.problem and "\x1b" not in found.problem
    assert found == Reads(problem=found.problem)


@pytest.mark.parametrize("source", project.sources().values(), ids=lambda source: source.name)
def test_every_select_file_is_followed_and_parsed_once(source: Source) -> None:
    for select in project.selects(source.name):
        found = reads(source, select)
        assert found.paths
        assert (found.problem, found.unresolved) == (None, frozenset()), select.file.address
        assert reads(source, select) is found


@pytest.mark.parametrize(
    ("value", "is_null"),
    [
        ("p.body ->> 'a'", True),
        ("upper(p.body ->> 'a') || 'x'", True),
        ("coalesce(p.body ->> 'a', 'x')", False),
        ("case when p.body ->> 'a' = 'x' then 1 end", False),
        ("greatest(p.body ->> 'a', 'x')", False),
        ("least(p.body ->> 'a', 'x')", False),
        ("concat(p.body ->> 'a', 'x')", False),
        ("concat_ws(',', p.body ->> 'a', 'x')", False),
        ("array[p.body ->> 'a']", False),
        ("p.body ->> 'a' is null", False),
        ("p.body ->> 'a' is not null", False),
        ("p.body ->> 'a' is distinct from 'x'", False),
        ("p.body ->> 'a' is not distinct from 'x'", False),
        ("count(p.body ->> 'a')", False),
        ("array_agg(p.body ->> 'a')", False),
        ("format('%s', p.body ->> 'a')", False),
        ("jsonb_build_object('b', p.body -> 'a')", False),
    ],
)
def test_a_column_is_null_without_a_path_only_where_nothing_replaces_the_null(value: str, is_null: bool) -> None:
    assert read(f"select {value} as c from payloads as p").columns == {("", ("a",)): {"c": is_null}}


@pytest.mark.parametrize("sides", [*permutations(["p.body ->> 'a'", "coalesce(p.body ->> 'a', 'x')"])])
def test_a_column_is_null_without_a_path_only_where_every_side_of_a_union_is(sides: tuple[str, str]) -> None:
    found = read(" union all ".join(f"select {value} as c from payloads as p" for value in sides))
    assert found.columns == {("", ("a",)): {"c": False}}
