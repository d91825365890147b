"""What a complete listing proves: a record that it does not tell, and that the source itself says is gone, is deleted.

    listing to its end ──> latest versions it did not tell ──look──> gone? a tombstone · there? it is landed

Nothing is concluded from a listing with a payload whose id could not be read, from several answers where one record
cannot be asked for by itself, or from a listing that has shrunk beyond belief. Belongs here: what is missing. Not: the
tombstones (`publishing`).
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipelines.errors import NotRecorded, Refused, SourceFault
from pipelines.ledger import Run
from pipelines.source import FullScan, Payload, Source

Look = Callable[[str, str], Payload | None]

GREATEST_LOSS = 0.2
ALWAYS_BELIEVED = 5
"""So many missing records are believed whatever share they are, as long as the listing told any."""


@dataclass
class Missing:
    """What became of the records that complete listings did not tell."""

    gone: list[tuple[int, str]] = field(default_factory=list)
    there: list[Payload] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)


def missing(
    run: Run,
    source: Source,
    full_scans: Iterable[FullScan],
    kept: set[tuple[str, str]],
    at: datetime,
    get_record: Look | None,
    *,
    shrink: bool,
) -> Missing:
    """Looks for the records that listings read to their end did not tell.

    kept: kind and id of records that were seen and could not be read. at: when the listing began. shrink: believe a
    listing that has lost more than a fifth of its records.
    """
    found = Missing()
    for each in full_scans:
        stream = source.streams[each.kind]
        unread, told, absent = _compared(run, stream, each, at)
        absent = [row for row in absent if (each.kind, row["external_id"]) not in kept]
        if not absent:
            continue
        if unread:
            found.notes["not deleted: payloads without a readable id"] = len(absent)
        elif each.responses > 1 and get_record is None:
            found.notes["not deleted: told in several answers, and none can be looked at by itself"] = len(absent)
        elif not shrink and _unbelievable(told, len(absent)):
            raise SourceFault(
                f"{stream} tells {told} records, and {len(absent)} of those it had are missing: more than a fifth. "
                "Nothing of this run is published. If they are gone indeed, run it again with --shrink."
            )
        else:
            _look(found, each.kind, absent, get_record)
    return found


def _unbelievable(told: int, absent: int) -> bool:
    return not told or absent > max(ALWAYS_BELIEVED, GREATEST_LOSS * (told + absent))


def _compared(run: Run, stream: str, full_scans: FullScan, at: datetime) -> tuple[int, int, list[dict[str, Any]]]:
    """Payloads without a readable id, records told, and the records that were there before and are not told.

    The last two of the ids that the listing is of, in the order of numbers, which no other stream's ids need be.
    """
    above, below = ("" if each is None else str(each) for each in full_scans.id_range)
    parameters = {"run": run.id, "stream": stream, "at": at, "above": above, "below": below}
    row = run.connection.execute(
        """
        select
            (select count(*) from staging.rejects
             where fetch_run_id = %(run)s and stream = %(stream)s and external_id is null) as unread,
            (select count(distinct external_id) from staging.arrivals
             where fetch_run_id = %(run)s and stream = %(stream)s
               and (%(above)s = ''
                    or (length(external_id), external_id collate "C") > (length(%(above)s), %(above)s))
               and (%(below)s = ''
                    or (length(external_id), external_id collate "C") < (length(%(below)s), %(below)s))) as told
        """,
        parameters,
    ).fetchone()
    assert row is not None
    absent = run.connection.execute(
        """
        select v.version_id, v.external_id, v.request
        from staging.versions v
        where v.stream = %(stream)s and v.latest and v.digest is not null and v.fetched_at < %(at)s
          and (v.version_at < %(at)s or v.version_at > now()) -- else it was seen again since
          and (%(above)s = '' or (length(v.external_id), v.external_id collate "C") > (length(%(above)s), %(above)s))
          and (%(below)s = '' or (length(v.external_id), v.external_id collate "C") < (length(%(below)s), %(below)s))
          and not exists (
              select from staging.arrivals a
              where a.fetch_run_id = %(run)s and a.stream = v.stream and a.external_id = v.external_id)
          and not exists (
              select from staging.rejects r
              where r.fetch_run_id = %(run)s and r.stream = v.stream and r.external_id = v.external_id)
        order by v.external_id
        """,
        parameters,
    ).fetchall()
    return row["unread"], row["told"], absent


def _look(found: Missing, kind: str, absent: list[dict[str, Any]], get_record: Look | None) -> None:
    for row in absent:
        try:
            payload = get_record(kind, row["external_id"]) if get_record else None
        except (NotRecorded, Refused) as error:
            who = "the recording does not say" if isinstance(error, NotRecorded) else "the source refuses to say"
            name = f"not deleted: {who} what became of them"
            found.notes[name] = found.notes.get(name, 0) + 1
            continue
        if payload is None:
            found.gone.append((row["version_id"], f"not told by a complete listing; {row['request']}"))
        else:
            found.there.append(payload)
    if found.there:
        found.notes["left out by a listing, asked for by id"] = len(found.there)
