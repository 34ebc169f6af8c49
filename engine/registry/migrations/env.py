"""Alembic's entry: runs the migrations on the connection that `schema.upgrade` hands over."""

from alembic import context

import engine.registry.store  # noqa: F401 - every table
from engine.registry.rows import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    # SQLite alters a table by copying it.
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
