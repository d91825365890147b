"""Columns of every type: what is written, and that one that does not fit is NULL alone."""

from typing import Any

import pytest

from pipelines.warehouse.database import Warehouse
from tests.databases import has_vectors
from tests.forum import assert_derived, bring, post, user
from tests.library import Recorder, rows, shown

pytestmark = pytest.mark.usefixtures("toy")

NO_VECTORS: list[Any] = [
    *([1, 2], [1, 2, 3, 4], [], [1, None, 3], [1, "x", 3], ["1", "2", "3"], [[1, 2, 3]], [1e39, 0, 0], [1e400, 0, 0]),
    *("", "1,2,3", "{1,2,3}", "[1,,3]", "[1,2,NaN]", "[1,2,Infinity]", "[0x1,2,3]", True, {"a": 1}),
]
VECTORS: list[Any] = [[1, 2, 3], [-1.5e-3, 0, 3.4e38], [1e-50, 1e-320, -0.0], "[1, 2, 3]"]


def test_vectors_are_written_and_what_is_none_is_null(warehouse: Warehouse, mail: Recorder) -> None:
    if not has_vectors(warehouse):
        pytest.skip("the server lacks the extension vector")
    posts = [post(number, 1, number, embedding=each) for number, each in enumerate((*NO_VECTORS, *VECTORS, None), 1)]
    bring(mail, "a", users=[user(1, "ann")], posts=posts)
    written = shown(warehouse, "select number from toy.posts where embedding is not null order by 1")
    assert written == list(range(len(NO_VECTORS) + 1, len(posts)))
    assert shown(warehouse, "select count(*) from toy.posts where embedding <-> '[1, 2, 3]' = 0") == [2]
    refused = "select granularity, constraint_name, reason, count(*) from staging.quarantine group by 1, 2, 3"
    assert rows(warehouse, refused) == [("value", "embedding", "type", len(NO_VECTORS))]
    assert_derived(warehouse)


def test_generated_columns_follow_and_are_unique(warehouse: Warehouse, mail: Recorder) -> None:
    posts = [post(1, 1, 1, title="One Two", labels=["a", "b c", ""]), post(2, 1, 2, title="ONE two"), post(3, 1, 3)]
    bring(mail, "a", users=[user(1, "ann")], posts=posts)
    found = "select number, slug, words::text, labels from toy.posts order by number"
    assert [row[1:3] for row in rows(warehouse, found)] == [("one two", "'one':1 'two':2"), (None, None)]
    assert shown(warehouse, "select constraint_name from staging.quarantine") == ["posts_slug_key"]
    assert_derived(warehouse)
    posts[0]["title"] = "other"
    bring(mail, "a", users=[user(1, "ann")], posts=posts)
    assert rows(warehouse, found)[0] == (1, "other", "'other':1", ["a", "b c", ""])
    assert [row[1] for row in rows(warehouse, found)] == ["other", "one two", None]
    assert shown(warehouse, "select count(*) from staging.quarantine where closed_at is null") == [0]
    assert_derived(warehouse)


def test_rows_exchange_values_of_a_generated_column(warehouse: Warehouse, mail: Recorder) -> None:
    def posts(*titles: str) -> list[Any]:
        return [post(number, 1, number, title=title) for number, title in enumerate(titles, 1)]

    bring(mail, "a", users=[user(1, "ann")], posts=posts("a", "b", "c"))
    bring(mail, "a", users=[user(1, "ann")], posts=posts("b", "c", "a"))
    assert shown(warehouse, "select slug from toy.posts order by number") == ["b", "c", "a"]
    assert_derived(warehouse)


def test_a_trigger_of_the_table_sees_what_changes_and_nothing_else(warehouse: Warehouse, mail: Recorder) -> None:
    for title in ("a", "a", "b"):
        bring(mail, "a", users=[user(1, "ann")], posts=[post(1, 1, 1, title=title)])
    assert shown(warehouse, "select action from toy.audit_log order by entry_id") == ["INSERT", "UPDATE"]
    bring(mail, "a", users=[user(1, "ann")])
    assert shown(warehouse, "select action from toy.audit_log order by entry_id") == ["INSERT", "UPDATE", "DELETE"]
    assert_derived(warehouse)
