"""A model of the tables of forum, mail and staff, written without the engine: what they hold, made of all records and
all rows of applications at once.

    records of three sources, rows of applications ──derive──> rows from sources
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

Body = dict[str, list[dict[str, Any]]]
Row = dict[str, Any]
TABLES = ("users", "folders", "posts", "events", "tokens")


def key(*parts: Any) -> str:
    """`ops.key`."""
    quoted = ["NULL" if part is None else "'" + str(part).replace("'", "''") + "'" for part in parts]
    return str(UUID(hashlib.md5(",".join(quoted).encode()).hexdigest()))


@dataclass
class Model:
    """records: bodies by source and id. theirs: rows of applications by table and key. had: rows from sources.

    marks: what the SELECT file of a source for events appends to their kinds.
    """

    records: dict[tuple[str, str], Body] = field(default_factory=dict)
    marks: dict[str, str] = field(default_factory=dict)
    theirs: dict[str, dict[str, Row]] = field(default_factory=lambda: {each: {} for each in TABLES})
    had: dict[str, dict[str, Row]] = field(default_factory=lambda: {each: {} for each in TABLES[:-1]})

    def transform(self) -> None:
        """Rows from sources follow the records; those that go and that a row of an application refers to are kept."""
        stuck: set[tuple[str, str]] = set()
        while True:
            there = self._derive(stuck)
            kept = {
                (table, name)
                for table, rows in self.had.items()
                for name in rows
                if name not in there[table] and self._in_use(table, name)
            }
            not_back = {
                (table, name)
                for table in TABLES[:-1]
                for name, row in self.theirs[table].items()
                if row.get("kept") and name not in there[table]
            }
            for table, name in kept:
                self.theirs[table][name] = self.had[table].pop(name) | {"kept": True}
            if not kept and not_back <= stuck:
                break
            stuck |= kept | not_back
        for table, rows in there.items():
            for name in rows:
                self.theirs[table].pop(name, None)
        self.had = there

    def erase(self, source: str, external_id: str) -> None:
        """The rows of a record go, kept ones and those of applications with their identity too, and so does what refers
        to them of an application's, below rows of other records too if these go.
        """
        body = self.records.pop((source, external_id), None)
        identities = {each["username"].lower() for each in (body or {}).get("users", [])}
        gone = {
            (table, name)
            for rows in (self.had, self.theirs)
            for table, those in rows.items()
            for name, row in those.items()
            if row.get("order", ())[1:] == (source, external_id)
            or (rows is self.theirs and table == "users" and row["username"].lower() in identities)
        }
        others = {row["key"] for row in self._candidates("users")}
        reached: set[tuple[str, str]] = set()
        while gone - reached:
            reached |= gone
            for child in ("folders", "posts", "events", "tokens"):
                for name, row in (*self.theirs[child].items(), *self.had.get(child, {}).items()):
                    is_theirs = name in self.theirs[child]
                    if ("users", row["user_id"]) in reached and (
                        is_theirs or not {row["user_id"], row["user"]} & others
                    ):
                        gone.add((child, name))
                    if is_theirs and child == "folders" and ("folders", row.get("parent_id")) in reached:
                        gone.add((child, name))
        for table, name in gone:
            self.theirs[table].pop(name, None)
            if self.had.get(table, {}).get(name, {}).get("order", ())[1:] == (source, external_id):
                del self.had[table][name]
        for row in self.theirs["posts"].values():
            if ("folders", row["folder_id"]) in gone:
                row["folder_id"] = None
        self.transform()

    def _in_use(self, table: str, name: str) -> bool:
        if table not in ("users", "folders"):
            return False
        columns = ("user_id",) if table == "users" else ("folder_id", "parent_id")
        return any(row.get(each) == name for rows in self.theirs.values() for row in rows.values() for each in columns)

    def _candidates(self, table: str) -> Iterator[Row]:
        for (source, external_id), body in sorted(self.records.items()):
            order = (source != "toy/mail" if table == "users" else False, source, external_id)

            def user(each: str, source: str = source) -> str:
                return key(each.lower()) if source == "toy/forum" else key(source, each)

            for each in body.get(table, []):
                own = key(source, each["id"])
                if table == "users":
                    own = {"toy/forum": key(each["username"].lower()), "toy/staff": each["id"]}.get(source, own)
                    yield {"key": own, "order": order, "username": each["username"], "email": each.get("email")}
                elif table == "folders":
                    parent = each.get("parent") and key(source, each["parent"])
                    yield {
                        "key": own,
                        "order": order,
                        "user_id": user(each["user"]),
                        "parent_id": parent,
                        "name": each["name"],
                    }
                elif table == "events":
                    at = {"happened_at": each["at"], "kind": each["kind"] + self.marks.get(source, "")}
                    yield {"key": key(each["id"]), "order": order, "user_id": user(each["user"]), **at}
                else:
                    folder = each.get("folder") and key(source, each["folder"])
                    more = {"number": each["number"], "pinned": each.get("pinned", False), "title": each.get("title")}
                    yield {"key": own, "order": order, "user_id": user(each["user"]), "folder_id": folder, **more}

    def _derive(self, stuck: set[tuple[str, str]]) -> dict[str, dict[str, Row]]:
        """stuck: kept rows that stay an application's although a record yields their key."""
        there: dict[str, dict[str, Row]] = {}
        aliases: dict[str, str] = {}
        for table in TABLES[:-1]:
            rows = list(self._candidates(table))
            yielded = {row["key"] for row in rows}
            again = {
                name
                for name, row in self.theirs[table].items()
                if row.get("kept") and name in yielded and (table, name) not in stuck
            }
            rows = self._with_parents(table, rows, there, aliases)
            taken = {
                claim: name
                for name, row in self.theirs[table].items()
                if name not in again
                for claim in claims(table, name, row)
            }
            of_applications = set(taken)
            there[table] = {}
            rows.sort(key=lambda row: (not self._in_use(table, row["key"]), row["order"], row["key"]))
            for row in rows:
                claimed = [claim for claim in claims(table, row["key"], row) if claim in taken]
                lost = min(claimed, key=lambda claim: claim not in of_applications, default=None)
                if lost is None:
                    taken |= dict.fromkeys(claims(table, row["key"], row), row["key"])
                    there[table][row["key"]] = row
                elif lost[0] == "identity" and table == "users":
                    aliases.setdefault(row["key"], taken[lost])
        return there

    def _with_parents(
        self, table: str, rows: list[Row], there: dict[str, dict[str, Row]], aliases: dict[str, str]
    ) -> list[Row]:
        def exists(parent: str, name: str) -> bool:
            return name in there.get(parent, {}) or name in self.theirs[parent]

        if table == "users":
            return rows
        for row in rows:
            row["user"] = row["user_id"]
            if not exists("users", row["user_id"]):
                row["user_id"] = aliases.get(row["user_id"], row["user_id"])
        rows = [row for row in rows if exists("users", row["user_id"])]
        if table == "events":
            return rows
        if table == "posts":
            for row in rows:
                if row["folder_id"] and not exists("folders", row["folder_id"]):
                    row["folder_id"] = None
            return rows
        above: dict[str, set[str]] = {}
        for name, parent in [(row["key"], row["parent_id"]) for row in (*rows, *self.theirs["folders"].values())]:
            above.setdefault(name, set()).update({parent} - {None})

        def in_cycle(row: Row) -> bool:
            seen: set[str] = set()
            ahead = {row["parent_id"]} - {None}
            while ahead:
                seen |= ahead
                ahead = {parent for each in ahead for parent in above.get(each, ())} - seen
            return row["key"] in seen

        rows = [row for row in rows if not in_cycle(row)]
        names = {row["key"] for row in rows} | set(self.theirs["folders"])
        for row in rows:
            if row["parent_id"] not in names:
                row["parent_id"] = None
        return rows


def claims(table: str, name: str, row: Row) -> list[tuple[Any, ...]]:
    """What only one row has."""
    found: list[tuple[Any, ...]] = [("key", name)]
    if table == "users":
        found.append(("identity", row["username"].lower()))
        found += [("email", row["email"].lower())] if row["email"] else []
    if table == "posts":
        found += [("pinned", row["user_id"])] if row["pinned"] else []
        found.append(("number", row["user_id"], row["number"]))
    return found
