-- One row per book of an author.
select
    ops.key(p.source, b.external_id)    as book_id,
    p.record_id,
    ops.key(p.source, p.external_id)    as author_id,
    b.external_id,
    b.title,
    b.published_at,
    b.body - array['id', 'title', 'published', 'copies', 'covers'] as metadata
from authors as p
cross join json_table(p.body, '$.books[*] ? (@ != null)' columns (
    external_id     text path '$.id',
    title           text path '$.title',
    published_at    text path '$.published',
    body            jsonb path '$'
)) as b
