-- One row per author.
select
    ops.key(p.source, p.external_id)    as author_id,
    p.record_id,
    ops.key(p.source)                   as source_id,
    p.external_id,
    p.external_id                       as name,
    'Other'                             as genre,
    p.body - 'topics'                   as raw
from payloads as p
