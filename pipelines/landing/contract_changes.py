"""Which payloads in quarantine the contracts of today would let in, since a connector has changed.

Not here: to land them, which `atlas quarantine replay` does; whether jsonb can hold them (`jsonb`).
"""

from typing import Any

from pipelines import project
from pipelines.landing.validate import Arrival, Validator
from pipelines.quarantine import CHOSEN
from pipelines.source import Payload
from pipelines.warehouse.database import Connection

NEWEST = 1_000  # so many payloads are looked at without being asked

SELECT_REFUSED = """
select q.quarantine_id, q.stream, q.external_id, q.request, q.reason, q.path, q.bytes, q.received_at
from chosen q
join ops.fetch_runs r on r.fetch_run_id = q.last_run
join unnest(%(streams)s::text[], %(code_versions)s::text[]) as s (stream, code_version) on s.stream = q.stream
where q.granularity = 'payload' and q.reason in ('wrong_type', 'missing_field', 'no_id')
  and (%(newest)s::int is null or s.code_version is distinct from r.code_version)
order by q.quarantine_id desc
limit %(newest)s
"""


def let_in(connection: Connection, names: list[str] | None = None, newest: int | None = None) -> list[dict[str, Any]]:
    """The entries of payloads that a contract refused and that today's one accepts, the newest first.

    names: streams or sources. newest: only so many are looked at, and none that the connector refused as it is today.
    """
    declared = [(kind, name, each) for each in project.sources().values() for kind, name in each.stream_names.items()]
    validators = {  # what is in quarantine is redacted
        name: (kind, Validator(name, source.contracts[kind], None)) for kind, name, source in declared
    }
    accepted = []
    with connection.cursor() as cursor:
        parameters: dict[str, Any] = {"names": names, "closed": False, "newest": newest, "streams": list(validators)}
        parameters["code_versions"] = [source.code_version for *_, source in declared]
        for row in cursor.stream(f"{CHOSEN}{SELECT_REFUSED}", parameters):
            kind, validator = validators[row["stream"]]
            payload = Payload(bytes(row.pop("bytes")), row["request"], row["external_id"], kind=kind)
            if isinstance(validator.validate(payload, 1, row.pop("received_at")), Arrival):
                accepted.append(row)
    return accepted
