"""Runs migrations on the application's own database. Flask-Migrate gives the application's context."""

from alembic import context
from flask import current_app
from sqlalchemy import text

migrate = current_app.extensions["migrate"]
engine = migrate.db.engine

with engine.connect() as connection:
    if connection.dialect.name == "postgresql":
        # Two releases that migrate at once take turns; the second finds nothing to do.
        connection.execute(text("SELECT pg_advisory_lock(7281054)"))
        connection.commit()
    context.configure(connection=connection, target_metadata=migrate.db.metadata, **migrate.configure_args)
    with context.begin_transaction():
        context.run_migrations()
