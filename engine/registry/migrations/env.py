"""Alembic's entry: runs the migrations on the connection that `schema.upgrade` hands over."""

from alembic import context

from engine.registry import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.deployment.metadata,
    # SQLite alters a table by copying it.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
