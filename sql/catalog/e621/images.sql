-- One row per post; a post whose file is hidden or deleted has no url.
select
    ops.key(p.source, p.external_id)                    as image_id,
    p.record_id,
    ops.key(p.source)                                   as source_id,
    p.external_id,
    lower(i.md5)                                        as md5,
    i.preview_url,
    i.url,
    i.width,
    i.height,
    case i.rating
        when 's' then 'Safe'
        when 'q' then 'Questionable'
        when 'e' then 'Explicit'
        else 'Unknown'
    end                                                 as rating,
    case
        when jsonb_typeof(p.body -> 'file') = 'object' and jsonb_typeof(p.body -> 'preview') = 'object'
            then (p.body - array['id', t.key])
                #- '{file,md5}' #- '{file,url}' #- '{file,width}' #- '{file,height}' #- '{preview,url}'
        when jsonb_typeof(p.body) = 'object' then p.body - array['id', t.key]
        else p.body
    end                                                 as metadata
from posts as p
cross join json_table(p.body, '$' columns (
    md5             text path '$.file.md5',
    preview_url     text path '$.preview.url',
    url             text path '$.file.url',
    width           text path '$.file.width',
    height          text path '$.file.height',
    rating          text path '$.rating'
)) as i
-- A list stays in metadata if one of its elements gets no row: a tag that is not a string, is blank, or occurs twice.
cross join lateral (
    select
        case
            when jsonb_typeof(p.body -> 'tags') = 'object'
                and count(*) = count(distinct nullif(ops.tag_name(n.spelling), ''))
                then 'tags'
        end as key
    from json_table(p.body, '$.tags.*[*]' columns (spelling text path '$')) as n
) as t
