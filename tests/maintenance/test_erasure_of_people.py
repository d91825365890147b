"""Erasure where applications write too: all rows of a person go, those of applications and those kept for them."""

import json
from typing import Any

import pytest
from sqlalchemy import ForeignKeyConstraint
from typer.testing import CliRunner

from pipelines.cli.main import app
from pipelines.errors import AtlasError
from pipelines.ledger import Run
from pipelines.lineage import rebuild
from pipelines.maintenance import erased_rows, erasure
from pipelines.schema.declare import metadata
from pipelines.schema.table_spec import TableSpec
from pipelines.transform import table_digests
from pipelines.warehouse.database import Warehouse
from tests.forum import Write, bring, folder, post, user
from tests.library import Recorder, found, rows, shown
from tests.runs import stream_of

pytestmark = pytest.mark.usefixtures("toy")

WHO = "Mustermann"
SECRETS = (WHO, "geheim")
MAIL, FORUM = "toy/mail", "toy/forum"


def erase(recorder: Recorder, name: str) -> Run:
    """Erases a record; tables, their digests and what staging gives agree afterwards."""
    run = erasure.erase(recorder.warehouse, stream_of(recorder.source), recorder.source.name, name)
    assert [each for each in rebuild.check(recorder.warehouse, "toy") if not each["same"]] == []
    with recorder.warehouse.connect() as connection:
        for recorded in connection.execute("select * from ops.table_digests"):
            counted = table_digests.count(connection, TableSpec(metadata.tables[recorded["table_name"]]))
            assert counted == {"rows": recorded["rows"], "digest": recorded["digest"]}, recorded["table_name"]
    with pytest.raises(AtlasError, match="was erased at"):
        erasure.erase(recorder.warehouse, stream_of(recorder.source), recorder.source.name, name)
    return run


@pytest.mark.long("a history, and what is left of it")
def test_nothing_is_left_of_a_person_in_rows_of_applications(
    warehouse: Warehouse, mail: Recorder, write: Write
) -> None:
    bring(mail, "b", users=[user(2, "bob")])
    bring(mail, "a", users=[user(1, WHO, "geheim@a.example")], folders=[folder(1, 1, name="geheim")])
    write("insert into toy.tokens (user_id) select user_id from toy.users")
    his, bobs = (f"select user_id from toy.users where username {each} 'bob'" for each in ("<>", "="))
    own = write(f"insert into toy.folders (user_id, name) values (({his}), 'geheim') returning folder_id")
    write(f"insert into toy.posts (user_id, folder_id, number, title) values (({his}), %s, 1, 'geheim')", own)
    write(f"insert into toy.posts (user_id, folder_id, number, title) values (({bobs}), %s, 1, 'of bob')", own)
    in_folder = f"select ({bobs}), folder_id, 2 from toy.folders where from_source"
    write(f"insert into toy.posts (user_id, folder_id, number) {in_folder}")
    assert {each.split(":")[0] for each in found(warehouse, *SECRETS)} >= {"toy.users.email", "toy.posts.title"}
    run = erase(mail, "a")
    assert found(warehouse, *SECRETS) == []
    assert {name: number for name, number in run.stats["erased"].items() if name.startswith("toy.")} == {
        "toy.folders": 1,
        "toy.posts": 1,
        "toy.tokens": 1,
    }
    assert (run.stats["cleared"], run.stats["kept"], run.counts.deleted) == ({"toy.posts.folder_id": 2}, {}, 5)
    assert rows(warehouse, "select number, folder_id, title from toy.posts order by 1") == [
        (1, None, "of bob"),
        (2, None, None),
    ]
    assert shown(warehouse, "select username from toy.users join toy.tokens using (user_id)") == ["bob"]


def test_a_row_that_was_kept_for_an_application_goes(warehouse: Warehouse, mail: Recorder, write: Write) -> None:
    """Even where nothing else of its record is stored any more."""
    bring(mail, "a", users=[user(1, WHO, "geheim@a.example")])
    write("insert into toy.tokens (user_id) select user_id from toy.users")
    mail.full_refresh("a")
    mail.transform()
    assert rows(warehouse, "select username, from_source from toy.users") == [(WHO, False)]
    with warehouse.connect() as connection:
        connection.execute("delete from staging.versions; delete from staging.payloads")
    run = erase(mail, "a")
    assert (run.stats["erased"]["toy.users"], run.stats["erased"]["toy.tokens"]) == (1, 1)
    assert found(warehouse, *SECRETS) == []


@pytest.mark.long("a history, and what is left of it")
def test_an_applications_row_of_the_same_identity_goes(
    warehouse: Warehouse, mail: Recorder, forum: Recorder, write: Write
) -> None:
    """The other source's row, which had lost to it too, is written; rows that refer to it lead there."""
    own = write("insert into toy.users (username, email) values (%s, 'geheim') returning user_id", WHO)
    bring(mail, "a", users=[user(1, WHO.upper())])
    bring(mail, "p", posts=[post(1, 1)])
    bring(forum, "f", users=[user(1, WHO)], posts=[post(2, WHO)])
    assert shown(warehouse, "select distinct user_id from toy.posts") == [own]
    assert len(shown(warehouse, "select 1 from toy.posts")) == 2
    write("insert into toy.tokens (user_id) values (%s)", own)
    assert str(own) in shown(warehouse, "select key from staging.changed_rows")
    assert erasure.preview(warehouse, MAIL, "a").reach.same_person == [(FORUM, "f")]
    run = erase(mail, "a")
    assert {name: number for name, number in run.stats["erased"].items() if name.startswith("toy.")} == {
        "toy.tokens": 1,
        "toy.users": 1,
    }
    assert run.stats["taken_along"] == {FORUM: 1}
    (now,) = shown(warehouse, "select user_id from toy.users")
    assert rows(warehouse, "select number, user_id from toy.posts") == [(2, now)]
    assert shown(warehouse, "select 1 from staging.aliases union all select 1 from staging.changed_rows") == []
    assert str(own) not in str(rows(warehouse, "select * from staging.pending_rows"))
    assert erasure.preview(warehouse, FORUM, "f").reach.same_person == []
    erase(forum, "f")
    assert found(warehouse, *SECRETS) == []


@pytest.mark.long("a history, and what is left of it")
def test_a_refused_row_leads_to_the_applications_row_of_its_identity(
    warehouse: Warehouse, mail: Recorder, write: Write
) -> None:
    bring(mail, "b", users=[user(2, "bob", "geheim@a.example")])
    bring(mail, "c", users=[user(3, WHO, "GEHEIM@a.example")])
    assert shown(warehouse, "select reason from staging.quarantine where closed_at is null") == ["unique"]
    write("insert into toy.users (username) values (%s)", WHO.lower())
    assert erasure.preview(warehouse, MAIL, "c").reach.same_person == []
    run = erase(mail, "c")
    assert run.stats["erased"]["toy.users"] == 1
    assert found(warehouse, WHO) == []
    assert shown(warehouse, "select username from toy.users") == ["bob"]


@pytest.mark.long("a history, and what is left of it")
def test_rows_of_other_records_below_an_erased_one_are_pending(
    warehouse: Warehouse, mail: Recorder, write: Write
) -> None:
    """An application's row below them that may stay without its parent does; none is kept for it."""
    bring(mail, "a", users=[user(1, WHO), user(2, "bob")])
    bring(mail, "b", users=[user(3, "eve")], folders=[folder(1, 1)], posts=[post(1, 1)])
    of_eve = "select u.user_id, f.folder_id, 7 from toy.users u, toy.folders f where username = 'eve'"
    write(f"insert into toy.posts (user_id, folder_id, number) {of_eve}")
    run = erase(mail, "a")
    assert (run.counts.deleted, run.counts.pending, run.stats["kept"]) == (4, 2, {})
    assert rows(warehouse, "select number, folder_id from toy.posts") == [(7, None)]
    assert shown(warehouse, "select distinct reason from staging.pending_rows") == ["parent"]
    assert found(warehouse, WHO) == []


@pytest.mark.long("a history, and what is left of it")
@pytest.mark.parametrize("other", ["another key", "the same key"])
def test_rows_of_applications_below_a_row_that_stays_with_another_record_stay(
    warehouse: Warehouse, mail: Recorder, forum: Recorder, write: Write, other: str
) -> None:
    first = mail if other == "another key" else forum
    bring(first, "a", users=[user(1, WHO)])
    bring(forum, "f", users=[user(1, WHO.lower())], folders=[folder(1, WHO)])
    bring(mail, "b", users=[user(2, "bob")])
    inner = "select u.user_id, f.folder_id, 'inner' from toy.users u, toy.folders f where username = 'bob'"
    write(f"insert into toy.folders (user_id, parent_id, name) {inner}")
    assert erasure.preview(warehouse, first.source.name, "a").reach.rows == {}
    erase(first, "a")
    assert shown(warehouse, "select username from toy.users order by 1") == ["bob", WHO.lower()]
    assert rows(warehouse, "select name, parent_id is null from toy.folders order by 1") == [
        ("folder 1", True),
        ("inner", False),
    ]


@pytest.mark.long("a history, and what is left of it")
def test_what_applications_own_in_a_row_goes_though_another_record_yields_it_too(
    warehouse: Warehouse, forum: Recorder, write: Write
) -> None:
    bring(forum, "a", users=[user(1, WHO)], posts=[post(1, WHO)])
    bring(forum, "b", users=[user(1, WHO.lower())], posts=[post(2, WHO)])
    write("update toy.users set is_active = false")
    write("insert into toy.tokens (user_id) select user_id from toy.users")
    write("insert into toy.posts (user_id, number) select user_id, 9 from toy.users")
    assert erasure.preview(warehouse, FORUM, "a").reach.same_person == [(FORUM, "b")]
    erase(forum, "a")
    assert rows(warehouse, "select username, is_active, from_source from toy.users") == [(WHO.lower(), True, True)]
    assert shown(warehouse, "select number from toy.posts") == [2]
    assert shown(warehouse, "select 1 from toy.tokens") == []


@pytest.mark.parametrize("action", ["RESTRICT", None])
def test_a_foreign_key_that_forbids_it_stops_the_erasure(
    warehouse: Warehouse, mail: Recorder, write: Write, monkeypatch: pytest.MonkeyPatch, action: str | None
) -> None:
    bring(mail, "a", users=[user(1, WHO)])
    (constraint,) = TableSpec(metadata.tables["toy.tokens"]).constraints(ForeignKeyConstraint)
    monkeypatch.setattr(constraint, "ondelete", action)
    assert erasure.preview(warehouse, MAIL, "a").reach.rows == {}
    write("insert into toy.tokens (user_id) select user_id from toy.users")
    before = found(warehouse, WHO)
    runs = rows(warehouse, "select * from ops.fetch_runs")
    with pytest.raises(AtlasError, match=r"application in toy\.tokens .* foreign key on user_id forbids that"):
        erasure.erase(warehouse, stream_of(mail.source), MAIL, "a")
    assert (found(warehouse, WHO), rows(warehouse, "select * from ops.fetch_runs")) == (before, runs)


def test_a_row_of_another_record_that_refers_to_a_row_of_an_application_stops_the_erasure(
    warehouse: Warehouse, mail: Recorder, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where that is of no owned table: here folders are taken for such a table."""
    bring(mail, "a", users=[user(1, WHO)])
    bring(mail, "b c", users=[user(2, "bob")], posts=[post(1, 2, folder=9)])
    own = "select ops.key('toy/mail', '9'), user_id, '' from toy.users where from_source and username <> 'bob'"
    write(f"insert into toy.folders (folder_id, user_id, name) {own}")
    mail.transform()
    assert erasure.preview(warehouse, MAIL, "a").reach.rows == {"toy.folders": 1}
    monkeypatch.setattr(erased_rows, "becomes_the_records", lambda spec: spec.name != "toy.folders")
    with pytest.raises(AtlasError, match=r"A row of toy\.posts refers to .* first: atlas erase toy/mail 'b c'"):
        erasure.erase(warehouse, stream_of(mail.source), MAIL, "a")


def test_an_application_that_writes_meanwhile_stops_the_erasure(
    warehouse: Warehouse, mail: Recorder, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(mail, "a", users=[user(1, WHO)])
    delete = erased_rows.delete

    def delayed(*arguments: Any) -> int:
        write("insert into toy.tokens (user_id) select user_id from toy.users")
        return delete(*arguments)

    monkeypatch.setattr(erased_rows, "delete", delayed)
    with pytest.raises(AtlasError, match=r"A row of toy\.users would stay, .* Nothing is erased"):
        erasure.erase(warehouse, stream_of(mail.source), MAIL, "a")
    assert rows(warehouse, "select username, from_source from toy.users") == [(WHO, True)]
    monkeypatch.undo()
    assert erase(mail, "a").stats["erased"]["toy.tokens"] == 1


@pytest.mark.long("a history, and what is left of it")
def test_the_command_shows_what_of_applications_goes_and_who_else_is_named(
    warehouse: Warehouse, mail: Recorder, forum: Recorder, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(mail, "a", users=[user(1, WHO)])
    bring(forum, "f g", users=[user(1, WHO)])
    write("insert into toy.tokens (user_id) select user_id from toy.users")
    monkeypatch.setenv("DATABASE_URL", warehouse.conninfo)
    atlas = CliRunner()
    asked = atlas.invoke(app, ["erase", MAIL, "a"], input="n\n")
    assert "(1 version, 1 row of applications in toy.tokens)?" in asked.output
    assert "names the same person. Erase it too: atlas erase toy/forum 'f g'" in " ".join(asked.output.split())
    assert found(warehouse, WHO)
    erased = atlas.invoke(app, ["erase", MAIL, "a", "--yes", "--json"])
    assert json.loads(erased.stdout)["same_person"] == [
        {"stream": FORUM, "external_id": "f g", "command": "atlas erase toy/forum 'f g'"}
    ]
    said = atlas.invoke(app, ["erase", FORUM, "f g", "--yes"])
    assert "1 version, 1 row." in said.output
    assert found(warehouse, WHO) == []
