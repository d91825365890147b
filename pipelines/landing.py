"""Payload bytes into staging: bodies batch by batch, then everything shows at once.

    items ──> digest, contract ──> anti-join ──> COPY new bodies ──> publish
                    └── bad? ────────────────────────┴──> quarantine

Bodies are committed as they come and count for nothing until `publish` names them in one short transaction under the
stream's lock, together with the ledger. A crash leaves unnamed bodies, which the next run takes up by digest. Memory
holds one batch. Belongs here: staging.payloads and staging.versions. Not: fetching, not the domain's tables.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import psycopg

from pipelines import ledger, quarantine
from pipelines.fidelity import NotJson, faithful, repair
from pipelines.ledger import Counts, Run
from pipelines.quarantine import Rejected
from pipelines.source import Contract, Item, Payload, Skipped, Source
from pipelines.warehouse.engine import Connection, Warehouse

BATCH_BYTES = 8 * 1024 * 1024
BATCH_PAYLOADS = 2_000
LONGEST_ID = 1_000

BodyRow = tuple[bytes, bytes, bytes | None, list[str] | None]
"""Digest, text for jsonb, original bytes and repairs, where the text had to be repaired."""

REFUSED = (psycopg.DataError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.StatementTooComplex)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A payload that holds to its contract. `mended` is what to store where jsonb cannot hold the body."""

    sequence: int
    external_id: str
    digest: bytes
    version_at: datetime
    fetched_at: datetime
    request: str
    body: bytes


def land(
    warehouse: Warehouse,
    source: Source,
    partition: str,
    items: Iterable[Item],
    *,
    fetched_at: datetime | None = None,
    mends: int | None = None,
    dagster_run_id: str | None = None,
    notify: Callable[[Run], None] = ledger.silent,
) -> Run:
    """Lands items of a source under a partition; the closed run.

    fetched_at: when they were received, where that is not now (a recording, a dump). mends: the quarantine entry that
    the items are mended bytes of.
    """
    with (
        ledger.opened(
            warehouse,
            source,
            "land",
            partition,
            code_version=source.code_version,
            dagster_run_id=dagster_run_id,
            notify=notify,
        ) as run,
        warehouse.connect() as bodies,
        ThreadPoolExecutor(max_workers=1) as writer,
    ):
        _Landing(source, run, fetched_at, bodies, writer).all(items, mends)
    return run


class _Landing:
    """One run's way through the batches: while one is written, the next is read and examined."""

    def __init__(
        self,
        source: Source,
        run: Run,
        fetched_at: datetime | None,
        bodies: Connection,
        writer: ThreadPoolExecutor,
    ) -> None:
        self.source, self.run, self.fetched_at = source, run, fetched_at
        self.connection, self.bodies_connection, self.writer = run.connection, bodies, writer
        self.in_flight: dict[bytes, Arrival] = {}
        self.writing: Future[list[Rejected]] | None = None
        self.decode = msgspec.json.Decoder(source.contract).decode
        self.fetched = self.bytes = self.bodies = 0
        self.refused: list[bytes] = []
        self.skipped: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.connection.execute(
            """
            create temp table arrivals (
                sequence bigint, external_id text, digest bytea,
                version_at timestamptz, fetched_at timestamptz, request text
            )
            """
        )

    def all(self, items: Iterable[Item], mends: int | None) -> None:
        for batch in _batches(self._payloads(items)):
            self._batch(batch)
        self._publish(mends)

    def _payloads(self, items: Iterable[Item]) -> Iterator[Payload]:
        for item in items:
            if isinstance(item, Skipped):
                self.skipped[item.reason] += 1
            else:
                yield item

    def _batch(self, payloads: list[Payload]) -> None:
        arrivals: list[Arrival] = []
        rejected: list[Rejected] = []
        for payload in payloads:
            self.fetched += 1
            self.bytes += len(payload.body)
            outcome = self._examine(payload)
            (arrivals if isinstance(outcome, Arrival) else rejected).append(outcome)  # type: ignore[arg-type]
        with self.connection.cursor().copy("copy arrivals from stdin") as copy:
            for each in arrivals:
                copy.write_row(
                    (each.sequence, each.external_id, each.digest, each.version_at, each.fetched_at, each.request)
                )
        rows, refused = self._prepare(self._unknown(arrivals))
        self._settle()
        self.in_flight = {each.digest: each for each in arrivals}
        self.writing = self.writer.submit(self._copy, rows)
        self._keep(rejected + refused)
        self.run.advance(len(payloads))

    def _settle(self) -> None:
        """Waits until the batch before is written."""
        if self.writing is not None:
            self._keep(self.writing.result())
            self.writing = None

    def _keep(self, rejected: list[Rejected]) -> None:
        for each in rejected:
            quarantine.keep_payload(self.run, each)

    def _examine(self, payload: Payload) -> Arrival | Rejected:
        """Reads of a payload what its contract names."""
        digest = hashlib.sha256(payload.body).digest()
        external_id = payload.external_id
        request = payload.request.encode(errors="backslashreplace").decode()

        def reject(reason: str, detail: str, path: str | None = None, byte_offset: int | None = None) -> Rejected:
            return Rejected(payload.body, digest, request, external_id, reason, detail, path, byte_offset)

        try:
            record = self._decode(payload.body)
        except NotJson as error:
            return reject(error.reason, error.detail, byte_offset=error.byte_offset)
        except msgspec.ValidationError as error:
            words, _, path = str(error).partition(" - at ")
            external_id = external_id or self._external_id(payload.body)
            return reject("contract", words, path.strip("`").replace("[...]", "[*]") or "$")
        external_id = external_id or record.external_id()
        if not external_id:
            return reject("no_id", "the payload has no id of its own", "$")
        if len(external_id) > LONGEST_ID or not _storable(external_id):
            unusable, external_id = external_id, None
            return reject("no_id", f"the id cannot be used: {unusable[:100]!a}", "$")
        now = self.fetched_at or datetime.now(UTC)
        version_at = payload.version_at or record.version_at() or now
        return Arrival(self.fetched, external_id, digest, version_at, now, request, payload.body)

    def _decode(self, body: bytes) -> Any:
        try:
            return self.decode(body)
        except msgspec.ValidationError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return self.decode(repair(body)[0])

    def _external_id(self, body: bytes) -> str | None:
        """The id of a payload that breaks its contract, where the id itself can still be read."""
        try:
            found = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            fields = {each.name: each.encode_name for each in msgspec.structs.fields(self.source.contract)}
            values = {name: msgspec.json.decode(found[key]) for name, key in fields.items() if key in found}
            readable = SimpleNamespace(**{name: value for name, value in values.items() if value is not None})
            return self.source.contract.external_id(cast(Contract, readable))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, AttributeError):
            return None

    def _unknown(self, arrivals: list[Arrival]) -> list[Arrival]:
        """The arrivals of the batch whose body is to be stored: the first of each digest that is not there yet."""
        if not arrivals:
            return []
        rows = self.connection.execute(
            """
            select distinct on (a.digest) a.sequence
            from arrivals a
            where a.sequence >= %s
              and not exists (
                  select from staging.versions v
                  where v.record_id = ops.key(%s, a.external_id) and v.latest and v.digest = a.digest)
              and not exists (select from staging.payloads p where p.digest = a.digest)
            order by a.digest, a.sequence
            """,
            [arrivals[0].sequence, self.source.name],
        )
        sequences = {row["sequence"] for row in rows}
        return [each for each in arrivals if each.sequence in sequences and each.digest not in self.in_flight]

    def _prepare(self, arrivals: list[Arrival]) -> tuple[list[BodyRow], list[Rejected]]:
        """What to store of each body, and those that no repair makes JSON."""
        rows: list[BodyRow] = []
        rejected = []
        for arrival in arrivals:
            repairs: list[str] = []
            body = arrival.body
            if not faithful(body):
                try:
                    body, repairs = repair(arrival.body)
                except NotJson as error:
                    rejected.append(self._reject(arrival, error))
                    continue
            self.repaired.update(repairs)
            if repairs:
                rows.append((arrival.digest, body, arrival.body, repairs))
            else:
                rows.append((arrival.digest, arrival.body, None, None))
        return rows, rejected

    def _copy(self, rows: list[BodyRow]) -> list[Rejected]:
        """COPYs bodies, the halves on their own where together they fail; those that jsonb refuses even so."""
        connection = self.bodies_connection
        try:
            with (
                connection.transaction(),
                connection.cursor().copy(
                    "copy staging.payloads (fetch_run_id, digest, body, original, repairs) from stdin"
                ) as copy,
            ):
                for digest, body, original, repairs in rows:
                    copy.write_row((self.run.id, digest, body.decode(), original, repairs))
        except REFUSED as error:
            if len(rows) == 1:
                reason = str(error).splitlines()[0]
                return [self._reject(self.in_flight[rows[0][0]], NotJson("jsonb_refuses", reason))]
            middle = len(rows) // 2
            return self._copy(rows[:middle]) + self._copy(rows[middle:])
        self.bodies += len(rows)
        return []

    def _reject(self, arrival: Arrival, error: NotJson) -> Rejected:
        self.refused.append(arrival.digest)
        return Rejected(
            arrival.body,
            arrival.digest,
            arrival.request,
            arrival.external_id,
            error.reason,
            error.detail,
            byte_offset=error.byte_offset,
        )

    def _publish(self, mends: int | None) -> None:
        """Names the bodies: versions, quarantine and ledger in one transaction under the stream's lock."""
        parameters = {"stream": self.source.name, "partition": self.run.partition, "run": self.run.id}
        self._settle()
        with self.connection.transaction():
            self.connection.execute("delete from arrivals where digest = any(%s)", [self.refused])
            self.connection.execute("analyze arrivals")
            self.connection.execute(ledger.LOCK_TO_COMMIT, [f"land {self.source.name}"])
            self.connection.execute(JUDGE, parameters)
            counted = self.connection.execute(
                "select verdict, count(*) as number from judged group by verdict"
            ).fetchall()
            verdicts = {row["verdict"]: row["number"] for row in counted}
            if verdicts.keys() - {"unchanged", "duplicate"}:
                self.connection.execute(RETIRE)
                self.connection.execute(NAME, parameters)
            quarantine.close_landed(self.run)
            if mends is not None and verdicts:
                quarantine.close_mended(self.run, mends)
            self.connection.execute("drop table judged")
            self.run.publish(
                Counts(
                    fetched=self.fetched,
                    created=verdicts.get("created", 0),
                    updated=verdicts.get("updated", 0),
                    unchanged=verdicts.get("unchanged", 0),
                    quarantined=self.fetched - sum(verdicts.values()),
                    duplicates=sum(verdicts.get(name, 0) for name in ("duplicate", "superseded", "late")),
                ),
                {
                    "bytes": self.bytes,
                    "bodies": self.bodies,
                    "skipped": dict(self.skipped),
                    "repaired": dict(self.repaired),
                },
            )


JUDGE = """
create temp table judged on commit drop as
with ranked as (
    select a.*, ops.key(%(stream)s, a.external_id) as record_id,
        first_value(digest) over winners as winning_digest, row_number() over winners as place
    from arrivals a
    window winners as (partition by external_id order by version_at desc, sequence desc)
)
select r.sequence, r.external_id, r.record_id, r.digest, r.version_at, r.fetched_at, r.request,
    l.version_id as latest_id,
    case
        when r.place > 1 and r.digest = r.winning_digest then 'duplicate'
        when r.place > 1 then 'superseded'
        when l.digest = r.digest then 'unchanged'
        when r.version_at < l.version_at then 'late'
        when l.digest is null then 'created'
        else 'updated'
    end as verdict
from ranked r
left join staging.versions l on l.record_id = r.record_id and l.latest
"""

RETIRE = """
update staging.versions v set latest = false
from judged j
where v.version_id = j.latest_id and j.verdict in ('created', 'updated')
"""

NAME = """
insert into staging.versions
    (stream, external_id, record_id, payload_id, digest, version_at, fetched_at, request,
     partition_key, landed_run, latest)
select %(stream)s, j.external_id, j.record_id, p.payload_id, j.digest, j.version_at, j.fetched_at, j.request,
    %(partition)s, %(run)s, j.verdict in ('created', 'updated')
from (
    select distinct on (record_id, digest) *
    from judged
    where verdict in ('created', 'updated')
       or verdict in ('superseded', 'late') and not exists (
           select from staging.versions v where v.record_id = judged.record_id and v.digest = judged.digest)
    order by record_id, digest, verdict not in ('created', 'updated'), version_at desc, sequence desc
) as j
cross join lateral (
    select (array_agg(payload_id order by payload_id))[1] as payload_id from staging.payloads where digest = j.digest
) as p
order by j.sequence
"""


def _batches(payloads: Iterable[Payload]) -> Iterator[list[Payload]]:
    batch: list[Payload] = []
    size = 0
    for payload in payloads:
        batch.append(payload)
        size += len(payload.body)
        if size >= BATCH_BYTES or len(batch) >= BATCH_PAYLOADS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _storable(text: str) -> bool:
    """Whether Postgres takes it as text: no NUL, no half of a surrogate pair."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
