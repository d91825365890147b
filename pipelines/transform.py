"""SELECT files into tables: split, prune, MERGE, in one transaction under the domain's lock.

    scope ──> SELECTs ──> temporary tables ──> prune, MERGE ──> from_run, to_run, ledger
                                   └── a row does not fit? split it off first ──> quarantine

The scope is the one idea: the versions that the SELECTs see. A normal run takes the partition's latest versions that
no transform has taken in, all of them with `full` or when a SELECT's text has changed. Misfits are rare, so MERGE is
tried straight away and rows are sorted out (`misfits`) only where it fails. Belongs here: the order of things and the
writing. Not: what a row must fit.
"""

import hashlib
from collections.abc import Callable, Sequence

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from pipelines import house, ledger, quarantine
from pipelines.errors import AtlasError
from pipelines.house import Select
from pipelines.ledger import Counts, Run
from pipelines.misfits import Split
from pipelines.source import Source
from pipelines.warehouse.engine import Connection, Warehouse
from pipelines.warehouse.shape import Shape, shared_tables

MISFIT = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.CardinalityViolation)
EVERYWHERE = sql.SQL("")
UNREADABLE = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


def code_version(selects: Sequence[Select]) -> str:
    """Digest of a source's SELECT files together."""
    listed = "".join(f"{select.file.address} {select.file.digest}\n" for select in selects)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def waiting(warehouse: Warehouse, source: Source) -> list[str]:
    """The partitions that hold versions no transform has taken in, or that other SELECTs were run over."""
    digests = {select.file.address: select.file.digest for select in house.selects(source.name)}
    with warehouse.connect() as connection:
        rows = connection.execute(
            """
            select partition_key from staging.versions
            where stream = %(stream)s and latest and from_run is null
            union
            select partition_key from (
                select distinct on (partition_key) partition_key, stats -> 'sql' as sql from ops.fetch_runs
                where stream = %(stream)s and kind = 'transform' and published is not null
                order by partition_key, published desc
            ) as last
            where sql <> %(digests)s
            order by 1
            """,
            {"stream": source.name, "digests": Jsonb(digests)},
        )
        return [row["partition_key"] for row in rows]


def transform(
    warehouse: Warehouse,
    source: Source,
    partition: str,
    *,
    full: bool = False,
    dagster_run_id: str | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Brings a source's partition from staging into its tables; the closed run."""
    selects = house.selects(source.name)
    with (
        ledger.opened(
            warehouse,
            source,
            "transform",
            partition,
            code_version=code_version(selects),
            dagster_run_id=dagster_run_id,
            notify=notify,
        ) as run,
        run.connection.transaction(),
    ):
        run.connection.execute(ledger.LOCK_TO_COMMIT, [f"transform {source.domain}"])
        _Transform(run, selects).all(full)
    return run


class _Transform:
    """One run's way from scope to tables, inside one transaction."""

    def __init__(self, run: Run, selects: Sequence[Select]) -> None:
        self.run, self.connection, self.selects = run, run.connection, selects
        self.shapes = [Shape(select.table) for select in selects]
        self.shared = shared_tables(self.shapes)
        self.digests = {select.file.address: select.file.digest for select in selects}

    def all(self, full: bool) -> None:
        records = self._scope(full or self._sql_changed())
        counts = self._no_counts()
        if records:
            self._create_temporary()
            unreadable = self._select()
            try:
                with self.connection.transaction():
                    self._write(counts)
            except MISFIT:
                counts = self._no_counts()
                Split(self.connection, self.shapes).all(counts)
                self._write(counts)
            self._take_in()
            quarantine.keep_rows(self.run)
            self._remember_sql()
            self.run.advance(records)
            counts[self.shapes[0].name] += Counts(fetched=unreadable, quarantined=unreadable)
        total = Counts()
        for each in counts.values():
            total += each
        tables = {name: vars(each) for name, each in counts.items()}
        self.run.publish(total, {"records": records, "tables": tables, "sql": self.digests})

    def _no_counts(self) -> dict[str, Counts]:
        return {shape.name: Counts() for shape in (*self.shapes, *self.shared)}

    def _sql_changed(self) -> bool:
        last = self.connection.execute(
            """
            select stats -> 'sql' as sql from ops.fetch_runs
            where stream = %s and kind = 'transform' and partition_key = %s and published is not null
            order by published desc limit 1
            """,
            [self.run.source, self.run.partition],
        ).fetchone()
        return last is not None and last["sql"] != self.digests

    def _scope(self, full: bool) -> int:
        """Creates `scope`, the versions to take in; how many."""
        self.connection.execute(
            """
            create temp table scope on commit drop as
            select version_id, record_id, external_id, payload_id
            from staging.versions
            where stream = %s and partition_key = %s and latest and (%s or from_run is null)
            """,
            [self.run.source, self.run.partition, full],
        )
        self.connection.execute("analyze scope")
        row = self.connection.execute("select count(*) as number from scope").fetchone()
        return int(row["number"]) if row else 0

    def _select(self) -> int:
        """Fills a temporary table from each SELECT; how many records were left out, since a SELECT fails on them."""
        for select, shape in zip(self.selects, self.shapes, strict=True):
            query = sql.SQL("create temp table {} on commit drop as {}").format(shape.incoming, _over_scope(select))
            try:
                with self.connection.transaction():
                    self.connection.execute(query)
            except UNREADABLE as error:
                left_out = self._leave_out(select, error)
                return left_out + self._start_again()
            except psycopg.ProgrammingError as error:
                raise AtlasError(f"sql/{select.file.address}.sql cannot be run: {error}") from error
            shape.read_types(self.connection)
            self.connection.execute(sql.SQL("analyze {}").format(shape.incoming))
        return 0

    def _start_again(self) -> int:
        for shape in self.shapes:
            self.connection.execute(sql.SQL("drop table if exists {}").format(shape.incoming))
        return self._select()

    def _leave_out(self, select: Select, error: psycopg.Error) -> int:
        """Takes the records on which a SELECT fails out of the scope, into quarantine; their older rows stay."""
        probe = sql.SQL("select count(probed) from ({}) as probed").format(
            _over_scope(select, sql.SQL("where version_id = any(current_setting('atlas.probe')::bigint[])"))
        )
        suspects = [row["version_id"] for row in self.connection.execute("select version_id from scope")]
        culprits = _bisect(self.connection, probe, suspects)
        if not culprits:
            raise AtlasError(f"sql/{select.file.address}.sql cannot be run: {error}") from error
        for version_id, words in culprits.items():
            self.connection.execute(
                """
                with left_out as (delete from scope where version_id = %s returning *)
                insert into misfits (table_name, record_id, row_key, reason, detail)
                select %s, record_id, external_id, 'select_fails', %s from left_out
                """,
                [version_id, select.table.fullname, words],
            )
        return len(culprits)

    def _write(self, counts: dict[str, Counts]) -> None:
        """Prunes children before parents, merges parents before children, checks what was deferred."""
        self.connection.execute("set constraints all deferred")
        for shape in self.shapes:
            self.connection.execute(shape.distinct())
        for shape in reversed(self.shapes):
            if shape.owned:
                counts[shape.name].deleted += self._count(shape.prune())
        for shape in self.shapes:
            merged = self.connection.execute(shape.merge()).fetchone()
            assert merged is not None
            each = counts[shape.name]
            each.created, each.updated = merged["created"], merged["updated"]
            each.fetched = merged["yielded"] + each.quarantined + each.duplicates
            each.unchanged = merged["yielded"] - each.created - each.updated
        for shape in self.shared:
            counts[shape.name].deleted += self._count(shape.sweep())
        self.connection.execute("set constraints all immediate")

    def _count(self, statement: sql.Composed) -> int:
        return int(self.connection.execute(statement).rowcount)

    def _create_temporary(self) -> None:
        self.connection.execute(
            """
            create temp table misfits (
                table_name text, record_id uuid, row_key text, reason text, constraint_name text, detail text, row jsonb
            ) on commit drop
            """
        )
        for shape in self.shared:
            self.connection.execute(sql.SQL("create temp table {} (key uuid) on commit drop").format(shape.loose))

    def _take_in(self) -> None:
        """Moves the versions of the scope into force; no landing may retire them meanwhile."""
        self.connection.execute(ledger.LOCK_TO_COMMIT, [f"land {self.run.source}"])
        self.connection.execute(
            """
            update staging.versions v set to_run = %s
            from scope s
            where v.record_id = s.record_id and v.from_run is not null and v.to_run is null
              and v.version_id <> s.version_id
            """,
            [self.run.id],
        )
        self.connection.execute(
            """
            update staging.versions v set from_run = %s
            from scope s
            where v.version_id = s.version_id and v.from_run is null
            """,
            [self.run.id],
        )

    def _remember_sql(self) -> None:
        for select in self.selects:
            self.connection.execute(
                """
                insert into ops.sql (digest, path, text) select %s, %s, %s
                where not exists (select from ops.sql where digest = %s)
                """,
                [select.file.digest, f"{select.file.address}.sql", select.file.text, select.file.digest],
            )


def _over_scope(select: Select, where: sql.SQL = EVERYWHERE) -> sql.Composed:
    """The SELECT of a file over `payloads`, which holds the bodies of the scope."""
    return sql.SQL(
        """
        with payloads as not materialized (
            select v.stream as source, v.record_id, v.external_id, v.version_at, b.body
            from scope join staging.versions v using (version_id) join staging.payloads b on b.payload_id = v.payload_id
            {} offset 0 -- a fence: what the SELECT asks of a body is asked of the scope's alone
        )
        select * from (
        {}
        ) as selected"""
    ).format(where, sql.SQL(select.file.text))


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
