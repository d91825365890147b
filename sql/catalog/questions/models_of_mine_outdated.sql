-- Which models on the local Ollama server are not what the public library has now?
select
    m.name as model,
    mine.external_id as version,
    left(mine.metadata ->> 'digest', 12) as installed,
    public.metadata ->> 'modelHash' as in_the_library
from catalog.model_versions as mine
join catalog.model_versions as public using (model_id, external_id)
join marts.models as m using (model_id)
where mine.metadata ? 'digest'
  and public.metadata ? 'modelHash'
  and left(mine.metadata ->> 'digest', 12) <> public.metadata ->> 'modelHash'
order by m.name, mine.external_id
