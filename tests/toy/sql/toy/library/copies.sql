-- One row per copy of a book.
select
    ops.key(p.source, c.book, c.external_id)    as copy_id,
    p.record_id,
    ops.key(p.source, c.book)                   as book_id,
    c.external_id,
    c.room,
    c.pages,
    c.sha256
from authors as p
cross join json_table(p.body, '$.books[*] ? (@ != null)' columns (
    book            text path '$.id',
    nested path '$.copies[*] ? (@ != null)' columns (
        external_id     text path '$.id',
        room            text path '$.room',
        pages           numeric path '$.pages',
        sha256          text path '$.sha256'
    )
)) as c
where c.external_id is not null
