"""Runs migrations on the connection that ``nbgen.store.database`` opened."""

from __future__ import annotations

from alembic import context

from nbgen.store.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata
)
context.run_migrations()
