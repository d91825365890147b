"""Runs the SELECT files over a change set, and collects what they yield in `incoming_<table>`.

    change_set ──SELECT files──> incoming_<table>
                    └── fails on a record? find it by bisection, reject it, exclude it, start again

Belongs here: running SELECT files, and their errors. Not: what the tables do with the rows (`apply`).
"""

import re
from collections.abc import Sequence

import psycopg
from psycopg import sql

from pipelines.errors import AtlasError
from pipelines.project import Select
from pipelines.transform import rejects
from pipelines.transform.change_set import ChangeSet
from pipelines.transform.incoming import IncomingTable
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import names

SELECT_FAILED = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)
"""Errors that a SELECT raises because of a value in a payload."""


PAYLOADS = sql.SQL(
    """{name} as not materialized (
        select {source}::text as source, record_id, external_id, body
        from change_set_bodies where stream = {stream} and round = {round} and edition = {edition} {where}
        offset 0 -- keeps PostgreSQL from evaluating the SELECT's own conditions on other bodies first
    )"""
)

OBSERVATIONS = sql.SQL(
    """{name} as not materialized (
        select {source}::text as source, b.record_id, b.external_id, o.observed_at, o.counters as body
        from change_set_observations s join {observations} o using (observation_id)
        join change_set_bodies b on b.record_id = s.record_id
        where b.stream = {stream} and s.round = {round} and b.edition = {edition} {where}
          and o.digest is distinct from (
              select e.digest from {observations} e
              where e.record_id = o.record_id and e.observed_at < o.observed_at
                and (
                    e.valid_from_run is not null
                    or exists (select from change_set_observations n where n.observation_id = e.observation_id))
              order by e.observed_at desc limit 1)
    )"""
)

NO_CONDITION = sql.SQL("")


def query_over(
    change_set: ChangeSet, select: Select, edition: int = 0, where: sql.Composable = NO_CONDITION
) -> sql.Composed:
    """Returns the query of a SELECT file over the last round of a change set.

    It reads `payloads` and `observations`, and `<kind>` and `<kind>_observations` for each further stream.
    """
    streams = [
        relation.format(
            name=sql.Identifier(name),
            source=sql.Literal(change_set.source.name),
            stream=sql.Literal(stream),
            round=sql.Literal(change_set.round),
            edition=sql.Literal(edition),
            observations=change_set.observations,
            where=where,
        )
        for kind, stream in change_set.source.streams.items()
        for name, relation in (
            (kind or "payloads", PAYLOADS),
            (f"{kind}_observations" if kind else "observations", OBSERVATIONS),
        )
    ]
    return sql.SQL("with {} select * from (\n{}\n) as selected").format(
        sql.SQL(", ").join(streams), sql.SQL(select.file.text)
    )


class Evaluator:
    """Runs the SELECT files of one run. failed: how many records were rejected because a SELECT fails on them.

    editions: the SELECT files; several times where versions are applied with different texts of them.
    """

    def __init__(
        self, change_set: ChangeSet, editions: Sequence[Sequence[Select]], tables: Sequence[IncomingTable]
    ) -> None:
        self.change_set, self.editions, self.tables = change_set, editions, tables
        self.connection = change_set.connection
        self.failed = 0

    def evaluate(self) -> None:
        """Adds what the SELECT files yield over the last round of the change set. Raises AtlasError for wrong SQL."""
        tables = {incoming.spec.table.name: incoming for incoming in self.tables}
        for edition, selects in enumerate(self.editions):
            for select in selects:
                incoming = tables[select.table.name]
                try:
                    with self.connection.transaction():
                        self._add(incoming, query_over(self.change_set, select, edition), select)
                except SELECT_FAILED as error:
                    self._exclude_failing(select, edition, error)
                    self.restart()
                    return
                except psycopg.ProgrammingError as error:
                    raise _wrong_sql(select, query_over(self.change_set, select, edition), error) from error
        for incoming in self.tables:
            if not incoming.yielded:
                query = sql.SQL("select {} from {} where false").format(
                    names(incoming.spec.content), incoming.spec.target
                )
                self._create(incoming, query, incoming.spec.name)
            self.connection.execute(sql.SQL("analyze {}").format(incoming.identifier))

    def restart(self) -> None:
        """Drops what was yielded and rejected, and evaluates again."""
        for incoming in self.tables:
            self.connection.execute(sql.SQL("drop table if exists {}").format(incoming.identifier))
            incoming.yielded = {}
        rejects.reset(self.connection)
        self.evaluate()

    def _add(self, incoming: IncomingTable, query: sql.Composed, select: Select) -> None:
        if not incoming.yielded:
            self._create(incoming, query, select.file.address)
        elif len(self.editions) == 1:
            self.connection.execute(sql.SQL("insert into {} {}").format(incoming.identifier, query))
        else:
            self._add_edition(incoming, query, select)

    def _create(self, incoming: IncomingTable, query: sql.Composed, address: str) -> None:
        self.connection.execute(sql.SQL("create temp table {} on commit drop as {}").format(incoming.identifier, query))
        incoming.read_types(self.connection, address)

    def _add_edition(self, incoming: IncomingTable, query: sql.Composed, select: Select) -> None:
        """Adds what another edition yields. It may have other columns, or other types, which are both cast to text."""
        other = IncomingTable(incoming.spec, prefix="other")
        self._create(other, query, select.file.address)
        for column, kind in other.yielded.items():
            name = sql.Identifier(column)
            if column not in incoming.yielded:
                change = sql.SQL("add column {} {}").format(name, sql.SQL(kind))
            elif incoming.yielded[column] != kind:
                change = sql.SQL("alter column {} type text using {}").format(name, incoming.as_text(column))
            else:
                continue
            self.connection.execute(sql.SQL("alter table {} {}").format(incoming.identifier, change))
        values = (
            other.as_text(column) if incoming.yielded.get(column, kind) != kind else sql.Identifier(column)
            for column, kind in other.yielded.items()
        )
        self.connection.execute(
            sql.SQL("insert into {} ({}) select {} from {}").format(
                incoming.identifier, names(list(other.yielded)), sql.SQL(", ").join(values), other.identifier
            )
        )
        self.connection.execute(sql.SQL("drop table {}").format(other.identifier))
        incoming.read_types(self.connection, select.file.address)

    def _exclude_failing(self, select: Select, edition: int, error: psycopg.Error) -> None:
        """Rejects the records on which a SELECT fails, and excludes them; the rows of their effective versions stay."""
        bisected = sql.SQL("and version_id = any(current_setting('atlas.bisected')::bigint[])")
        query = sql.SQL("select count(selected) from ({}) as selected").format(
            query_over(self.change_set, select, edition, bisected)
        )
        versions = [row["version_id"] for row in self.connection.execute("select version_id from change_set_bodies")]
        failing = _bisect(self.connection, query, versions)
        if not failing:
            raise _wrong_sql(select, query_over(self.change_set, select, edition), error) from error
        for version_id, message in failing.items():
            self.connection.execute(
                """
                insert into rejected_rows (table_name, record_id, row_key, reason, detail)
                select %s, record_id, external_id, 'select_fails', %s from change_set where version_id = %s
                """,
                [select.table.fullname, message, version_id],
            )
        self.change_set.exclude(list(failing))
        self.failed += len(failing)


def _bisect(connection: Connection, query: sql.Composed, versions: list[int]) -> dict[int, str]:
    """Returns the versions on each of which a query fails alone, with the message of PostgreSQL."""
    try:
        with connection.transaction():
            connection.execute(
                "select set_config('atlas.bisected', %s, true)", ["{" + ",".join(map(str, versions)) + "}"]
            )
            connection.execute(query)
    except SELECT_FAILED as error:
        if len(versions) <= 1:
            return {version: str(error).splitlines()[0] for version in versions}
        middle = len(versions) // 2
        return _bisect(connection, query, versions[:middle]) | _bisect(connection, query, versions[middle:])
    return {}


def _wrong_sql(select: Select, query: sql.Composed, error: psycopg.Error) -> AtlasError:
    """What PostgreSQL says about a SELECT file, with the line of the file."""
    line = re.search(r"^LINE (\d+):", str(error), re.M)
    before = query.as_string().partition(select.file.text)[0].count("\n")
    where = f" at line {min(int(line[1]) - before, select.file.text.count(chr(10)) + 1)}" if line else ""
    return AtlasError(
        f"sql/{select.file.address}.sql cannot be run: {error.diag.message_primary or error}{where}. Fix it, then: "
        f"atlas transform {select.file.address.rpartition('/')[0]}"
    )
