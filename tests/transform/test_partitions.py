"""Tables that are partitioned by month: which partition has a row, and that a key is in one alone."""

import threading
import time

import psycopg
import pytest
from typer.testing import CliRunner

from pipelines.cli.main import app
from pipelines.lineage import rebuild, time_travel
from pipelines.schema import partitions
from pipelines.warehouse.database import Warehouse
from tests.databases import waits_for
from tests.forum import Write, assert_derived, bring, event, user
from tests.library import DAYS, Recorder, rows, shown
from tests.runs import transform

pytestmark = pytest.mark.usefixtures("toy")

EVENTS = "select tableoid::regclass::text, happened_at::date::text from toy.events order by happened_at"
ANN = user(1, "ann")
WRONG = ("now", "in May", "2026-02-30")


def test_the_first_event_of_a_month_gets_a_partition(warehouse: Warehouse, mail: Recorder) -> None:
    bring(mail, "u", users=[ANN])
    bring(mail, "a", events=[event(1, 1, "2026-10-31T23:59:59Z"), event(2, 1, "2026-11-01T00:00:00Z")])
    expected = [("toy.events_2026_10", "2026-10-31"), ("toy.events_2026_11", "2026-11-01")]
    assert rows(warehouse, EVENTS) == expected
    mail.land("b", {"events": [event(3, 1, "2026-11-30T23:59:59.999999Z")]})
    run = transform(warehouse, mail.source, DAYS[0])
    assert run.counts.created == 1
    assert rows(warehouse, EVENTS) == [*expected, ("toy.events_2026_11", "2026-11-30")]
    assert_derived(warehouse)
    assert rebuild.rebuild(warehouse, "toy").counts.unchanged == 4


def test_times_that_are_far_away_stay_in_the_default_partition(warehouse: Warehouse, mail: Recorder) -> None:
    bring(mail, "u", users=[ANN])
    bring(mail, "a", events=[event(1, 1, "1999-12-31T00:00:00Z"), event(2, 1, "2199-01-01T00:00:00Z")])
    assert rows(warehouse, EVENTS) == [("toy.events_default", "1999-12-31"), ("toy.events_default", "2199-01-01")]
    assert_derived(warehouse)


@pytest.mark.long("many months")
def test_an_event_that_changes_its_month_is_one_row(warehouse: Warehouse, mail: Recorder) -> None:
    bring(mail, "u", users=[ANN])
    for at, partition in (("2026-10-05", "2026_10"), ("2026-09-05", "2026_09"), ("1999-01-01", "default")):
        bring(mail, "a", events=[event(1, 1, at)])
        assert rows(warehouse, EVENTS) == [(f"toy.events_{partition}", at)]
        assert_derived(warehouse)


@pytest.mark.long("many months")
@pytest.mark.parametrize("first", ["2026-10-05", "2026-09-05", "1999-01-01"])
def test_of_two_records_with_one_event_in_two_months_one_is_written(
    warehouse: Warehouse, forum: Recorder, mail: Recorder, first: str
) -> None:
    bring(forum, "u", users=[user(1, "ann")])
    bring(mail, "u", users=[user(1, "ann")])
    bring(mail, "late", events=[event(1, 1, first, kind="mail")])
    bring(forum, "early", events=[event(1, "ann", "2026-08-05", kind="forum")])
    found = "select kind, happened_at::date::text from toy.events"
    assert rows(warehouse, found) == [("forum", "2026-08-05")]
    assert_derived(warehouse)
    forum.full_refresh("early")
    forum.transform()
    assert rows(warehouse, found) == [("mail", first)]
    assert_derived(warehouse)


def test_two_events_of_one_record_with_one_key_are_rejected_but_one(warehouse: Warehouse, mail: Recorder) -> None:
    bring(mail, "u", users=[ANN])
    bring(mail, "a", events=[event(1, 1, "2026-10-05"), event(1, 1, "2026-09-05")])
    assert len(rows(warehouse, EVENTS)) == 1
    assert shown(warehouse, "select reason from staging.quarantine where closed_at is null") == ["unique"]
    assert_derived(warehouse)


@pytest.mark.long("many months")
def test_only_the_row_of_the_record_goes_where_rows_of_two_months_have_one_place(
    warehouse: Warehouse, mail: Recorder
) -> None:
    bring(mail, "u", users=[ANN])
    for month in ("07", "08", "09"):
        bring(mail, month, events=[event(int(month), 1, f"2026-{month}-05")])
    assert shown(warehouse, "select distinct ctid::text from toy.events") == ["(0,1)"]
    mail.full_refresh("08")
    run = transform(warehouse, mail.source, DAYS[0], shrink=True)
    assert run.counts.deleted == 1
    assert [partition for partition, _ in rows(warehouse, EVENTS)] == ["toy.events_2026_07", "toy.events_2026_09"]
    assert_derived(warehouse)


def test_a_time_that_is_none_is_rejected_with_what_was_yielded(warehouse: Warehouse, mail: Recorder) -> None:
    bring(mail, "u", users=[ANN])
    bring(mail, "a", events=[event(1, 1, "2026-10-05"), *(event(n, 1, at) for n, at in enumerate(WRONG, 2))])
    assert rows(warehouse, EVENTS) == [("toy.events_2026_10", "2026-10-05")]
    found = "select row ->> 'happened_at' from staging.quarantine where constraint_name = 'happened_at' order by 1"
    assert shown(warehouse, found) == sorted(WRONG)
    assert shown(warehouse, "select distinct reason from staging.quarantine") == ["type"]
    assert_derived(warehouse)


def test_trace_and_the_past_know_rows_in_partitions(warehouse: Warehouse, mail: Recorder) -> None:
    bring(mail, "u", users=[ANN])
    bring(mail, "a", events=[event(1, 1, "2026-10-05")])
    (run,) = shown(warehouse, "select fetch_run_id::text from ops.fetch_runs order by publish_seq desc limit 1")
    bring(mail, "a", events=[event(1, 1, "2026-09-05")])
    with warehouse.connect() as connection:
        snapshot = time_travel.snapshot_of_run(connection, run)
        with time_travel.as_of(warehouse, "toy", snapshot) as past:
            assert time_travel.why_not_exact(connection, past) is None
            events = past.tables["events"].fullname
            (then,) = connection.execute(f"select happened_at::date::text as day from {events}".encode())
    assert then["day"] == "2026-10-05"
    assert shown(warehouse, "select external_id from ops.trace where table_name = 'toy.events'") == ["a"]


def test_an_application_cannot_take_a_key_of_another_partition(
    warehouse: Warehouse, mail: Recorder, write: Write
) -> None:
    bring(mail, "u", users=[ANN])
    bring(mail, "a", events=[event(1, 1, "2026-10-05")])
    insert = "insert into toy.events (event_id, user_id, happened_at) select event_id, user_id, %s from toy.events"
    for at in ("2026-09-05", "1999-01-01"):
        with pytest.raises(psycopg.errors.UniqueViolation, match=r"Another partition of toy\.events has a row of this"):
            write(insert, at)
    write("insert into toy.events (user_id, happened_at) select user_id, '2026-09-05' from toy.users")
    assert len(rows(warehouse, EVENTS)) == 2
    assert_derived(warehouse)


def test_an_event_of_a_source_is_written_when_the_applications_goes(
    warehouse: Warehouse, mail: Recorder, write: Write
) -> None:
    """The application has another time zone, and the key holds a time."""
    bring(mail, "u", users=[ANN])
    write("set timezone = 'Asia/Tokyo'")
    write(
        "insert into toy.events (event_id, user_id, happened_at, kind)"
        " select ops.key('1'), user_id, '2026-09-05', 'own' from toy.users"
    )
    bring(mail, "a", events=[event(1, 1, "2026-10-05", kind="mail")])
    write("delete from toy.events where kind = 'own'")
    mail.transform()
    assert shown(warehouse, "select kind from toy.events") == ["mail"]
    assert_derived(warehouse)


def test_an_application_changes_the_time_of_its_own_event(warehouse: Warehouse, mail: Recorder, write: Write) -> None:
    bring(mail, "u", users=[ANN])
    write("insert into toy.events (user_id, happened_at) select user_id, '2026-09-05' from toy.users")
    for change in ("1 hour", "40 days"):
        write(f"update toy.events set happened_at = happened_at + interval '{change}'")
    assert shown(warehouse, "select happened_at::text from toy.events") == ["2026-10-15 01:00:00+00"]


def test_two_applications_write_one_key_in_two_months_at_once(
    warehouse: Warehouse, mail: Recorder, write: Write
) -> None:
    bring(mail, "u", users=[ANN])
    insert = "insert into toy.events (event_id, user_id, happened_at) select ops.key('1'), user_id, '{}' from toy.users"
    with psycopg.connect(warehouse.conninfo) as other:
        other.execute(insert.format("2026-10-05").encode())
        write("set lock_timeout = '100ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            write(insert.format("2026-09-05"))
    with pytest.raises(psycopg.errors.UniqueViolation):
        write(insert.format("2026-09-05"))


def test_a_month_that_was_detached_gets_no_partition_again(warehouse: Warehouse, mail: Recorder) -> None:
    bring(mail, "u", users=[ANN])
    bring(mail, "a", events=[event(1, 1, "2026-09-05")])
    with warehouse.connect() as connection:
        connection.execute("alter table toy.events detach partition toy.events_2026_09")
    bring(mail, "b", events=[event(2, 1, "2026-09-06"), event(3, 1, "2026-10-06")])
    assert rows(warehouse, EVENTS) == [("toy.events_default", "2026-09-06"), ("toy.events_2026_10", "2026-10-06")]


def test_an_event_that_an_application_is_about_to_write_wins_its_key(
    warehouse: Warehouse, mail: Recorder, write: Write
) -> None:
    """The engine does not see the row of a transaction that is open, and waits for it."""
    bring(mail, "u", users=[ANN])
    mail.land("a", {"events": [event(1, 1, "2026-10-05", kind="mail")]})
    write("begin")
    write(
        "insert into toy.events (event_id, user_id, happened_at, kind)"
        " select ops.key('1'), user_id, '2026-09-05', 'own' from toy.users"
    )
    thread = threading.Thread(target=lambda: transform(warehouse, mail.source, DAYS[0]))
    thread.start()
    while not shown(warehouse, waits_for("relation")):
        time.sleep(0.05)
    write("commit")
    thread.join()
    assert shown(warehouse, "select kind from toy.events") == ["own"]
    assert_derived(warehouse)


def test_a_partition_that_is_being_read_is_split_by_the_next_transform(
    warehouse: Warehouse, mail: Recorder, monkeypatch: pytest.MonkeyPatch, write: Write
) -> None:
    monkeypatch.setattr(partitions, "LOCK_TIMEOUT", "50ms")
    bring(mail, "u", users=[ANN])
    write("begin")
    write("select count(*) from toy.events")
    bring(mail, "a", events=[event(1, 1, "2026-10-05"), event(2, 1, "2026-09-05")])
    default = ("toy.events_default", "2026-09-05"), ("toy.events_default", "2026-10-05")
    assert rows(warehouse, EVENTS) == list(default)
    write("rollback")
    bring(mail, "b", events=[event(3, 1, "2026-09-06")])
    assert {partition for partition, _ in rows(warehouse, EVENTS)} == {"toy.events_2026_09", "toy.events_2026_10"}
    assert_derived(warehouse)


def test_a_transform_with_nothing_pending_splits_what_another_has_left(
    warehouse: Warehouse, mail: Recorder, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    bring(mail, "u", users=[ANN])
    write("insert into toy.events (user_id, happened_at) select user_id, '2026-09-05' from toy.users")
    assert rows(warehouse, EVENTS) == [("toy.events_default", "2026-09-05")]
    monkeypatch.setenv("DATABASE_URL", warehouse.conninfo)
    assert CliRunner().invoke(app, ["transform", "toy/mail"]).exit_code == 0
    assert rows(warehouse, EVENTS) == [("toy.events_2026_09", "2026-09-05")]


def test_rows_that_move_are_no_changes(warehouse: Warehouse, mail: Recorder, write: Write) -> None:
    """An application's row moves too, and no trigger of the table sees it."""
    bring(mail, "u", users=[ANN])
    with warehouse.connect() as connection:
        connection.execute(
            """
            create function toy.refuse() returns trigger language plpgsql as $$ begin raise 'it moved'; end $$;
            create trigger refuse before delete on toy.events for each row execute function toy.refuse()
            """
        )
    own = write("insert into toy.events (user_id, happened_at) select user_id, '2026-09-05' from toy.users returning 1")
    assert own == 1 and rows(warehouse, EVENTS) == [("toy.events_default", "2026-09-05")]
    bring(mail, "a", events=[event(1, 1, "2026-10-05")])
    assert [partition for partition, _ in rows(warehouse, EVENTS)] == ["toy.events_2026_09", "toy.events_2026_10"]
    with pytest.raises(psycopg.errors.RaiseException, match="it moved"):
        write("delete from toy.events where not from_source")
    assert_derived(warehouse)
