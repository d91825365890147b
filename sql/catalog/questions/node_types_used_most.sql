-- Which node types do workflows use most, and in how many of them?
select
    node.type,
    count(*) as nodes,
    count(distinct w.workflow_id) as workflows
from catalog.workflows as w
cross join json_table(w.graph, '$.nodes[*]' columns (type text path '$.type')) as node
group by node.type
order by nodes desc, node.type
limit 10
