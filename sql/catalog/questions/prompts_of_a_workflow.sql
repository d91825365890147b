-- What does the workflow with the most prompts ask for?
with richest as (
    select workflow_id
    from catalog.prompts
    where workflow_id is not null
    group by workflow_id
    order by count(*) desc, workflow_id
    limit 1
)
select
    w.title as workflow,
    p.metadata ->> 'node_type' as node_type,
    p.metadata ->> 'role' as role,
    p.text as prompt
from richest
join catalog.workflows as w using (workflow_id)
join catalog.prompts as p using (workflow_id)
order by p.metadata ->> 'node_id', p.prompt_id
