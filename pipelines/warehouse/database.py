"""The warehouse: which server and database the settings name, and connections to it.

settings ──open_warehouse──> Warehouse (server of DATABASE_URL, or the embedded one) ──connect, engine──> connection
"""

import weakref
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row
from sqlalchemy import URL, Engine, NullPool, create_engine, event, make_url

from pipelines.errors import AtlasError
from pipelines.settings import Settings
from pipelines.warehouse import embedded

MINIMUM_VERSION = 18
DATABASE = "atlas"
OPTIONS = "-c timezone=UTC -c jit=off -c row_security=off -c atlas.engine=on"

TAKE_ON_ROLE = """
select set_config('role', rolname, false) from pg_roles where rolname = %s and pg_has_role(session_user, oid, 'set')
"""

Connection = psycopg.Connection[dict[str, Any]]


@dataclass(frozen=True)
class Warehouse:
    """A warehouse database. Dagster's database is on the same server, named <database>_dagster.

    role: that its sessions take on, where the user may.
    """

    url: URL
    echo: bool = False
    role: str | None = None
    _idle: dict[str, list[Connection]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        weakref.finalize(self, _end, self._idle)  # unlike __del__, before its sessions are deleted in a cycle with it

    @property
    def database(self) -> str:
        return str(self.url.database)

    @property
    def dagster_url(self) -> URL:
        """Address of Dagster's database, which has an `alembic_version` of its own; Dagster's driver is psycopg2."""
        return self.url.set(drivername="postgresql+psycopg2", database=f"{self.database}_dagster")

    @property
    def conninfo(self) -> str:
        return self.url.set(drivername="postgresql").render_as_string(hide_password=False)

    @contextmanager
    def connect(self, database: str | None = None) -> Iterator[Connection]:
        """A connection in autocommit mode, with rows as dicts. Raises AtlasError where it fails.

        Its session is kept for the next block: the server has read the catalogs then, and a small run takes half as
        long. What a block leaves in it (locks, settings, temporary tables) is discarded; after an error it is closed.
        """
        name = database or self.database
        connection = self._idle_session(name) or self._new_session(name)
        keep = False
        try:
            if self.role and not database:
                connection.execute(TAKE_ON_ROLE, [self.role])
            yield connection
            with suppress(psycopg.Error):
                connection.execute("discard all")
                keep = True
        finally:
            if keep:
                self._idle.setdefault(name, []).append(connection)
            else:
                connection.close()

    def _idle_session(self, database: str) -> Connection | None:
        """A session that is kept, if the server has not ended it."""
        with suppress(KeyError, IndexError, psycopg.Error):
            connection = self._idle[database].pop()
            connection.execute("")
            return connection
        return None

    def _new_session(self, database: str) -> Connection:
        try:
            return psycopg.connect(
                self.conninfo,
                dbname=database,
                autocommit=True,
                row_factory=dict_row,
                application_name="atlas",
                options=OPTIONS,
                connect_timeout=10,
                prepare_threshold=None,  # DISCARD ALL removes prepared statements
            )
        except psycopg.OperationalError as error:
            raise AtlasError(_unreachable(self.url, error)) from None

    def as_role(self, role: str) -> "Warehouse":
        """The same warehouse, with sessions that take on a role where the user may: a superuser passes every policy."""
        return Warehouse(self.url, self.echo, role)

    def close(self) -> None:
        """Ends the sessions that are kept."""
        _end(self._idle)

    @cached_property
    def engine(self) -> Engine:
        url = self.url.set(drivername="postgresql+psycopg")
        engine = create_engine(url, echo=self.echo, poolclass=NullPool, connect_args={"options": OPTIONS})
        if self.role:
            event.listen(engine, "connect", self._take_on_role)
        return engine

    def _take_on_role(self, connection: psycopg.Connection[Any], _: object) -> None:
        connection.execute(TAKE_ON_ROLE, [self.role])
        connection.commit()

    def databases(self) -> set[str]:
        with self.connect("postgres") as connection:
            return {row["datname"] for row in connection.execute("select datname from pg_database")}

    def create_database(self, name: str) -> None:
        """Creates a database unless it exists."""
        if name not in self.databases():
            faster = psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation
            with self.connect("postgres") as connection, suppress(*faster):
                connection.execute(sql.SQL("create database {}").format(sql.Identifier(name)))

    def drop_database(self, name: str) -> None:
        with self.connect("postgres") as connection:
            connection.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))


def _end(sessions: dict[str, list[Connection]]) -> None:
    while sessions:
        for connection in sessions.popitem()[1]:
            connection.close()


def _unreachable(url: URL, error: psycopg.OperationalError) -> str:
    reason = str(error).strip().splitlines()[0].removeprefix("connection failed: ")
    if "does not exist" in reason and "database" in reason:
        return f"The database {url.database!r} does not exist yet. Create it with: atlas db ensure"
    where = f"{url.host}:{url.port or 5432}" if url.host else url.query.get("host") or "localhost"
    return (
        f"Cannot connect to PostgreSQL at {where}: {reason}. "
        "Check DATABASE_URL and that the server runs, or unset DATABASE_URL to use the embedded server."
    )


def _parsed(text: str) -> URL:
    if text.split("?")[0].count("@") > 1:
        raise AtlasError(
            "The user or password in DATABASE_URL contains an @. Write it as %40: an @ ends the password in a URL.",
            usage=True,
        )
    try:
        conninfo_to_dict(text)
        url = make_url(text)
    except Exception:
        raise AtlasError(
            "DATABASE_URL is not a PostgreSQL URL. It should look like postgresql://user@host:5432/atlas.", usage=True
        ) from None
    return url.set(drivername="postgresql", database=url.database or DATABASE)


@contextmanager
def open_warehouse(settings: Settings) -> Iterator[Warehouse]:
    """The warehouse that the settings name; the embedded server is in use until the block ends.

    Raises AtlasError where DATABASE_URL is malformed, or its server cannot be reached or is too old.
    """
    if settings.database_url:
        with closing(Warehouse(_parsed(settings.database_url), settings.sql_echo)) as warehouse:
            with warehouse.connect("postgres") as connection:
                version = connection.info.server_version // 10000
            if version < MINIMUM_VERSION:
                raise AtlasError(
                    f"The server of DATABASE_URL is PostgreSQL {version}; the warehouse needs {MINIMUM_VERSION} or "
                    "newer. Set DATABASE_URL to a newer server, or unset it to use the embedded one."
                )
            yield warehouse
    else:
        with (
            embedded.running(settings.home) as url,
            closing(Warehouse(make_url(url).set(database=DATABASE), settings.sql_echo)) as warehouse,
        ):
            yield warehouse
