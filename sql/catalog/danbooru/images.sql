-- One row per post; a post whose file is hidden or deleted has no md5 and no urls.
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
    -- s meant "safe" before 2022 and means "sensitive" since; posts of both times exist, so it is read as the stricter.
    case i.rating
        when 'g' then 'Safe'
        when 's' then 'Questionable'
        when 'q' then 'Questionable'
        when 'e' then 'Explicit'
        else 'Unknown'
    end                                                 as rating,
    case
        when jsonb_typeof(p.body) = 'object'
            then p.body - array['id', 'md5', 'preview_file_url', 'file_url', 'image_width', 'image_height'] - t.keys
        else p.body
    end                                                 as metadata
from posts as p
cross join json_table(p.body, '$' columns (
    md5             text path '$.md5',
    preview_url     text path '$.preview_file_url',
    url             text path '$.file_url',
    width           text path '$.image_width',
    height          text path '$.image_height',
    rating          text path '$.rating'
)) as i
-- The tag strings stay in metadata if one of their tags gets no row: a blank tag, or another spelling of a tag.
cross join lateral (
    select
        case
            when count(distinct w.spelling) = count(distinct nullif(ops.tag_name(w.spelling), ''))
                then coalesce(array_agg(distinct k.key), '{}')
            else '{}'
        end as keys
    from json_table(p.body, 'strict $.keyvalue() ? (@.key like_regex "^tag_string")' columns (
        key     text path '$.key',
        words   text path '$.value'
    )) as k
    left join string_to_table(k.words, ' ') as w (spelling) on w.spelling <> ''
    where k.words is not null
) as t
