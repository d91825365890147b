"""How Alembic runs: on the connection it is given, in one transaction, comparing with the tables of every domain."""

from functools import partial

from alembic import context

from pipelines import project
from pipelines.schema import autogenerate, declare

project.load_tables()
connection = context.config.attributes["connection"]
context.configure(
    connection=connection,
    target_metadata=declare.metadata,
    include_schemas=True,
    include_name=partial(autogenerate.includes, connection),
    autogenerate_plugins=["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
    compare_server_default=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
