"""Tables with rows of applications and of sources: who owns a row, who wins a key, which rows never change."""

import threading
import time
from typing import Any

import psycopg
import pytest

from pipelines import project
from pipelines.errors import AtlasError
from pipelines.lineage import rebuild, time_travel, trace
from pipelines.transform import run as run_module
from pipelines.warehouse.database import Warehouse
from tests.databases import waits_for
from tests.forum import Write, assert_derived, bring, post, user
from tests.library import DAYS, Json, Recorder, rows, shown
from tests.runs import pending_partitions, transform
from tests.transform.domain_model import key

pytestmark = [pytest.mark.usefixtures("toy"), pytest.mark.emptied]

USERS = "select username, from_source from toy.users order by username, from_source"


def test_a_rebuild_changes_none_of_a_thousand_rows_of_applications(
    warehouse: Warehouse, forum: Recorder, write: Write
) -> None:
    bring(forum, "a", users=[user(1, "ann")], posts=[post(1, "ann", 1)])
    write("insert into toy.users (username) select 'u' || n from generate_series(1, 500) n")
    write("insert into toy.tokens (user_id) select user_id from toy.users limit 300")
    write("insert into toy.posts (user_id, number) select user_id, 9 from toy.users limit 200")
    everything = "select t::text, ctid::text, xmin::text from toy.{} t order by 1"
    before = [rows(warehouse, everything.format(table)) for table in ("users", "posts", "tokens")]
    run = rebuild.rebuild(warehouse, "toy")
    assert (run.counts.created, run.counts.updated, run.counts.deleted) == (0, 0, 0)
    assert [rows(warehouse, everything.format(table)) for table in ("users", "posts", "tokens")] == before
    assert_derived(warehouse)


@pytest.mark.long("a dozen runs")
def test_an_applications_row_wins_an_identity_and_the_source_has_it_when_it_goes(
    warehouse: Warehouse, mail: Recorder, write: Write
) -> None:
    own = write("insert into toy.users (username) values ('ann') returning user_id")
    bring(mail, "a", users=[user(1, "Ann")], posts=[post(1, 1, 1)])
    assert rows(warehouse, USERS) == [("ann", False)]
    assert shown(warehouse, "select user_id from toy.posts") == [own]
    assert_derived(warehouse)
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"toy\.posts is from the source toy/mail"):
        write("delete from toy.users where user_id = %s", own)
    bring(mail, "a", users=[user(1, "Ann")])
    write("delete from toy.users where user_id = %s", own)
    assert pending_partitions(warehouse, mail.source) == [DAYS[0]]
    mail.transform()
    assert rows(warehouse, USERS) == [("Ann", True)]
    assert pending_partitions(warehouse, mail.source) == []
    assert_derived(warehouse)


def test_a_row_that_waits_for_a_unique_value_is_stood_for_by_one_of_its_identity(
    warehouse: Warehouse, mail: Recorder, write: Write
) -> None:
    write("insert into toy.users (username, email) values ('ann', 'ann@a.example')")
    bring(mail, "a", users=[user(1, "bob", "ANN@a.example")], posts=[post(1, 1, 1)])
    assert shown(warehouse, "select 1 from toy.posts") == []
    own = write("insert into toy.users (username) values ('Bob') returning user_id")
    assert pending_partitions(warehouse, mail.source) == [DAYS[0]]
    mail.transform()
    assert shown(warehouse, "select user_id from toy.posts") == [own]
    assert_derived(warehouse)


def test_a_row_wins_a_unique_value_as_soon_as_an_application_refers_to_its_key(
    warehouse: Warehouse, forum: Recorder, write: Write
) -> None:
    staff = Recorder(warehouse, project.sources()["toy/staff"])
    key = "0199a0b0-0000-7000-8000-000000000001"
    bring(forum, "a", users=[user(1, "bob", "ann@a.example")])
    bring(staff, "b", users=[{"id": key, "username": "cid", "email": "ANN@a.example"}])
    bring(staff, "c", users=[{"id": key, "username": "cid"}])
    emails = "select username, email from toy.users order by username"
    assert rows(warehouse, emails) == [("bob", "ann@a.example"), ("cid", None)]
    token = write("insert into toy.tokens (user_id) values (%s) returning token_id", key)
    staff.transform()
    assert rows(warehouse, emails) == [("cid", "ANN@a.example")]
    assert_derived(warehouse)
    write("delete from toy.tokens where token_id = %s", token)
    staff.transform()
    assert rows(warehouse, emails) == [("bob", "ann@a.example"), ("cid", None)]
    assert_derived(warehouse)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_of_records_that_yield_one_key_with_two_identities_the_first_one_says_who_stands_for_it(
    warehouse: Warehouse, mail: Recorder, write: Write, order: str
) -> None:
    first = write("insert into toy.users (username) values ('cid') returning user_id")
    write("insert into toy.users (username) values ('ann')")
    bodies = {"a": [user(1, "cid")], "b": [user(1, "ann")]}
    for name in order:
        bring(mail, name, users=bodies[name], posts=[post(1, 1, 1)] if name == "b" else [])
    assert shown(warehouse, "select user_id from toy.posts") == [first]
    assert_derived(warehouse)


@pytest.mark.long("a dozen runs")
def test_a_user_who_leaves_a_source_with_tokens_becomes_the_applications_and_returns(
    warehouse: Warehouse, forum: Recorder, mail: Recorder, write: Write
) -> None:
    bring(mail, "a", users=[user(1, "ann")])
    bring(forum, "f", users=[user(1, "Ann")], posts=[post(1, "Ann", 1)])
    write("insert into toy.tokens (user_id) select user_id from toy.users")
    (key,) = shown(warehouse, "select user_id from toy.users")
    mail.full_refresh("a")
    (run,) = [transform(warehouse, mail.source, day, shrink=True) for day in pending_partitions(warehouse, mail.source)]
    assert (run.stats["kept"], run.counts.deleted) == ({"toy.users": 1}, 0)
    assert rows(warehouse, "select user_id, username, from_source from toy.users") == [(key, "ann", False)]
    assert shown(warehouse, "select user_id from toy.posts") == [key]  # the forum's Ann still loses to it
    assert_derived(warehouse)
    bring(mail, "a", users=[user(1, "ann", "ann@a.example")])
    assert rows(warehouse, "select user_id, email, from_source from toy.users") == [(key, "ann@a.example", True)]
    assert_derived(warehouse)


@pytest.mark.long("a dozen runs")
def test_all_numbers_are_shifted_by_one(warehouse: Warehouse, forum: Recorder) -> None:
    def numbered(by: int) -> list[Json]:
        return [post(each, "ann", each + by) for each in range(1, 9)]

    bring(forum, "a", users=[user(1, "ann")], posts=numbered(0))
    written = rows(warehouse, "select post_id, created_at from toy.posts order by 1")
    for by in (1, 0, 3):
        forum.land("a", {"users": [user(1, "ann")], "posts": numbered(by)})
        run = transform(warehouse, forum.source, DAYS[0])
        assert (run.counts.updated, run.counts.created, run.counts.deleted, run.counts.quarantined) == (8, 0, 0, 0)
        assert shown(warehouse, "select number from toy.posts order by 1") == [each + by for each in range(1, 9)]
        assert rows(warehouse, "select post_id, created_at from toy.posts order by 1") == written
        assert_derived(warehouse)


def test_rows_exchange_what_only_one_may_be(warehouse: Warehouse, forum: Recorder) -> None:
    """Whichever of them comes first."""
    for pinned in (1, 3, 2, 1):
        posts = [post(each, "ann", each, pinned=each == pinned) for each in (1, 2, 3)]
        bring(forum, "a", users=[user(1, "ann")], posts=posts)
        assert shown(warehouse, "select number from toy.posts where pinned") == [pinned]
        assert_derived(warehouse)


def test_a_parent_that_loses_its_key_in_the_run_that_brings_it(
    warehouse: Warehouse, forum: Recorder, mail: Recorder
) -> None:
    bring(mail, "m", users=[user(1, "ann")])
    bring(
        forum, "f", users=[user(1, "ann")], folders=[{"id": 1, "user": "ann", "name": "in"}], posts=[post(1, "ann", 1)]
    )
    (key,) = shown(warehouse, "select user_id from toy.users")
    assert shown(warehouse, "select user_id from toy.folders union all select user_id from toy.posts") == [key, key]
    assert rows(warehouse, "select table_name, kept_key = %s from staging.aliases", [str(key)]) == [("toy.users", True)]
    mail.full_refresh("m")
    mail.transform()
    (other,) = shown(warehouse, "select user_id from toy.users")
    assert other != key
    assert shown(warehouse, "select user_id from toy.folders union all select user_id from toy.posts") == [other, other]
    assert shown(warehouse, "select 1 from staging.aliases") == []
    assert_derived(warehouse)


@pytest.mark.long("a dozen runs")
def test_a_row_is_taken_by_another_source_in_the_same_run(
    warehouse: Warehouse, forum: Recorder, mail: Recorder
) -> None:
    """What another source takes along counts in this run, and its versions are effective as before."""
    bring(forum, "f", users=[user(1, "ann", "ann@a.example")], posts=[post(1, "ann", 1)])
    mail.land("m", {"users": [user(1, "Ann")]})
    run = transform(warehouse, mail.source, DAYS[0], shrink=True)
    assert (run.counts.created, run.counts.deleted, run.counts.duplicates) == (1, 1, 1)
    assert run.stats["taken_along"] == {"toy/forum": 1}
    assert set(run.stats["sql"]) >= {"toy/mail/users", "toy/forum/users", "toy/forum/posts"}
    assert rows(warehouse, USERS) == [("Ann", True)]
    assert shown(warehouse, "select u.username from toy.posts join toy.users u using (user_id)") == ["Ann"]
    assert_derived(warehouse)


@pytest.mark.long("a dozen runs")
def test_children_from_a_source_follow_a_parent_from_another_that_has_no_such_children(
    warehouse: Warehouse, forum: Recorder
) -> None:
    staff = Recorder(warehouse, project.sources()["toy/staff"])
    ann = {"users": [{"id": key("ann"), "username": "Ann"}]}
    bring(forum, "f", posts=[post(1, "ann")])
    assert shown(warehouse, "select count(*) from toy.posts") == [0]
    for present in (True, False, True):
        if present:
            staff.land("s", ann)
        else:
            staff.full_refresh("s")
        (run,) = [
            transform(warehouse, staff.source, day, shrink=True) for day in pending_partitions(warehouse, staff.source)
        ]
        assert run.stats["taken_along"] == {"toy/forum": 1}
        assert (run.counts.created, run.counts.deleted, run.counts.pending) == ((2, 0, 0) if present else (0, 2, 1))
        assert shown(warehouse, "select count(*) from toy.posts") == [int(present)]
        assert_derived(warehouse)


@pytest.mark.parametrize("again", [False, True])
def test_a_row_that_loses_to_an_application_and_to_a_source_loses_to_the_application(
    warehouse: Warehouse, mail: Recorder, write: Write, again: bool
) -> None:
    """Whether or not the other source's row is in the change set."""
    staff = Recorder(warehouse, project.sources()["toy/staff"])
    ann = {"users": [{"id": "0199a0b0-0000-7000-8000-000000000001", "username": "Ann"}]}
    staff.land("s", ann)
    staff.transform()
    write("insert into toy.tokens (user_id) select user_id from toy.users")
    bring(mail, "m", users=[user(1, "Ann", "a@a.example")], posts=[post(1, 1)])
    assert shown(warehouse, "select count(*) from toy.posts") == [1]
    write("insert into toy.users (username, email) values ('bob', 'A@a.example')")
    if again:
        staff.land("s", {"users": [ann["users"][0] | {"email": "b@a.example"}]})
    mail.land("m", {"users": [user(1, "Ann", "a@a.example")], "posts": [post(1, 1)], "again": 1})
    staff.transform()
    mail.transform()
    assert shown(warehouse, "select constraint_name from staging.quarantine") == ["users_email_key"]
    assert shown(warehouse, "select count(*) from toy.posts") == [0]
    assert_derived(warehouse)


def test_a_parent_that_an_application_writes_during_a_run_is_found_by_the_next(
    warehouse: Warehouse, forum: Recorder, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run has looked for the parent, and what is pending for it is not yet to be seen."""
    record_applied = run_module.record_applied

    def meanwhile(*arguments: Any) -> None:
        write("insert into toy.users (user_id, username) values (ops.key('ann'), 'ann') on conflict do nothing")
        record_applied(*arguments)

    monkeypatch.setattr(run_module, "record_applied", meanwhile)
    bring(forum, "f", posts=[post(1, "ann")])
    assert shown(warehouse, "select count(*) from toy.posts") == [0]
    forum.transform()
    assert shown(warehouse, "select count(*) from toy.posts") == [1]
    assert shown(warehouse, "select count(*) from staging.changed_rows") == [0]
    assert_derived(warehouse)


def test_a_user_with_a_uuid_of_its_own_keeps_it_and_one_that_is_none_is_rejected(warehouse: Warehouse) -> None:
    staff = Recorder(warehouse, project.sources()["toy/staff"])
    uuid = "0199a0b0-0000-7000-8000-000000000001"
    bring(staff, "s", users=[{"id": uuid.upper(), "username": "ann"}, {"id": "7", "username": "bob"}])
    assert rows(warehouse, "select user_id::text, username from toy.users") == [(uuid, "ann")]
    found = "select reason, constraint_name, detail, row ->> 'user_id' from staging.quarantine"
    assert rows(warehouse, found) == [("type", "user_id", 'invalid input syntax for type uuid: "7"', "7")]
    assert_derived(warehouse)


def test_a_user_who_only_changes_takes_nobody_along(warehouse: Warehouse, mail: Recorder) -> None:
    bring(mail, "m", users=[user(1, "ann")])
    bring(mail, "p", posts=[post(1, 1, 1)])
    mail.land("m", {"users": [user(1, "ann", "new@a.example")]})
    run = transform(warehouse, mail.source, DAYS[0])
    assert {name: counts["fetched"] for name, counts in run.stats["tables"].items()} == {
        "toy.users": 1,
        "toy.folders": 0,
        "toy.posts": 0,
        "toy.events": 0,
    }


def test_a_row_from_a_source_is_read_only_for_applications(warehouse: Warehouse, mail: Recorder, write: Write) -> None:
    bring(mail, "m", users=[user(1, "ann")])
    for statement in (
        "update toy.users set username = 'eve'",
        "update toy.users set from_source = false",
        "delete from toy.users",
        "insert into toy.users (username, from_source) values ('eve', true)",
        "insert into toy.users (username) values ('ann') on conflict (lower(username)) do update set username = 'eve'",
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match=r"A row of toy\.users is from .* source"):
            write(statement)
    write("update toy.users set is_active = false")
    write("insert into toy.users (username) values ('eve') on conflict (lower(username)) do update set username = 'x'")
    bring(mail, "m", users=[user(1, "ann", "new@a.example")])
    assert rows(warehouse, "select username, email, is_active from toy.users order by 1") == [
        ("ann", "new@a.example", False),
        ("eve", None, True),
    ]
    assert_derived(warehouse)


def test_an_application_that_takes_a_name_during_a_run_has_it(warehouse: Warehouse, mail: Recorder) -> None:
    mail.land("m", {"users": [user(1, "ann")], "posts": [post(1, 1, 1)]})
    with psycopg.connect(warehouse.conninfo) as application:
        application.execute("insert into toy.users (username) values ('ann')")
        thread = threading.Thread(target=mail.transform)
        thread.start()
        while not shown(warehouse, waits_for("transactionid")):
            assert thread.is_alive()
            time.sleep(0.05)
        application.commit()
        thread.join()
    assert rows(warehouse, USERS) == [("ann", False)]
    assert len(shown(warehouse, "select 1 from toy.posts")) == 1
    assert_derived(warehouse)


def test_a_row_of_an_application_says_that_it_is_one(warehouse: Warehouse, mail: Recorder, write: Write) -> None:
    key = write("insert into toy.users (username) values ('eve') returning user_id")
    with warehouse.connect() as connection:
        with pytest.raises(AtlasError, match="is a row of an application: no source has it"):
            trace.trace(connection, "toy.users", str(key))
        bring(mail, "m", users=[user(1, "ann")])
        assert trace.unproven(connection) == [{"table_name": "toy.users", "rows": 1, "unproven": 0}]


def test_a_circle_of_folders_is_refused_whole_and_taken_in_when_it_is_broken(
    warehouse: Warehouse, mail: Recorder
) -> None:
    def folder(number: int, parent: int | None) -> list[Json]:
        return [{"id": number, "user": 1, "parent": parent, "name": "f"}]

    bring(mail, "u", users=[user(1, "ann")])
    bring(mail, "a", folders=folder(1, None))
    bring(mail, "b", folders=folder(2, 1))
    assert len(shown(warehouse, "select 1 from toy.folders")) == 2
    bring(mail, "a", folders=folder(1, 2))
    assert shown(warehouse, "select 1 from toy.folders") == []
    reasons = "select reason from staging.quarantine where closed_at is null"
    assert shown(warehouse, reasons) == ["cycle", "cycle"]
    assert_derived(warehouse)
    bring(mail, "b", folders=folder(2, None))
    assert len(shown(warehouse, "select 1 from toy.folders")) == 2
    assert shown(warehouse, reasons) == []
    assert_derived(warehouse)


def test_the_past_is_exact_beside_rows_of_applications(warehouse: Warehouse, mail: Recorder, write: Write) -> None:
    bring(mail, "m", users=[user(1, "ann")])
    write("insert into toy.users (username) values ('eve')")
    bring(mail, "n", users=[user(2, "bob")])
    runs = shown(
        warehouse, "select fetch_run_id::text from ops.fetch_runs where kind = 'transform' order by publish_seq"
    )
    for run, there in zip(runs, (["ann"], ["ann", "bob"]), strict=True):
        with warehouse.connect() as connection:
            snapshot = time_travel.snapshot_of_run(connection, run)
            with time_travel.as_of(warehouse, "toy", snapshot) as past:
                assert time_travel.why_not_exact(connection, past) is None
                users = past.table_spec("users").name
                assert shown(warehouse, f"select username from {users} where from_source order by 1") == there


def test_what_is_above_a_folder_that_an_application_uses_stays_with_it(
    warehouse: Warehouse, mail: Recorder, write: Write
) -> None:
    folders = [{"id": each, "user": 1, "parent": each - 1 or None, "name": f"{each}"} for each in range(1, 7)]
    bring(mail, "u", users=[user(1, "ann")])
    bring(mail, "f", folders=folders)
    fifth = "select user_id, folder_id, 1 from toy.folders where name = '5'"
    write(f"insert into toy.posts (user_id, folder_id, number) {fifth}")
    bring(mail, "f", folders=[])
    assert rows(warehouse, "select name, from_source from toy.folders order by 1") == [
        (each, False) for each in "12345"
    ]
    assert len(shown(warehouse, "select 1 from toy.posts")) == 1
    assert_derived(warehouse)


def test_a_row_of_another_record_of_the_same_key_changes_its_owner_with_both_in_the_run(
    warehouse: Warehouse, forum: Recorder
) -> None:
    bring(forum, "b", users=[user(1, "Ann", "ann@a.example")])
    bring(forum, "a", users=[user(1, "ann")])
    owner = "select u.username, v.external_id from toy.users u join staging.effective_versions v using (record_id)"
    assert rows(warehouse, owner) == [("ann", "a")]
    assert_derived(warehouse)
    forum.full_refresh("a")
    forum.transform()
    assert rows(warehouse, owner) == [("Ann", "b")]
    assert_derived(warehouse)
