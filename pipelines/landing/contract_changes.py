"""Which payloads in quarantine the contracts of today would let in, since a contract has changed.

Not here: to land them, which `atlas quarantine replay` does; whether jsonb can hold them (`jsonb`).
"""

from typing import Any

from pipelines import project
from pipelines.landing.validate import Arrival, Validator
from pipelines.quarantine import CHOSEN
from pipelines.source import Payload
from pipelines.warehouse.database import Connection

SELECT_REFUSED = """
select quarantine_id, stream, external_id, request, reason, path, bytes, received_at from chosen
where granularity = 'payload' and reason in ('wrong_type', 'missing_field', 'no_id') and stream = any(%(streams)s)
order by quarantine_id
"""


def let_in(connection: Connection, names: list[str] | None = None) -> list[dict[str, Any]]:
    """The entries of payloads that a contract refused and that today's one accepts. names: streams or sources."""
    validators = {
        stream: (kind, Validator(stream, source.contracts[kind], None))  # what is in quarantine is redacted
        for source in project.sources().values()
        for kind, stream in source.stream_names.items()
    }
    accepted = []
    with connection.cursor() as cursor:
        parameters = {"streams": list(validators), "names": names, "closed": False}
        for row in cursor.stream(f"{CHOSEN}{SELECT_REFUSED}", parameters):
            kind, validator = validators[row["stream"]]
            payload = Payload(bytes(row.pop("bytes")), row["request"], row["external_id"], kind=kind)
            if isinstance(validator.validate(payload, 1, row.pop("received_at")), Arrival):
                accepted.append(row)
    return accepted
