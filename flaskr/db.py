"""The database: the session, the tables' base, and the database's own clock."""

import select
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg2.extensions
from flask_migrate import Migrate
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import DateTime, Dialect, Engine, MetaData, event, literal
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.pool import Pool
from sqlalchemy.sql.expression import FunctionElement
from sqlalchemy.types import TypeDecorator


class Base(DeclarativeBase):
    """The base of every table. Constraints are named, so that migrations can change them on every database."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )


# Objects stay readable after a commit: each domain call ends its transaction, and gives its connection back with it.
db = SQLAlchemy(model_class=Base, session_options={"expire_on_commit": False})
migrate = Migrate(db=db, directory=str(Path(__file__).parent / "migrations"), render_as_batch=True)


class Moment(TypeDecorator[datetime]):
    """A point in time with its offset, always UTC, on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None or dialect.name != "sqlite":
            return value
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class from_now(FunctionElement[datetime]):  # noqa: N801 - reads as SQL's own functions do
    """The database's clock plus some seconds, as an SQL expression.

    One clock for all: a lease must not end early because one instance's clock is wrong.
    """

    type = Moment()
    inherit_cache = True

    def __init__(self, seconds: float = 0) -> None:
        super().__init__(literal(float(seconds)))


@compiles(from_now, "postgresql")
def _on_postgresql(element: Any, compiler: Any, **kw: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **kw)}))"


@compiles(from_now, "sqlite")
def _on_sqlite(element: Any, compiler: Any, **kw: Any) -> str:
    # As SQLAlchemy writes its own: six digits after the second, so that moments compare as text.
    return f"strftime('%Y-%m-%d %H:%M:%f000', 'now', {compiler.process(element.clauses, **kw)} || ' seconds')"


@event.listens_for(Engine, "connect")
def _prepare_sqlite(connection: Any, _record: Any) -> None:
    if not isinstance(connection, sqlite3.Connection):
        return
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")  # readers and the one writer do not wait for each other
    cursor.execute("PRAGMA synchronous = FULL")  # an upload that was answered 200 survives a power cut
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.execute("PRAGMA busy_timeout = 30000")
    cursor.close()


@event.listens_for(Pool, "checkout")
def _refuse_dead(connection: Any, _record: Any, _proxy: Any) -> None:
    """Pass over connections that the server has closed: a restart of PostgreSQL costs no request.

    An idle connection has nothing to say, so one that can be read from is at its end. To look costs a microsecond,
    where SQLAlchemy's own `pool_pre_ping` asks the server, at each transaction.
    """
    if isinstance(connection, psycopg2.extensions.connection):
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        if poll.poll(0):
            raise InvalidatePoolError("The server has closed the connection.")
