-- One row per model and time at which its counters changed.
select
    ops.key(o.source, o.external_id)                    as model_id,
    o.observed_at,
    o.record_id,
    s.downloads,
    coalesce(s.thumbs_up, s.favorites)                  as likes,
    s.rating,
    case
        when jsonb_typeof(s.stats) = 'object' then s.stats - array[
            'downloadCount',
            case when s.thumbs_up is not null then 'thumbsUpCount' else 'favoriteCount' end,
            'rating'
        ]
        else s.stats
    end                                                 as metadata
from models_observations as o
cross join json_table(o.body, '$' columns (
    stats           jsonb path '$.stats',
    downloads       text path '$.stats.downloadCount',
    thumbs_up       text path '$.stats.thumbsUpCount',
    favorites       text path '$.stats.favoriteCount',
    rating          text path '$.stats.rating'
)) as s
