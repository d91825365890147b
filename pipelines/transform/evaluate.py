"""Runs the SELECT files over a change set, and collects what they yield in `incoming_<table>`.

change_set ──SELECT files──> incoming_<table>
                └── fails on a record? find it by bisection, reject it, take out its body, start again
"""

import re
from collections.abc import Collection
from dataclasses import dataclass, field

import psycopg
from psycopg import sql
from sqlalchemy import Table

from pipelines.errors import AtlasError
from pipelines.project import Select
from pipelines.schema.table_spec import TableSpec, names
from pipelines.transform import rejects
from pipelines.transform.change_set import ChangeSet
from pipelines.transform.incoming import IncomingTable

SELECT_FAILED = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)
"""Errors that a SELECT raises because of a value in a payload."""

BROKEN_FROM = 20
"""A SELECT that fails on more than half of at least this many records is broken, and none of them is quarantined."""

PAYLOADS = sql.SQL(
    """{name} as not materialized (
        select {source}::text as source, record_id, external_id, identity, body
        from change_set_bodies where stream = {stream} and round = {round} and edition = {edition} {where}
        offset 0 -- keeps PostgreSQL from evaluating the SELECT's own conditions on other bodies first
    )"""
)

OBSERVATIONS = sql.SQL(
    """{name} as not materialized (
        select {source}::text as source, b.record_id, b.external_id, b.identity, o.observed_at, o.counters as body
        from change_set_observations s join staging.observations o using (observation_id)
        join change_set_bodies b on b.record_id = s.record_id
        where b.stream = {stream} and s.round = {round} and b.edition = {edition} {where}
          and o.digest is distinct from (
              select e.digest from staging.observations e
              where e.record_id = o.record_id and e.observed_at < o.observed_at and (
                  exists (select from change_set_observations n where n.observation_id = e.observation_id)
                  or {incremental} and e.valid_from_run is not null)
              order by e.observed_at desc limit 1)
    )"""
)
"""Each change: an observation that is equal to the one before it in time is left out."""

NO_CONDITION = sql.SQL("")


def query_over(
    change_set: ChangeSet, select: Select, edition: int = 0, where: sql.Composable = NO_CONDITION
) -> sql.Composed:
    """The query of a SELECT file over the last round of a change set: its payloads and observations, by kind."""
    source = change_set.editions[edition].source
    streams = [
        relation.format(
            name=sql.Identifier(name),
            source=sql.Literal(source.name),
            stream=sql.Literal(stream),
            round=sql.Literal(change_set.round),
            incremental=sql.Literal(not change_set.complete),
            edition=sql.Literal(edition),
            where=where,
        )
        for kind, stream in source.stream_names.items()
        for name, relation in ((kind or "payloads", PAYLOADS), (f"{kind}_observations".strip("_"), OBSERVATIONS))
    ]
    return sql.SQL("with {} select * from (\n{}\n) as selected").format(
        sql.SQL(", ").join(streams), sql.SQL(select.file.text)
    )


@dataclass
class Evaluator:
    """Runs the SELECT files of one run.

    pruned: tables that none of them fills, of which the rows of the change set's records go. tables: all of these, and
    those that the editions in the change set fill, parents first.
    """

    change_set: ChangeSet
    pruned: Collection[Table]
    shrink: bool
    tables: list[IncomingTable] = field(default_factory=list)
    _used: list[int] = field(default_factory=list)

    def evaluate(self) -> None:
        """Adds what the SELECT files yield over the last round of the change set. Raises AtlasError for wrong SQL.

        Where the change set has records of another edition than before, all of it is evaluated again.
        """
        used = self.change_set.used_editions()
        if used != self._used:
            if self._used:
                self.change_set.merge_rounds()
                self._drop()
            self._use(used)
        tables = {incoming.spec.table.name: incoming for incoming in self.tables}
        several = len(used) > 1
        for edition in used:
            for select in self.change_set.editions[edition].selects:
                query = query_over(self.change_set, select, edition)
                try:
                    with self.change_set.connection.transaction():
                        tables[select.table.name].add(query, select.file.address, as_text=several)
                except SELECT_FAILED as error:
                    self._reject_failing(select, edition, error)
                    self.restart()
                    return
                except psycopg.ProgrammingError as error:
                    raise _wrong_sql(select, query, error) from error
        for incoming in self.tables:
            if not incoming.yielded:
                nothing = sql.SQL("select {} from {} where false")
                incoming.add(nothing.format(names(incoming.spec.content), incoming.spec.target), incoming.spec.name)
            self.change_set.connection.execute(sql.SQL("analyze {}").format(incoming.identifier))

    def _use(self, editions: list[int]) -> None:
        """Opens the tables that editions fill. What several yield may differ in types, so it meets as text."""
        selects = [select for edition in editions for select in self.change_set.editions[edition].selects]
        tables = {select.table for select in selects} | set(self.pruned)
        ordered = next(iter(tables)).metadata.sorted_tables if tables else []
        self.tables = [IncomingTable(self.change_set.connection, TableSpec(each)) for each in ordered if each in tables]
        self._used = editions

    def restart(self) -> None:
        """Drops what was yielded and rejected, and evaluates the whole change set again."""
        self.change_set.merge_rounds()
        self._drop()
        self.evaluate()

    def _drop(self) -> None:
        for incoming in self.tables:
            incoming.drop()
        rejects.reset(self.change_set.connection)

    def _reject_failing(self, select: Select, edition: int, error: psycopg.Error) -> None:
        """Rejects the records on which a SELECT fails, and takes out their bodies, so that no SELECT reads them."""
        failing = self._find_failing(select, edition)
        if not failing:
            raise _wrong_sql(select, query_over(self.change_set, select, edition), error) from error
        self.change_set.connection.execute(
            """
            insert into rejected_rows (table_name, record_id, row_key, reason, detail)
            select %s, record_id, external_id, 'select_fails', message
            from unnest(%s::bigint[], %s::text[]) as f (version_id, message) join change_set using (version_id)
            """,
            [select.table.fullname, list(failing), list(failing.values())],
        )
        self.change_set.remove_bodies(list(failing))

    def _find_failing(self, select: Select, edition: int) -> dict[int, str]:
        """The versions on each of which a SELECT fails alone, by bisection, with the message of PostgreSQL.

        Raises AtlasError as soon as these are more than half of at least 20, unless `shrink` accepts that.
        """
        rows = self.change_set.connection.execute("select version_id from change_set_bodies order by version_id")
        parts = [[row["version_id"] for row in rows]]
        failing: dict[int, str] = {}
        read = 0
        while parts:
            part = parts.pop()
            if not (message := self._error_over(select, edition, part)):
                continue
            if len(part) > 1:
                parts += [part[len(part) // 2 :], part[: len(part) // 2]]
                continue
            failing |= dict.fromkeys(part, message)
            if self.shrink or len(failing) <= BROKEN_FROM // 2:
                continue
            read = read or self.change_set.count_records(list(failing))
            if read >= BROKEN_FROM and len(failing) > read / 2:
                raise AtlasError(
                    f"sql/{select.file.address}.sql fails on more than half of the {read:,} records that it reads of "
                    f"{self.change_set.partition}: {message}. Nothing is written. Correct the file, then: "
                    f"{self.change_set.command}. Add --shrink to quarantine the records and delete their rows."
                )
        return failing

    def _error_over(self, select: Select, edition: int, versions: list[int]) -> str:
        """What PostgreSQL says about a SELECT over some versions; empty if it does not fail."""
        of_versions = sql.SQL("and version_id = any({})").format(versions)
        query = query_over(self.change_set, select, edition, of_versions)
        try:
            with self.change_set.connection.transaction() as savepoint:
                savepoint.connection.execute(sql.SQL("select count(selected) from ({}) as selected").format(query))
        except SELECT_FAILED as error:
            return str(error).splitlines()[0]
        return ""


def _wrong_sql(select: Select, query: sql.Composed, error: psycopg.Error) -> AtlasError:
    """What PostgreSQL says about a SELECT file, with the line of the file."""
    line = re.search(r"^LINE (\d+):", str(error), re.M)
    before = query.as_string().partition(select.file.text)[0].count("\n")
    where = f" at line {min(int(line[1]) - before, select.file.text.count(chr(10)) + 1)}" if line else ""
    return AtlasError(
        f"sql/{select.file.address}.sql cannot be run: {error.diag.message_primary or error}{where}. Fix it, then: "
        f"atlas transform {select.file.address.rpartition('/')[0]}"
    )
