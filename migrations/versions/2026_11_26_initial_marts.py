"""Initial migration of the schema `marts`."""

from alembic import op

revision = "2026_11_26_initial_marts"
down_revision = "2026_11_26_initial_staging"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("create schema marts")
    op.execute("comment on schema marts is 'What analysts read: views over the domains'")


def downgrade() -> None:
    op.execute("drop schema marts")
