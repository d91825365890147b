"""derived by: which SELECT files were run over a version last; shared rows to which none refers are no misfits

Revision: 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

COLUMNS = {
    "derived_by": "Digest of the SELECT files that its rows are by; null: none, or they failed since",
    "tried_by": "Digest of the SELECT files that were run over it last; null: none were yet",
}


def upgrade() -> None:
    for name, comment in COLUMNS.items():
        op.add_column("versions", sa.Column(name, sa.Text(), comment=comment), schema="staging")
    op.execute(
        """
        update staging.versions v set (derived_by, tried_by) = (
            select last.code, last.code from (
                select coalesce(r.stats -> 'code' ->> split_part(v.stream, '.', 1), r.code_version) as code
                from ops.fetch_runs r
                where r.fetch_run_id = any(array(
                    select v.from_run union all
                    select d.fetch_run_id from staging.derivations d where d.version_id = v.version_id))
                order by r.published desc limit 1) as last)
        where from_run is not null
        """
    )
    op.execute("alter table staging.versions set (fillfactor = 40)")
    op.execute("delete from staging.quarantine where reason = 'unreferenced'")
    op.drop_index("versions_waiting_idx", "versions", schema="staging")
    op.drop_index("versions_partition_idx", "versions", schema="staging")
    op.create_index(
        "versions_partition_idx",
        "versions",
        ["stream", "partition_key", "tried_by"],
        schema="staging",
        postgresql_where=sa.text("latest"),
    )


def downgrade() -> None:
    op.drop_index("versions_partition_idx", "versions", schema="staging")
    op.create_index(
        "versions_partition_idx",
        "versions",
        ["stream", "partition_key"],
        schema="staging",
        postgresql_where=sa.text("latest"),
    )
    op.create_index(
        "versions_waiting_idx",
        "versions",
        ["stream", "partition_key"],
        schema="staging",
        postgresql_where=sa.text("latest and from_run is null"),
    )
    op.execute("alter table staging.versions set (fillfactor = 45)")
    for name in COLUMNS:
        op.drop_column("versions", name, schema="staging")
