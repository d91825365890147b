"""Finds sources, SELECT files, tables and questions by their paths; nothing is registered.

    assets/<domain>/<source>.py                  a source
    sql/<domain>/<source>/<table>.sql            the SELECT that fills a table from it
    samples/<domain>/<source>/<day>.json         its recording of a day

The project is the folder in which Python finds the package `assets`: a working directory that has one comes first. This
is the only module that imports `assets`.
"""

import hashlib
import importlib
import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import takewhile
from pathlib import Path

from sqlalchemy import Table

from pipelines.errors import AtlasError
from pipelines.schema.declare import declare_schema, metadata
from pipelines.schema.objects import DECLARED, SqlObject, view
from pipelines.source import Source, Stream

ROOT = Path(str(importlib.import_module("assets").__file__)).resolve().parent.parent
ASSETS, SQL, SAMPLES = ROOT / "assets", ROOT / "sql", ROOT / "samples"


@dataclass(frozen=True)
class SqlFile:
    """A SELECT in a file."""

    path: Path
    text: str

    @classmethod
    def read(cls, path: Path) -> "SqlFile":
        return cls(path, path.read_text())

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def address(self) -> str:
        """The path below `sql/` without suffix, such as `catalog/civitai/models`."""
        return self.path.relative_to(SQL).with_suffix("").as_posix()

    @property
    def digest(self) -> str:
        """The SHA-256 of the text, comments included."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    @property
    def sentence(self) -> str:
        """The comment that the file begins with: one sentence on what it selects."""
        comment = takewhile(lambda line: line.startswith("--"), self.text.splitlines())
        return " ".join(line.removeprefix("--").strip() for line in comment)


@dataclass(frozen=True)
class Select:
    """The SELECT file that fills one table from one source."""

    file: SqlFile
    table: Table


def domains() -> list[str]:
    return sorted(path.parent.name for path in ASSETS.glob("*/__init__.py"))


@cache
def load_tables() -> None:
    """Declares the tables, functions and views of the engine, the tables of every domain, and the marts."""
    from pipelines.schema import application_rows, functions, ops_tables, staging_tables
    from pipelines.schema.faults import check_declaration

    _ = ops_tables, staging_tables  # each declares on import, as the others do
    for domain in domains():
        importlib.import_module(f"assets.{domain}.tables")
    for table in metadata.sorted_tables:
        if table.schema in domains():
            check_declaration(table)
            application_rows.declare_triggers(table)
    functions.declare_trace()
    marts = declare_schema("marts", "What analysts read: views over the domains")
    for path in sorted((SQL / "marts").glob("*.sql")):
        file = SqlFile.read(path)
        view(f"{marts}.{file.name}", file.text, file.sentence)


def objects() -> tuple[SqlObject, ...]:
    """Every function, view, trigger and policy of the warehouse, in the order of their creation."""
    load_tables()
    return tuple(DECLARED.values())


@cache
def sources() -> dict[str, Source]:
    """Every source by its name. Raises AtlasError where a connector cannot be imported or declares not one source, and
    where a table names a stream that none declares.
    """
    found: dict[str, Source] = {}
    for path in sorted(set(ASSETS.glob("*/[!_]*.py")) - set(ASSETS.glob("*/tables.py"))):
        try:
            module = importlib.import_module(f"assets.{path.parent.name}.{path.stem}")
        except Exception as error:
            raise AtlasError(
                f"{path.relative_to(ROOT)} cannot be imported: {_fault(error, path)}. Fix it and try again."
            ) from error
        declared = [value for value in vars(module).values() if isinstance(value, Source)]
        if len(declared) != 1:
            raise AtlasError(
                f"{path.relative_to(ROOT)} declares {len(declared)} sources: a connector is one generator under @source"
            )
        found[declared[0].name] = declared[0]
    load_tables()
    streams = {stream for source in found.values() for stream in source.stream_names.values()}
    for table in metadata.sorted_tables:
        if unknown := set(table.info.get("precedence", ())) - streams:
            raise AtlasError(
                f"The declaration of {table.fullname} is wrong: it names {min(unknown)} in its precedence, but no "
                f"connector declares this stream. There are: {', '.join(sorted(streams))}. "
                f"Correct assets/{table.schema}/."
            )
    return found


def _fault(error: Exception, path: Path) -> str:
    """Why a module cannot be imported, and the line."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{error.msg} in line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return f"{type(error).__name__}: {error}" + (f", from line {lines[-1]}" if lines else "")


def find_stream(name: str) -> tuple[Stream, str]:
    """The stream in whose runs payloads of a stream are fetched, and the kind of these.

    Raises AtlasError for an unknown name.
    """
    found = {
        each: (stream, kind)
        for source in sources().values()
        for stream in source.streams
        for kind, each in stream.names.items()
    }
    if name not in found:
        raise AtlasError(f"There is no stream {name!r}. There are: {', '.join(found)}.", usage=True)
    return found[name]


def sources_of(domain: str) -> list[Source]:
    """The sources of a domain."""
    return [source for source in sources().values() if source.domain == domain]


def find_streams(names: Sequence[str]) -> list[Stream]:
    """The streams that names of domains, sources and streams stand for; all of them for no name.

    Raises AtlasError for an unknown name.
    """
    every = [stream for source in sources().values() for stream in source.streams]
    chosen: dict[str, Stream] = {}
    for name in names:
        named = [each for each in every if name in (each.source.domain, each.source.name, *each.names.values())]
        if not named:
            known = ", ".join(each.name for each in every)
            raise AtlasError(f"There is no domain, source or stream {name!r}. There are: {known}.", usage=True)
        chosen |= {each.name: each for each in named}
    return list(chosen.values()) if names else every


@cache
def selects(source: str) -> tuple[Select, ...]:
    """The SELECT files of a source, referenced tables first. Raises AtlasError for a file without a table."""
    load_tables()
    domain = source.split("/")[0]
    files = {f"{domain}.{path.stem}": path for path in (SQL / source).glob("*.sql")}
    unknown = files.keys() - metadata.tables.keys()
    if unknown:
        raise AtlasError(f"{files[min(unknown)].relative_to(ROOT)} fills no table: {min(unknown)} is not declared")
    return tuple(
        Select(SqlFile.read(files[each.fullname]), each) for each in metadata.sorted_tables if each.fullname in files
    )


def streams_read(source: Source, select: Select) -> list[Stream]:
    """The streams of a source that a SELECT names after FROM, JOIN or a comma."""
    named = set(re.findall(r"(?:\b(?:from|join)|,)\s+(\w+)", select.file.text))
    return [
        stream
        for stream in source.streams
        if any(named & {kind or "payloads", f"{kind}_observations".strip("_")} for kind in stream.names)
    ]


def without_selects(source: str) -> AtlasError:
    """The message that the payloads of a source fill no table."""
    return AtlasError(
        f"{source} has no SELECT files: its payloads stay pending in staging, its rows stay as they are. "
        f"Add sql/{source}/<table>.sql, and run: atlas transform {source}"
    )


def questions() -> list[SqlFile]:
    """The questions of all domains."""
    return [SqlFile.read(path) for path in sorted(SQL.glob("*/questions/*.sql"))]
