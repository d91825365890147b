"""Runs the SELECT files over a change set, and collects what they yield in `incoming_<table>`.

    change_set ──SELECT files──> incoming_<table>
                    └── fails on a record? find it by bisection, reject it, exclude it, start again

Belongs here: running SELECT files, and their errors. Not: what the tables do with the rows (`apply`).
"""

import re
from collections.abc import Sequence

import psycopg
from psycopg import sql

from pipelines import failpoints
from pipelines.errors import AtlasError
from pipelines.project import Select
from pipelines.transform import merge_sql, rejects
from pipelines.transform.change_set import ChangeSet
from pipelines.warehouse.database import Connection
from pipelines.warehouse.table_spec import TableSpec, names

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

EVERYWHERE = sql.SQL("")


def query_over(
    change_set: ChangeSet, select: Select, edition: int = 0, where: sql.Composable = EVERYWHERE
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

    def __init__(self, change_set: ChangeSet, editions: Sequence[Sequence[Select]], specs: Sequence[TableSpec]) -> None:
        self.change_set, self.editions, self.specs = change_set, editions, specs
        self.connection = change_set.connection
        self.failed = 0

    def evaluate(self) -> None:
        """Adds what the SELECT files yield over the last round of the change set. Raises AtlasError for wrong SQL."""
        specs = {spec.table.name: spec for spec in self.specs}
        for edition, selects in enumerate(self.editions):
            for select in selects:
                spec = specs[select.table.name]
                try:
                    with self.connection.transaction():
                        self._add(spec, query_over(self.change_set, select, edition), select)
                    failpoints.reached("apply.select", spec.table.name)
                except SELECT_FAILED as error:
                    self._exclude_failing(select, edition, error)
                    self.restart()
                    return
                except psycopg.ProgrammingError as error:
                    raise _wrong_sql(select, query_over(self.change_set, select, edition), error) from error
        for spec in self.specs:
            if not spec.yielded:
                query = sql.SQL("select {} from {} where false").format(names(spec.content), spec.target)
                self._create(spec, query, spec.name)
            if spec.optionally_owned and "record_id" in spec.yielded:
                self.connection.execute(merge_sql.deduplicate(spec))
            self.connection.execute(sql.SQL("analyze {}").format(spec.incoming))

    def restart(self) -> None:
        """Drops what was yielded and rejected, and evaluates again."""
        for spec in self.specs:
            self.connection.execute(sql.SQL("drop table if exists {}").format(spec.incoming))
            spec.yielded = {}
        rejects.reset(self.connection)
        self.evaluate()

    def _add(self, spec: TableSpec, query: sql.Composed, select: Select) -> None:
        if not spec.yielded:
            self._create(spec, query, select.file.address)
        elif len(self.editions) == 1:
            self.connection.execute(sql.SQL("insert into {} {}").format(spec.incoming, query))
        else:
            self._add_edition(spec, query, select)

    def _create(self, spec: TableSpec, query: sql.Composed, address: str) -> None:
        self.connection.execute(sql.SQL("create temp table {} on commit drop as {}").format(spec.incoming, query))
        spec.read_types(self.connection, address)

    def _add_edition(self, spec: TableSpec, query: sql.Composed, select: Select) -> None:
        """Adds what another edition yields. It may have other columns, or other types, which are both cast to text."""
        other = TableSpec(spec.table, prefix="other")
        self._create(other, query, select.file.address)
        for column, kind in other.yielded.items():
            name = sql.Identifier(column)
            if column not in spec.yielded:
                change = sql.SQL("add column {} {}").format(name, sql.SQL(kind))
            elif spec.yielded[column] != kind:
                change = sql.SQL("alter column {} type text using {}").format(name, spec.as_text(column))
            else:
                continue
            self.connection.execute(sql.SQL("alter table {} {}").format(spec.incoming, change))
        values = (
            other.as_text(column) if spec.yielded.get(column, kind) != kind else sql.Identifier(column)
            for column, kind in other.yielded.items()
        )
        self.connection.execute(
            sql.SQL("insert into {} ({}) select {} from {}").format(
                spec.incoming, names(list(other.yielded)), sql.SQL(", ").join(values), other.incoming
            )
        )
        self.connection.execute(sql.SQL("drop table {}").format(other.incoming))
        spec.read_types(self.connection, select.file.address)

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
