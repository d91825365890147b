-- A cover names the author of its book.
select c.external_id
from toy.covers as c
join toy.books as b using (book_id)
where c.author_id <> b.author_id
