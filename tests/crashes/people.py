"""Records of the toy domain's forum and mail, and rows of applications, for every branch of transform, rebuild, erase.

    applied, written by an application ──later records, pending──> named by both and by an application, kept, an alias,
    a tree, a cycle, keys exchanged, months without a partition, rows that do not fit, a change of an application noted

Belongs here: what is in the database. Not here: which command it is made for (`scenarios`).
"""

from collections.abc import Iterable

import psycopg

from pipelines import project
from pipelines.warehouse.database import Warehouse
from tests.forum import event, folder, post, user
from tests.library import Recorder

ANN, CID, DOT, EVE, GIL, HAL, IVY, ZOE = range(1, 9)
"""Users by the mail's numbers."""

ANN_OWNS = (
    "insert into toy.tokens (user_id) select user_id from toy.users where username = 'Ann'",
    "insert into toy.folders (user_id, name) select user_id, 'own' from toy.users where username = 'Ann'",
    """
    insert into toy.posts (user_id, folder_id, number)
    select u.user_id, f.folder_id, 70 from toy.users u, toy.folders f where username in ('Ann', 'una') and name = 'own'
    """,
    "insert into toy.events (user_id, happened_at) select user_id, '2026-08-09' from toy.users where username = 'Ann'",
)
"""Rows of applications that go with Ann, and a post of somebody else in her folder, which stays."""

SPOIL = (
    "update toy.users set username = 'by hand', email = null where username = 'Ann'",
    "delete from toy.folders where from_source and parent_id is null",
    "delete from toy.posts where number < 3 and from_source",
    "drop table toy.events_2026_09",
    "delete from staging.aliases",
    "delete from staging.pending_rows",
)
"""What a rebuild puts right: rows, months without a partition, what is known of rows that are not written."""


def apply_earlier(warehouse: Warehouse) -> Recorder:
    """Applies records of both sources, and writes rows of applications; returns the mail."""
    forum, mail = (Recorder(warehouse, project.sources()[name]) for name in ("toy/forum", "toy/mail"))
    write(warehouse, ["insert into toy.users (username) values ('eve'), ('hal'), ('zoe'), ('una')"])
    forum.land("people", {"users": [user(1, "ann"), user(2, "Eve")]})
    of_ann = {"folders": [folder(1, "ann"), folder(2, "ann", parent=1)], "posts": [post(1, "ann", folder=2)]}
    forum.land("ann", of_ann | {"events": [event(1, "ann", "2026-07-05", kind="forum")]})
    forum.land("eve", {"posts": [post(2, "eve", 7)]})
    for number, name in ((CID, "cid"), (DOT, "dot"), (EVE, "EVE"), (GIL, "gil"), (HAL, "hal")):
        mail.land(name, {"users": [user(number, name)]})
    mail.land("posts", {"posts": [post(each, CID) for each in (1, 2, 3)]})
    mail.land("events", {"events": [event(2, CID, "2026-07-06"), event(3, CID, "1999-01-01")]})
    mail.land("folders", {"folders": [folder(each, DOT, parent=each - 1 or None) for each in (1, 2, 3)]})
    forum.transform()
    mail.transform()
    in_folder = "select u.user_id, f.folder_id, 50 from toy.users u, toy.folders f"
    write(
        warehouse,
        [
            "insert into toy.tokens (user_id) select user_id from toy.users where username in ('dot', 'gil', 'zoe')",
            "insert into toy.posts (user_id, folder_id, number) "
            f"{in_folder} where username = 'una' and name = 'folder 3'",
        ],
    )
    mail.full_refresh("gil")
    mail.transform()
    return mail


def land_later(mail: Recorder) -> None:
    """Lands what is pending in one partition of the mail; an application deletes a row that has won its identity."""
    mail.land("ann", {"users": [user(ANN, "Ann", "ann@a.example"), user(ZOE, "Zoe")]})
    mail.land("of ann", {"posts": [post(11, ANN)], "events": [event(1, ANN, "2026-08-05", kind="mail")]})
    mail.land("of eve", {"posts": [post(12, EVE)], "folders": [folder(12, EVE)]})
    mail.land("gil", {"users": [user(GIL, "gil", "gil@a.example")]})
    tree = [folder(21, IVY), *(folder(each, IVY, parent=each - 1) for each in (22, 23, 24))]
    mail.land("ivy", {"users": [user(IVY, "ivy")], "folders": tree})
    mail.land("cycle", {"folders": [folder(31, IVY, parent=32), folder(32, IVY, parent=31)]})
    mail.land("waiting", {"posts": [post(41, 99)]})
    mail.land("posts", {"posts": [post(1, CID, 2), post(2, CID, 3), post(3, CID, 1)]})
    mail.land("unfit", {"posts": [post(51, CID, -1), post(52, CID, title="two", labels=["three"])]})
    times = {2: "2026-09-06", 3: "1999-01-01", 4: "2026-09-07", 5: "2026-10-31T23:59:59Z", 6: "now"}
    mail.land("events", {"events": [event(number, CID, at) for number, at in times.items()]})
    mail.full_refresh("dot", "folders")
    write(mail.warehouse, ["delete from toy.users where username = 'hal'"])


def write(warehouse: Warehouse, statements: Iterable[str]) -> None:
    """Executes statements as an application does."""
    with psycopg.connect(warehouse.conninfo) as application:
        for statement in statements:
            application.execute(statement.encode())
