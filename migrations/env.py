"""How Alembic runs: on the connection it is handed, in one transaction, comparing with the tables of every domain."""

from alembic import context

from pipelines import project
from pipelines.warehouse.declare import metadata

project.load_tables()
context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_schemas=True,
    include_name=lambda name, kind, _: kind != "schema" or name in {table.schema for table in metadata.tables.values()},
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
