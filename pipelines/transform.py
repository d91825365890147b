"""SELECT files into tables: split, prune, MERGE, in one transaction under the domain's lock.

    scope ──> SELECTs ──> temporary tables ──> prune, MERGE ──> from_run, to_run, ledger
                                   └── a row does not fit? split it off first ──> quarantine

The scope is the one idea: the versions that the SELECTs see (`scope`). A normal run takes the partition's latest
versions that no transform has taken in, all of them with `full` or when a SELECT's text has changed. Misfits are rare,
so MERGE is tried straight away and rows are sorted out (`misfits`) only where it fails. Belongs here: the order of
things and the writing. Not: what a row must fit.
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
from pipelines.scope import Scope
from pipelines.source import Source
from pipelines.warehouse.engine import Connection, Warehouse
from pipelines.warehouse.shape import Shape, shared_tables

MISFIT = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.CardinalityViolation)
UNREADABLE = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


def code_version(selects: Sequence[Select]) -> str:
    """Digest of a source's SELECT files together."""
    listed = "".join(f"{select.file.address} {select.file.digest}\n" for select in selects)
    return hashlib.sha256(listed.encode()).hexdigest()[:16]


def waiting(warehouse: Warehouse, source: Source) -> list[str]:
    """The partitions that hold what no transform has taken in, or that other SELECTs were run over."""
    digests = {select.file.address: select.file.digest for select in house.selects(source.name)}
    with warehouse.connect() as connection:
        rows = connection.execute(
            """
            select partition_key from staging.versions
            where stream = any(%(streams)s) and latest and from_run is null
            union
            select o.partition_key from staging.observations o
            join staging.versions v on v.record_id = o.record_id and v.latest
            where o.stream = any(%(streams)s) and o.from_run is null
              and v.from_run is not null and v.payload_id is not null
            union
            select partition_key from (
                select distinct on (partition_key) partition_key, stats -> 'sql' as sql from ops.fetch_runs
                where stream = %(source)s and kind = 'transform' and published is not null
                order by partition_key, published desc
            ) as last
            where sql <> %(digests)s
            order by 1
            """,
            {"streams": list(source.streams.values()), "source": source.name, "digests": Jsonb(digests)},
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
        _Transform(run, source, selects).all(full)
    return run


class _Transform:
    """One run's way from scope to tables, inside one transaction."""

    def __init__(self, run: Run, source: Source, selects: Sequence[Select]) -> None:
        self.run, self.connection, self.selects = run, run.connection, selects
        self.shapes = [Shape(select.table) for select in selects]
        self.shared = shared_tables(self.shapes)
        self.scope = Scope(run, source, self.shapes)
        self.split = Split(run.connection, self.shapes)
        self.digests = {select.file.address: select.file.digest for select in selects}
        self.unreadable = 0

    def all(self, full: bool) -> None:
        records = self.scope.begin(full=full or self._sql_changed())
        counts = self._no_counts()
        if records:
            self._create_temporary()
            self._select()
            while self.scope.grow(contested=False):
                self._select()
            counts = self._brought_in()
            self._take_in()
            quarantine.keep_rows(self.run)
            self._remember_sql()
            self.run.advance(records)
            counts[self.shapes[0].name] += Counts(fetched=self.unreadable, quarantined=self.unreadable)
        total = Counts()
        for each in counts.values():
            total += each
        tables = {name: vars(each) for name, each in counts.items()}
        self.run.publish(total, {"records": records, "tables": tables, "sql": self.digests})

    def _brought_in(self) -> dict[str, Counts]:
        """Writes the rows; where they do not fit as they are, sorts them out first, with all that depends on them."""
        counts = self._no_counts()
        try:
            with self.connection.transaction():
                self._write(counts)
        except MISFIT:
            counts = self._sorted_out()
            self._write(counts)
        return counts

    def _sorted_out(self) -> dict[str, Counts]:
        """Splits off the rows that do not fit, with everything that they contest or depend on at hand.

        A row that is split off may be what others waited to see gone: then all of it is decided again with them.
        """
        while True:
            self.split.alone()
            while self.scope.grow(contested=True):
                self._select()
                self.split.alone()
            counts = self._no_counts()
            self.split.together(counts)
            if not self.scope.grow(contested=True):
                return counts
            self.scope.as_one_round()
            self._start_again()

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

    def _select(self) -> None:
        """Adds what the SELECTs yield over the scope's last round to a temporary table each."""
        for select, shape in zip(self.selects, self.shapes, strict=True):
            begin = "insert into {} {}" if shape.yielded else "create temp table {} on commit drop as {}"
            query = sql.SQL(begin).format(shape.incoming, self.scope.select(select))
            try:
                with self.connection.transaction():
                    self.connection.execute(query)
            except UNREADABLE as error:
                self._leave_out(select, error)
                self._start_again()
                return
            except psycopg.ProgrammingError as error:
                raise AtlasError(f"sql/{select.file.address}.sql cannot be run: {error}") from error
            shape.read_types(self.connection, select.file.address)
            if shape.told and "record_id" in shape.yielded:
                self.connection.execute(shape.settle())
            self.connection.execute(sql.SQL("analyze {}").format(shape.incoming))

    def _start_again(self) -> None:
        for shape in self.shapes:
            self.connection.execute(sql.SQL("drop table if exists {}").format(shape.incoming))
            shape.yielded = {}
        self.split.again()
        self._select()

    def _leave_out(self, select: Select, error: psycopg.Error) -> None:
        """Takes the records on which a SELECT fails out of the scope, into quarantine; their older rows stay."""
        probed = self.scope.select(select, sql.SQL("and version_id = any(current_setting('atlas.probe')::bigint[])"))
        probe = sql.SQL("select count(probed) from ({}) as probed").format(probed)
        suspects = [row["version_id"] for row in self.connection.execute("select version_id from bodies")]
        culprits = _bisect(self.connection, probe, suspects)
        if not culprits:
            raise AtlasError(f"sql/{select.file.address}.sql cannot be run: {error}") from error
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

    def _write(self, counts: dict[str, Counts]) -> None:
        """Prunes children before parents, merges parents before children, checks what was deferred."""
        self.connection.execute("set constraints all deferred")
        for shape in self.shapes:
            self.connection.execute(shape.distinct())
        for shape in reversed(self.shapes):
            if "record_id" in shape.yielded:
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
            ) on commit drop;
            create temp table waiting (record_id uuid, table_name text, key text, reason text) on commit drop
            """
        )
        for shape in self.shared:
            self.connection.execute(sql.SQL("create temp table {} (key uuid) on commit drop").format(shape.loose))

    def _take_in(self) -> None:
        """Moves the versions and observations of the scope into force; no landing may retire them meanwhile."""
        self.connection.execute(ledger.LOCK_TO_COMMIT, [f"land {self.run.source}"])
        for statement in TAKE_IN:
            self.connection.execute(statement, {"run": self.run.id})

    def _remember_sql(self) -> None:
        for select in self.selects:
            self.connection.execute(
                """
                insert into ops.sql (digest, path, text) select %s, %s, %s
                where not exists (select from ops.sql where digest = %s)
                """,
                [select.file.digest, f"{select.file.address}.sql", select.file.text, select.file.digest],
            )


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


TAKE_IN = (
    """
    update staging.versions v set to_run = %(run)s
    from scope s
    where v.record_id = s.record_id and v.from_run is not null and v.to_run is null and v.version_id <> s.version_id
    """,
    """
    update staging.versions v set from_run = %(run)s
    from scope s
    where v.version_id = s.version_id and v.from_run is null
    """,
    """
    update staging.observations o set from_run = %(run)s
    from seen s
    where o.observation_id = s.observation_id and o.from_run is null
    """,
    """
    delete from staging.waits w using scope s
    where w.record_id = s.record_id and not exists (
        select from waiting n
        where (n.record_id, n.table_name, n.key, n.reason) = (w.record_id, w.table_name, w.key, w.reason))
    """,
    """
    insert into staging.waits (record_id, stream, table_name, key, reason)
    select distinct n.record_id, s.stream, n.table_name, n.key, n.reason
    from waiting n join scope s using (record_id)
    where not exists (
        select from staging.waits w
        where (w.record_id, w.table_name, w.key, w.reason) = (n.record_id, n.table_name, n.key, n.reason))
    """,
)
