-- One row per workflow graph.
select
    ops.key(p.source, p.identity)                                                    as workflow_id,
    p.record_id,
    ops.key(p.source)                                                                as source_id,
    p.external_id,

    regexp_replace(p.external_id, '^.*/|\.(json|png#(workflow|prompt))$', '', 'gi')  as title,
    p.body                                                                           as graph,
    jsonb_array_length(
        case jsonb_typeof(p.body -> 'nodes')
            when 'array' then p.body -> 'nodes'
            else jsonb_path_query_array(p.body, 'strict $.keyvalue() ? (exists (@.value.class_type))', '{}', true)
        end
    )                                                                                as nodes_count
from payloads as p
