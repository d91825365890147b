"""What the tests of I7 share: payloads to load, what must be the same after a crash, and what must not be left.

Belongs here: data and assertions. Not here: how a process is killed (`pipelines.failpoints`), the tests.
"""

import hashlib
import json
import time
from functools import cache
from typing import Any

from psycopg import sql

from pipelines import project
from pipelines.lineage.shadow_schema import TEMPORARY_PREFIX
from pipelines.transform import table_digests
from pipelines.warehouse.database import Warehouse
from pipelines.warehouse.declare import audit_columns, metadata
from pipelines.warehouse.table_spec import TableSpec

EARLIER, DAY, LATER = "2026-11-04", "2026-11-05", "2026-11-06"
PATIENCE_S = 60

project.load_tables()

Contents = dict[str, str]


def a_model(number: int, *, edition: int = 0, downloads: int = 10, **more: Any) -> bytes:
    """One model in CivitAI's shape: two images, and files and tags that differ in another edition."""
    images = [{"id": number * 10 + each, "url": f"https://i/{number}/{each}.png"} for each in range(2)]
    images[0] |= {"meta": {"prompt": f"a lighthouse, number {number}", "seed": edition}}
    file = {"id": number, "name": f"{number}.safetensors", "type": "Model", "sizeKB": 10.5 + edition, "hashes": {}}
    body = {
        "id": number,
        "name": f"Lighthouse {number}" + " again" * edition,
        "type": "LORA",
        "nsfw": False,
        "tags": ["lighthouse", f"edition {edition} of {number % 4}"],
        "stats": {"downloadCount": downloads},
        "modelVersions": [
            {"id": number, "name": "v1", "files": [file] * (number % 3 > edition), "images": images[edition:]}
        ],
    }
    return json.dumps(body | more).encode()


FIRST = [a_model(number) for number in range(30)]
AFTER = [a_model(number) for number in range(5)]
NEWS = [
    *(a_model(number, downloads=20) for number in range(5)),  # as they landed for LATER
    *(a_model(number, edition=1) for number in range(5, 12)),
    *(a_model(number, downloads=30) for number in range(12, 18)),
    *(a_model(number) for number in range(18, 22)),
    *(a_model(number) for number in range(30, 45)),
    a_model(31),
    a_model(32, edition=1),
    a_model(46, description="one\0two"),
    b'{"id": 90, "name": 7, "type": "LORA"}',
    b'{"id": 91, "name": "Cut sh',
]
HALF = {"id": 51, "name": "half", "type": "Model", "hashes": {"SHA256": "abc"}}
UNFIT = [
    *(a_model(number, edition=1) for number in range(5, 9)),
    a_model(50, modelVersions=[{"id": 5, "name": "of another", "files": [], "images": []}]),
    a_model(51, modelVersions=[{"id": 51, "name": "v1", "files": [HALF], "images": []}]),
]


def settled(warehouse: Warehouse) -> Warehouse:
    """The warehouse, once the server has ended the sessions of killed clients."""
    others = """
        select from pg_stat_activity
        where datname = current_database() and backend_type = 'client backend' and pid <> pg_backend_pid()
    """
    deadline = time.monotonic() + PATIENCE_S
    with warehouse.connect() as connection:
        while connection.execute(others).rowcount:
            assert time.monotonic() < deadline, "the session of a dead process stays"
            time.sleep(0.01)
    return warehouse


@cache
def queries() -> dict[str, sql.Composable]:
    """What must be the same: the tables of the domain without audit columns, and staging without ids and times."""
    of_staging = {
        "versions": """
            v.stream, v.external_id, v.digest, v.partition_key, v.latest, v.valid_from_run is null,
            v.valid_to_run is null, v.applied_sql, v.renamed_from, p.digest = v.digest, p.body, p.original
            from staging.versions v left join staging.payloads p using (payload_id)
        """,
        "observations": """
            stream, record_id, digest, counters, paths, partition_key, late, valid_from_run is null
            from staging.observations
        """,
        "quarantine": """
            stage, stream, partition_key, external_id, reason, path, table_name, row_key, constraint_name, bytes, row,
            closed_at is null
            from staging.quarantine
        """,
        "pending_rows": "record_id, table_name, key, reason from staging.pending_rows",
        "erasures": "stream, record_id, digest, lifted_at is null from staging.erasures",
        "drift": "stream, path, type, missed from ops.schema_drift",
        "sql": "digest, path from ops.sql",
        "arrivals": "stream from staging.arrivals",
        "rejects": "stream from staging.rejects",
        "checkpoints": "fetch_run_id from staging.checkpoints",
    }
    made: dict[str, sql.Composable] = {
        name: sql.SQL("select t::text from (select {}) as t order by 1").format(sql.SQL(query))
        for name, query in of_staging.items()
    }
    for table in metadata.sorted_tables:
        if table.schema == "catalog":
            columns = [sql.Identifier(each.name) for each in table.columns if each.name not in audit_columns(table)]
            made[table.fullname] = sql.SQL("select t::text from (select {} from {}) as t order by 1").format(
                sql.SQL(", ").join(columns), sql.Identifier("catalog", table.name)
            )
    return made


def contents(warehouse: Warehouse) -> Contents:
    """A digest for each query."""
    digests = {}
    with warehouse.connect() as connection:
        for name, query in queries().items():
            digest = hashlib.sha256()
            with connection.cursor().copy(sql.SQL("copy ({}) to stdout").format(query)) as copy:
                for block in copy:
                    digest.update(block)
            digests[name] = digest.hexdigest()
    return digests


KEPT_FOR_RESUMPTION = {"arrivals", "rejects", "checkpoints"}


def shown(of: Contents) -> Contents:
    """Without what only the resumption of a landing reads."""
    return {name: digest for name, digest in of.items() if name not in KEPT_FOR_RESUMPTION}


def ledger_of(warehouse: Warehouse) -> list[dict[str, Any]]:
    with warehouse.connect() as connection:
        return connection.execute("select * from ops.fetch_runs order by fetch_run_id").fetchall()


def assert_truthful(runs: list[dict[str, Any]]) -> None:
    """Every run has ended: published with counts that add up, or failed with an error and without counts."""
    for run in runs:
        sums = ("created", "updated", "unchanged", "quarantined", "duplicates")
        assert run["fetched"] == sum(run[name] for name in sums)
        assert run["ended_at"] is not None
        if run["publish_seq"]:
            assert run["status"] in ("completed", "partial_success")
        else:
            assert (run["status"], run["fetched"], run["deleted"]) == ("failed", 0, 0)
            assert run["error_text"]


def assert_nothing_left(warehouse: Warehouse) -> None:
    """No lock, shadow schema, duplicate body or pages kept for a resumption; the digests are those of the tables."""
    with settled(warehouse).connect() as connection:
        locks = connection.execute(
            """
            select objid from pg_locks l join pg_database d on d.oid = l.database
            where l.locktype = 'advisory' and d.datname = current_database()
            """
        ).fetchall()
        assert locks == []
        schemas = connection.execute(
            "select nspname from pg_namespace where starts_with(nspname, %s)", [TEMPORARY_PREFIX]
        )
        assert schemas.fetchall() == []
        twice = connection.execute("select digest from staging.payloads group by digest having count(*) > 1")
        assert twice.fetchall() == []
        for name in ("arrivals", "rejects", "checkpoints"):
            query = sql.SQL("select from staging.{} limit 1").format(sql.Identifier(name))
            assert connection.execute(query).rowcount == 0, f"staging.{name} keeps what no landing resumes"
        for row in connection.execute("select table_name, rows, digest from ops.table_digests").fetchall():
            shape = TableSpec(metadata.tables[row["table_name"]])
            assert table_digests.count(connection, shape) == {"rows": row["rows"], "digest": row["digest"]}, shape.name
