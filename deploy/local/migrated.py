"""Ends with 0 if the database at DATABASE_URL has every migration. To ask is much faster than `flask db upgrade`, which loads all."""

import os
import sys
from pathlib import Path

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, create_engine
from sqlalchemy.exc import SQLAlchemyError

PROJECT = Path(__file__).resolve().parents[2]


def is_migrated(database_url: str) -> bool:
    """Whether the database has every migration; one that does not answer has none."""
    scripts = ScriptDirectory(str(PROJECT / "flaskr" / "migrations"))
    try:
        engine = create_engine(database_url, poolclass=NullPool)
        with engine.connect() as connection:
            return set(MigrationContext.configure(connection).get_current_heads()) == set(scripts.get_heads())
    except SQLAlchemyError:
        return False


if __name__ == "__main__":
    sys.exit(not is_migrated(os.environ["DATABASE_URL"]))
