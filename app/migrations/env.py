"""Run by Alembic; `encore migrate` and the tests give it a connection."""

from __future__ import annotations

from alembic import context

import encore.tables  # noqa: F401 - makes the metadata complete
from encore.db import Model

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Model.metadata,
    render_as_batch=True,
    compare_type=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
