"""SELECT files over a scope, and what they yield into tables: split, prune, MERGE.

    scope ──> SELECTs ──> temporary tables ──> prune, MERGE
                                   └── a row does not fit? split it off first ──> misfits

Misfits are rare, so MERGE is tried straight away and rows are sorted out (`misfits`) only where it fails. The tables
are those of the domain for a transform, others of the same shape for a rebuild. Belongs here: the order of things and
the writing. Not: which versions are in scope (`scope`), not what a row must fit (`misfits`, `shape`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pipelines import failpoints
from pipelines.errors import AtlasError
from pipelines.ledger import Counts
from pipelines.project import Select
from pipelines.transform import merge_sql
from pipelines.transform.change_set import ChangeSet
from pipelines.transform.constraints import RowValidator
from pipelines.transform.dependents import DependentRecords
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import TableSpec, names, shared_tables


class StillReferred(Exception):
    """A row that is to go is referred to by one that stays."""


MISFIT = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.CardinalityViolation, StillReferred)
UNREADABLE = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


@dataclass
class Change:
    """How many rows a table has got more, and how much more the sum of their hashes is."""

    rows: int = 0
    digest: int = 0


class Applier:
    """One source's way from a scope to tables, inside one transaction.

    editions: the SELECT files, once for each text that they had, where versions were derived by several. shapes: the
    tables, parents before those that refer to them; of one that no SELECT fills, the rows of the scope go.
    """

    def __init__(self, scope: ChangeSet, editions: Sequence[Sequence[Select]], shapes: Sequence[TableSpec]) -> None:
        self.scope, self.editions, self.shapes = scope, editions, shapes
        self.connection = scope.connection
        self.shared = shared_tables(self.shapes)
        self.split = RowValidator(self.connection, self.shapes)
        self.growth = DependentRecords(scope, shapes)
        self.changes: dict[str, Change] = {}
        self.unreadable = 0

    def all(self) -> dict[str, Counts]:
        """Brings the rows of the scope, and of what depends on it, into the tables; what became of them."""
        self._create_temporary()
        failpoints.reached("derive.created")
        self._select()
        while self.growth.grow(contested=False):
            self._select()
        failpoints.reached("derive.selected")
        counts = self.no_counts()
        try:
            with self.connection.transaction():
                self.split.unreferenced()
                self._write(counts, fits=False)
        except MISFIT:
            failpoints.reached("derive.misfit")
            counts = self._sorted_out()
            failpoints.reached("derive.sorted_out")
            self._write(counts, fits=True)
        if self.unreadable:
            counts[self.shapes[0].name] += Counts(fetched=self.unreadable, quarantined=self.unreadable)
        return counts

    def no_counts(self) -> dict[str, Counts]:
        return {shape.name: Counts() for shape in (*self.shapes, *self.shared)}

    def _sorted_out(self) -> dict[str, Counts]:
        """Splits off the rows that do not fit, with everything that they contest or depend on at hand.

        A row that is split off may be what others waited to see gone: then all of it is decided again with them.
        """
        while True:
            self.split.alone()
            while self.growth.grow(contested=True):
                self._select()
                self.split.alone()
            counts = self.no_counts()
            self.split.together(counts)
            if not self.growth.grow(contested=True):
                return counts
            self.scope.as_one_round()
            self._start_again()

    def _select(self) -> None:
        """Adds what the SELECTs yield over the scope's last round to a temporary table each."""
        shapes = {shape.table.name: shape for shape in self.shapes}
        for edition, selects in enumerate(self.editions):
            for select in selects:
                shape = shapes[select.table.name]
                try:
                    with self.connection.transaction():
                        self._add(shape, self.scope.select(select, edition), select)
                    failpoints.reached("derive.select", shape.table.name)
                except UNREADABLE as error:
                    self._leave_out(select, edition, error)
                    self._start_again()
                    return
                except psycopg.ProgrammingError as error:
                    raise _cannot_be_run(select, self.scope.select(select, edition), error) from error
        for shape in self.shapes:
            if not shape.yielded:
                nothing = sql.SQL("select {} from {} where false").format(names(shape.content), shape.target)
                self.connection.execute(
                    sql.SQL("create temp table {} on commit drop as {}").format(shape.incoming, nothing)
                )
                shape.read_types(self.connection, shape.name)
            if shape.told and "record_id" in shape.yielded:
                self.connection.execute(shape.settle())
            self.connection.execute(sql.SQL("analyze {}").format(shape.incoming))

    def _add(self, shape: TableSpec, query: sql.Composed, select: Select) -> None:
        if not shape.yielded:
            self.connection.execute(sql.SQL("create temp table {} on commit drop as {}").format(shape.incoming, query))
            shape.read_types(self.connection, select.file.address)
        elif len(self.editions) == 1:
            self.connection.execute(sql.SQL("insert into {} {}").format(shape.incoming, query))
        else:
            self._add_other(shape, query, select)

    def _add_other(self, shape: TableSpec, query: sql.Composed, select: Select) -> None:
        """Adds what another edition yields: perhaps other columns, or columns of another type, which meet as text."""
        other = TableSpec(shape.table, prefix="other")
        self.connection.execute(sql.SQL("create temp table {} on commit drop as {}").format(other.incoming, query))
        other.read_types(self.connection, select.file.address)
        for column, kind in other.yielded.items():
            name = sql.Identifier(column)
            if column not in shape.yielded:
                change = sql.SQL("add column {} {}").format(name, sql.SQL(kind))
            elif shape.yielded[column] != kind:
                change = sql.SQL("alter column {} type text using {}").format(name, shape.as_text(column))
            else:
                continue
            self.connection.execute(sql.SQL("alter table {} {}").format(shape.incoming, change))
        values = (
            other.as_text(column) if shape.yielded.get(column, kind) != kind else sql.Identifier(column)
            for column, kind in other.yielded.items()
        )
        self.connection.execute(
            sql.SQL("insert into {} ({}) select {} from {}").format(
                shape.incoming, names(list(other.yielded)), sql.SQL(", ").join(values), other.incoming
            )
        )
        self.connection.execute(sql.SQL("drop table {}").format(other.incoming))
        shape.read_types(self.connection, select.file.address)

    def _start_again(self) -> None:
        for shape in self.shapes:
            self.connection.execute(sql.SQL("drop table if exists {}").format(shape.incoming))
            shape.yielded = {}
        self.split.again()
        self._select()

    def _leave_out(self, select: Select, edition: int, error: psycopg.Error) -> None:
        """Takes the records on which a SELECT fails out of the scope, into quarantine; their older rows stay."""
        probed = sql.SQL("and version_id = any(current_setting('atlas.probe')::bigint[])")
        probe = sql.SQL("select count(probed) from ({}) as probed").format(self.scope.select(select, edition, probed))
        suspects = [row["version_id"] for row in self.connection.execute("select version_id from bodies")]
        culprits = _bisect(self.connection, probe, suspects)
        if not culprits:
            raise _cannot_be_run(select, self.scope.select(select, edition), error) from error
        for version_id, words in culprits.items():
            self.connection.execute(
                """
                insert into misfits (table_name, record_id, row_key, reason, detail)
                select %s, record_id, external_id, 'select_fails', %s from scope where version_id = %s
                """,
                [select.table.fullname, words, version_id],
            )
        self.scope.leave_out(list(culprits))
        self.unreadable += len(culprits)

    def _write(self, counts: dict[str, Counts], *, fits: bool) -> None:
        """Prunes children before parents, merges parents before children, checks what was deferred.

        A row to which a child refers that stays, with another parent, goes after that has been merged. fits: no row of
        the sources refers to what goes; if one does, it is nobody's, and goes with it.
        """
        self.changes = {name: Change() for name in counts}
        self.connection.execute("set constraints all deferred")
        for shape in self.shapes:
            self.connection.execute(shape.distinct())
            failpoints.reached("write.distinct", shape.table.name)
        held = self._prune([shape for shape in reversed(self.shapes) if "record_id" in shape.yielded], counts)
        for shape in self.shapes:
            merged = self.connection.execute(merge_sql.merge(shape)).fetchone()
            failpoints.reached("write.merged", shape.table.name)
            assert merged is not None
            each = counts[shape.name]
            each.created, each.updated = merged["created"], merged["updated"]
            each.fetched = merged["yielded"] + each.quarantined + each.duplicates
            each.unchanged = merged["yielded"] - each.created - each.updated
            self.changes[shape.name].rows += each.created
            self.changes[shape.name].digest += int(merged["digest"])
        held = self._prune(held, counts)
        if held and not fits:
            raise StillReferred
        self._prune(held, counts, referred=True)
        for shape in self.shared:
            self._take_away(shape, merge_sql.sweep(shape), counts)
            failpoints.reached("write.swept", shape.table.name)
        self.connection.execute("set constraints all immediate")
        failpoints.reached("write.checked")

    def _prune(
        self, shapes: Sequence[TableSpec], counts: dict[str, Counts], *, referred: bool = False
    ) -> list[TableSpec]:
        """Takes away what is no longer yielded, unless it is referred to; the tables of which rows are left so."""
        held = []
        for shape in shapes:
            if self._take_away(shape, merge_sql.prune(shape, referred=referred), counts):
                held.append(shape)
            failpoints.reached("write.pruned", shape.table.name)
        return held

    def _take_away(self, shape: TableSpec, statement: sql.Composed, counts: dict[str, Counts]) -> int:
        """Runs a statement that deletes; how many rows it had to leave."""
        gone = self.connection.execute(statement).fetchone()
        assert gone is not None
        counts[shape.name].deleted += gone["deleted"]
        self.changes[shape.name].rows -= gone["deleted"]
        self.changes[shape.name].digest -= int(gone["digest"])
        return int(gone["held"])

    def _create_temporary(self) -> None:
        self.connection.execute(CREATE)
        for shape in self.shared:
            self.connection.execute(sql.SQL("create temp table {} (key uuid) on commit drop").format(shape.loose))


def _cannot_be_run(select: Select, query: sql.Composed, error: psycopg.Error) -> AtlasError:
    """What the server says of a SELECT, with the line of its file."""
    told = re.search(r"^LINE (\d+):", str(error), re.M)
    before = query.as_string().partition(select.file.text)[0].count("\n")
    where = f" at line {min(int(told[1]) - before, select.file.text.count(chr(10)) + 1)}" if told else ""
    return AtlasError(
        f"sql/{select.file.address}.sql cannot be run: {error.diag.message_primary or error}{where}. Mend it, then: "
        f"atlas transform {select.file.address.rpartition('/')[0]}"
    )


CREATE = """
create temp table misfits (
    table_name text, record_id uuid, row_key text, reason text, constraint_name text, detail text, row jsonb
) on commit drop;
create temp table waiting (record_id uuid, table_name text, key text, reason text) on commit drop
"""


def _bisect(connection: Connection, probe: sql.Composed, suspects: list[int]) -> dict[int, str]:
    """The versions of a list on which a statement fails alone, each with the server's words."""
    try:
        with connection.transaction():
            connection.execute("select set_config('atlas.probe', %s, true)", ["{" + ",".join(map(str, suspects)) + "}"])
            connection.execute(probe)
    except UNREADABLE as error:
        if len(suspects) <= 1:
            return {suspect: str(error).splitlines()[0] for suspect in suspects}
        middle = len(suspects) // 2
        return _bisect(connection, probe, suspects[:middle]) | _bisect(connection, probe, suspects[middle:])
    return {}
