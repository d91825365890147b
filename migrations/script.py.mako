<%!
def body(text):
    """The operations without Alembic's own comments."""
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("# ###")).strip() or "pass"
%>\
${repr(message)}

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade() -> None:
    ${body(upgrades or "")}


def downgrade() -> None:
    ${body(downgrades or "")}
