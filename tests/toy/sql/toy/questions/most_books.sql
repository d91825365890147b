-- Which authors have most books?
select a.name as author, count(*) as books
from toy.authors as a
join toy.books as b using (author_id)
group by a.author_id
order by books desc, author
limit 10
