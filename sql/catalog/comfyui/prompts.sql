-- One row per text-encoder node that has a text of its own, in a workflow graph or in one of its subgraphs.
with text_inputs (name, part, rank) as (  -- names of text inputs; the first by rank is the prompt
    values
        ('text', 'text', 1), ('prompt', 'text', 2), ('positive_prompt', 'text', 3), ('user_prompt', 'text', 4),
        ('tags', 'text', 5), ('caption', 'text', 6), ('t5xxl', 't5xxl', 7), ('llama', 'llama', 8), ('text_g', 'text_g', 9),
        ('mt5xl', 'mt5xl', 10), ('clip_g', 'clip_g', 11), ('clip_l', 'clip_l', 12), ('text_l', 'text_l', 13),
        ('bert', 'bert', 14), ('lyrics', 'lyrics', 15), ('negative_prompt', 'negative', 16)
),

positions (node_type, name, position) as (  -- of a text in the list of widget values; 0 for other node types
    values
        ('CLIPTextEncodeFlux', 'clip_l', 0), ('CLIPTextEncodeFlux', 't5xxl', 1),
        ('CLIPTextEncodeHiDream', 'clip_l', 0), ('CLIPTextEncodeHiDream', 'clip_g', 1),
        ('CLIPTextEncodeHiDream', 't5xxl', 2), ('CLIPTextEncodeHiDream', 'llama', 3),
        ('CLIPTextEncodeHunyuanDiT', 'bert', 0), ('CLIPTextEncodeHunyuanDiT', 'mt5xl', 1),
        ('CLIPTextEncodeLumina2', 'user_prompt', 1),
        ('CLIPTextEncodePixArtAlpha', 'text', 2),
        ('CLIPTextEncodeSD3', 'clip_l', 0), ('CLIPTextEncodeSD3', 'clip_g', 1), ('CLIPTextEncodeSD3', 't5xxl', 2),
        ('CLIPTextEncodeSDXL', 'text_g', 6), ('CLIPTextEncodeSDXL', 'text_l', 7),
        ('CLIPTextEncodeSDXLRefiner', 'text', 3),
        ('MiniMaxMusic3TextEncode', 'caption', 0), ('MiniMaxMusic3TextEncode', 'lyrics', 1),
        ('TextEncodeAceStepAudio', 'tags', 0), ('TextEncodeAceStepAudio', 'lyrics', 1),
        ('TextEncodeAceStepAudio1.5', 'tags', 0), ('TextEncodeAceStepAudio1.5', 'lyrics', 1),
        ('TextEncodeBooguEdit', 'prompt', 0), ('TextEncodeBooguEdit', 'negative_prompt', 1),
        ('TextEncodeFibo2', 'prompt', 0), ('TextEncodeFibo2', 'negative_prompt', 1),
        ('TextEncodeMageFlowEdit', 'prompt', 0), ('TextEncodeMageFlowEdit', 'negative_prompt', 1),
        ('TextEncodeQwenImage21', 'prompt', 0), ('TextEncodeQwenImage21', 'negative_prompt', 1),
        ('WanVideoTextEncode', 'positive_prompt', 0), ('WanVideoTextEncode', 'negative_prompt', 1)
),

graphs as (  -- the workflow, and each subgraph that it defines
    select p.source, p.record_id, p.identity, '' as subgraph_id, null as subgraph_name, p.body as graph
    from payloads as p
    union all
    select p.source, p.record_id, p.identity, s.subgraph_id, s.subgraph_name, s.graph
    from payloads as p
    cross join json_table(p.body, 'strict $.definitions.subgraphs[*]' columns (
        subgraph_id text path '$.id', subgraph_name text path '$.name', graph jsonb path '$'
    )) as s
),

nodes as (  -- UI format, then API format, in which inputs include widget values
    select
        ops.key(g.source, g.identity, g.subgraph_id, n.node_id)  as node_key,
        g.source, g.record_id, g.identity, g.subgraph_id, g.subgraph_name,
        n.node_id, n.node_type, coalesce(n.named_widgets, n.widgets) as widgets, n.inputs
    from graphs as g
    cross join json_table(g.graph, 'strict $.nodes[*]' columns (
        node_id text path '$.id', node_type text path '$.type', inputs jsonb path 'strict $.inputs',
        named_widgets jsonb path 'strict $.widgets_values_named ? (@.type() == "object")', widgets jsonb path 'strict $.widgets_values'
    )) as n
    union all
    select
        ops.key(g.source, g.identity, g.subgraph_id, n.node_id)  as node_key,
        g.source, g.record_id, g.identity, g.subgraph_id, g.subgraph_name,
        n.node_id, n.node_type, n.inputs as widgets, n.inputs
    from graphs as g
    cross join json_table(g.graph, 'strict $.keyvalue() ? (exists (@.value.class_type))' columns (
        node_id text path '$.key', node_type text path '$.value.class_type', inputs jsonb path 'strict $.value.inputs'
    )) as n
),

links as (  -- a link is an array in a workflow, an object in a subgraph
    select
        ops.key(g.source, g.identity, g.subgraph_id, coalesce(l.id, l.item_0))  as link_key,
        coalesce(l.origin_id, l.item_1)                                         as origin_id
    from graphs as g
    cross join json_table(g.graph, 'strict $.links[*]' columns (
        id text path 'strict $.id', origin_id text path 'strict $.origin_id',
        item_0 text path 'strict $[0]', item_1 text path 'strict $[1]'
    )) as l
),

wires as (  -- which node is linked to which input
    select n.node_key, i.name, ops.key(n.source, n.identity, n.subgraph_id, l.origin_id) as origin_key
    from nodes as n
    cross join json_table(n.inputs, 'strict $[*] ? (@.link != null)' columns (name text path '$.name', link_id text path '$.link')) as i
    join links as l on l.link_key = ops.key(n.source, n.identity, n.subgraph_id, i.link_id)
    union all
    select n.node_key, i.name, ops.key(n.source, n.identity, n.subgraph_id, i.origin_id)
    from nodes as n
    cross join json_table(n.inputs, 'strict $.keyvalue()' columns (name text path '$.key', origin_id text path 'strict $.value[0]')) as i
    where i.origin_id is not null
),

encoders as (  -- by node type: CLIPTextEncode…, TextEncode…, …TextEncode, but not loaders of a TextEncoder
    select n.node_key, n.node_type, n.widgets
    from nodes as n
    where n.node_type ~ '[Tt]ext[ _]?[Ee]ncode(?!r)'
),

own_texts as (
    select e.node_key, t.part, t.rank, e.widgets -> t.name as text
    from encoders as e
    join text_inputs as t on jsonb_typeof(e.widgets -> t.name) = 'string'
    union all
    select e.node_key, t.part, t.rank, e.widgets -> coalesce(o.position, 0)
    from encoders as e
    left join positions as o on o.node_type = e.node_type
    join text_inputs as t on t.name = coalesce(o.name, 'text')
    where jsonb_typeof(e.widgets) = 'array'
),

linked_texts as (  -- a linked node replaces the text of an input; the text is known only if that node holds a string
    select
        e.node_key, t.part, t.rank, o.node_id as linked_from,
        case
            when o.node_type !~ '^(Primitive(Node|String.*)|String ?Constant.*|String Literal|Text Multiline|CR Text)$' then null
            when jsonb_typeof(o.widgets) = 'array' then o.widgets -> 0
            else coalesce(o.widgets -> 'value', o.widgets -> 'string', o.widgets -> 'text')
        end as text
    from encoders as e
    join wires as w on w.node_key = e.node_key
    join text_inputs as t on t.name = w.name
    join nodes as o on o.node_key = w.origin_key
),

texts as (
    select e.node_key, e.part, e.rank, e.text #>> '{}' as text, e.linked_from
    from (
        select l.node_key, l.part, l.rank, l.text, l.linked_from
        from linked_texts as l
        union all
        select o.node_key, o.part, o.rank, o.text, null
        from own_texts as o
        where not exists (select from linked_texts as l where l.node_key = o.node_key and l.part = o.part)
    ) as e
    where jsonb_typeof(e.text) = 'string'
),

node_texts as (
    select
        t.node_key,
        array_agg(t.part order by t.rank, t.text) filter (where t.part <> 'negative')         as parts,
        array_agg(t.text order by t.rank, t.text) filter (where t.part <> 'negative')         as texts,
        array_agg(t.linked_from order by t.rank, t.text) filter (where t.part <> 'negative')  as linked_from,
        jsonb_object_agg(t.part, t.text order by t.text) filter (where t.part <> 'negative')  as by_part,
        min(t.text) filter (where t.part = 'negative')                                        as negative_text
    from texts as t
    where t.text ~ '\S'
    group by t.node_key
),

roles as (
    select w.origin_key as node_key, min(w.name) as role
    from wires as w
    where w.name in ('positive', 'negative')
    group by w.origin_key
    having count(distinct w.name) = 1
)

select
    n.node_key                        as prompt_id,
    n.record_id,
    ops.key(n.source)                 as source_id,
    ops.key(n.source, n.identity)     as workflow_id,

    t.texts[1]                        as text,
    t.negative_text,
    jsonb_strip_nulls(jsonb_build_object(
        'node_id', n.node_id,
        'node_type', n.node_type,
        'subgraph_id', nullif(n.subgraph_id, ''),
        'subgraph_name', n.subgraph_name,
        'role', r.role,
        'linked_from', t.linked_from[1],
        'other_texts', nullif(t.by_part - t.parts[1], '{}')
    ))                                as metadata
from node_texts as t
join nodes as n on n.node_key = t.node_key
left join roles as r on r.node_key = t.node_key
where t.texts is not null
