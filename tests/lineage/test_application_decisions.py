"""As-of names the tables whose rows of applications, which it takes as they are now, decided what it shows."""

import json

import pytest

from pipelines.lineage import time_travel
from pipelines.warehouse.database import Warehouse
from tests.forum import Write, bring, folder, post, user
from tests.launcher import FAILED, Atlas, words
from tests.library import Recorder, shown

pytestmark = pytest.mark.usefixtures("toy")

AS_THEY_ARE_NOW = "toy.users: rows of applications are taken as they are now"


def past(warehouse: Warehouse, number: int = -1) -> tuple[list[str], str | None]:
    """As of the last transform, or of an earlier one: the tables that decided, and why it is not what was recorded."""
    with warehouse.connect() as connection:
        snapshot = time_travel.snapshot_of_run(connection, transforms(warehouse)[number])
        with time_travel.as_of(warehouse, "toy", snapshot) as state:
            return state.decided_by_applications, time_travel.why_not_exact(connection, state)


def transforms(warehouse: Warehouse) -> list[str]:
    return shown(
        warehouse, "select fetch_run_id::text from ops.fetch_runs where kind = 'transform' order by publish_seq"
    )


def test_rows_of_applications_without_influence_are_not_named(
    warehouse: Warehouse, mail: Recorder, forum: Recorder, write: Write
) -> None:
    """Nor is a key that a row from another source has."""
    bring(mail, "a", users=[user(1, "ann", "ann@a.example")], posts=[post(1, 1)])
    bring(forum, "f", users=[user(1, "Ann"), user(2, "bob", "ANN@a.example")], posts=[post(2, "ann")])
    write("insert into toy.users (username) values ('eve')")
    write("insert into toy.tokens (user_id) select user_id from toy.users")
    write("insert into toy.posts (user_id, number) select user_id, 9 from toy.users")
    assert past(warehouse) == ([], None)


@pytest.mark.parametrize("own", ["('Ann', null)", "('eve', 'ANN@a.example')"])
def test_a_table_whose_rows_of_applications_have_a_key_is_named(
    warehouse: Warehouse, mail: Recorder, write: Write, own: str
) -> None:
    """An identity, or another unique value."""
    write(f"insert into toy.users (username, email) values {own}")
    bring(mail, "a", users=[user(1, "ann", "ann@a.example")])
    assert past(warehouse) == (["toy.users"], None)


def test_a_table_with_rows_of_applications_to_which_rows_from_sources_refer_is_named(
    warehouse: Warehouse, mail: Recorder, write: Write
) -> None:
    write("insert into toy.users (user_id, username) values (ops.key('toy/mail', '1'), 'ann')")
    bring(mail, "a", posts=[post(1, 1)])
    assert past(warehouse) == (["toy.users"], None)
    write(
        "insert into toy.folders (folder_id, user_id, name) select ops.key('toy/mail', '1'), user_id, '' from toy.users"
    )
    bring(mail, "b", folders=[folder(2, 1, parent=1)])
    assert past(warehouse) == (["toy.users", "toy.folders"], None)


def test_a_table_whose_rows_of_applications_keep_a_key_for_a_row_is_named(
    warehouse: Warehouse, mail: Recorder, forum: Recorder, write: Write
) -> None:
    """They refer to the row that would not have won it."""
    bring(forum, "f", users=[user(1, "ann")])
    write("insert into toy.tokens (user_id) select user_id from toy.users")
    bring(mail, "a", users=[user(1, "Ann")])
    assert shown(warehouse, "select username from toy.users") == ["ann"]
    assert past(warehouse) == (["toy.tokens"], None)
    write("delete from toy.tokens")
    named, why = past(warehouse)
    assert named == [] and "Applications may have deleted rows" in str(why)


@pytest.mark.long("derives past states")
def test_what_differs_may_have_been_otherwise_then(
    warehouse: Warehouse, mail: Recorder, write: Write, atlas: Atlas
) -> None:
    bring(mail, "a", users=[user(1, "ann")], posts=[post(1, 1)])
    first = transforms(warehouse)[-1]
    bring(mail, "a", users=[], posts=[])
    write("insert into toy.users (username) values ('Ann')")
    printed = atlas("as-of", first, "toy.posts", code=FAILED)
    said = words(printed.stderr)
    assert f"{AS_THEY_ARE_NOW}: they have keys that sources yield too" in said
    assert f"These tables differ from what run {first} recorded: toy.users, toy.posts. Rows of applications in" in said
    assert "toy.users are taken as they are now; they may have been others then." in said
    assert "changed by hand" not in said
    document = json.loads(atlas("as-of", first, "toy.posts", "--json", code=FAILED).stdout)
    assert ([each["number"] for each in document["rows"]], document["taken_as_now"]) == ([1], ["toy.users"])
    kept = json.loads(atlas("as-of", first, "--schema", "kept", "--json", code=FAILED).stdout)
    assert (len(kept["tables"]) > 10, kept["taken_as_now"]) == (True, ["toy.users"])
    diff = atlas("diff", first, transforms(warehouse)[-1], code=FAILED)
    assert AS_THEY_ARE_NOW in words(diff.stderr)
    with warehouse.connect() as connection:  # no row of an application explains this one: it is a fault
        connection.execute("update ops.fetch_runs set stats = jsonb_set(stats, '{table_digests,toy.authors}', '{}')")
    assert "changed by hand" in words(atlas("as-of", first, "toy.posts", code=FAILED).stderr)


def test_rows_of_applications_are_not_printed(warehouse: Warehouse, mail: Recorder, write: Write, atlas: Atlas) -> None:
    bring(mail, "a", users=[user(1, "ann")])
    write("insert into toy.users (username) values ('eve')")
    printed = atlas("as-of", transforms(warehouse)[-1], "toy.users")
    assert "ann" in printed.stdout and "eve" not in printed.stdout
    assert AS_THEY_ARE_NOW not in words(printed.stderr)
