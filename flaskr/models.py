"""The tables: users, their sessions, and tasks. A task's row is the record of what is to be done."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, BigInteger, Enum, ForeignKey, Index, Integer, String, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from flaskr.db import Base, Moment, from_now

# SQLite gives out rising ids only for INTEGER.
_Id = BigInteger().with_variant(Integer, "sqlite")


class State(StrEnum):
    """Where a task is. The first and the last are never shown to a client."""

    RECEIVING = "RECEIVING"  # the row is there, the original's bytes are on their way into the store
    UPLOADED = "UPLOADED"
    PROCESSING = "PROCESSING"
    PROCESSED = "PROCESSED"
    FAILED = "FAILED"
    REMOVED = "REMOVED"  # gone for its owner; the row stays until nothing can appear under its prefix any more


SHOWN = (State.UPLOADED, State.PROCESSING, State.PROCESSED, State.FAILED)
WAITING = (State.UPLOADED, State.PROCESSING)


class User(Base):
    """Somebody with an account. Name and e-mail are unique without regard to case."""

    __tablename__ = "users"

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    name: Mapped[str] = mapped_column(String(64))
    name_key: Mapped[str] = mapped_column(String(192), unique=True)
    email: Mapped[str] = mapped_column(String(254))
    email_key: Mapped[str] = mapped_column(String(762), unique=True)
    password_hash: Mapped[str] = mapped_column(String(255))
    created_at: Mapped[datetime] = mapped_column(Moment, default=from_now())


class Session(Base):
    """One log-in. Every token names its session, so that ending the session ends them all, on every instance.

    rotation counts the refresh tokens given out before the current one, and names it: only that one is good.
    """

    __tablename__ = "sessions"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    user_id: Mapped[int] = mapped_column(_Id, ForeignKey("users.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(Moment, default=from_now())
    expires_at: Mapped[datetime] = mapped_column(Moment, index=True)
    ended_at: Mapped[datetime | None] = mapped_column(Moment)
    rotation: Mapped[int] = mapped_column(Integer, default=0, server_default="0")

    user: Mapped[User] = relationship(lazy="raise")


class Task(Base):
    """A file to convert and how that went.

    attempt counts the jobs issued for the task, and fences them: only the current one may change the row.
    tries counts the attempts since the user last asked; sends counts the messages of the current attempt.
    sent_at is empty while no message of the current attempt is on the queue.
    lease_until is how long claimed_by, the worker at it, may be silent before its attempt is taken for lost.
    tidy_at is when the prefix is to be searched for objects that the row does not name.
    """

    __tablename__ = "tasks"
    __table_args__ = (
        Index("ix_tasks_user_id_id", "user_id", "id"),
        # What the sweeper looks for is a handful of rows among millions: partial indexes stay as small as that.
        Index(
            "ix_tasks_waiting", "state", "sent_at",
            postgresql_where=text("state IN ('RECEIVING', 'UPLOADED', 'PROCESSING')"),
            sqlite_where=text("state IN ('RECEIVING', 'UPLOADED', 'PROCESSING')"),
        ),
        Index("ix_tasks_started_at", "started_at"),
        Index("ix_tasks_finished_at", "finished_at"),
        Index("ix_tasks_tidy_at", "tidy_at", postgresql_where=text("tidy_at IS NOT NULL"),
              sqlite_where=text("tidy_at IS NOT NULL")),
        {"sqlite_autoincrement": True},  # an id is never given out twice: prefixes and job tokens name it
    )  # fmt: skip

    id: Mapped[int] = mapped_column(_Id, primary_key=True)
    user_id: Mapped[int] = mapped_column(_Id, ForeignKey("users.id"))
    created_at: Mapped[datetime] = mapped_column(Moment, default=from_now())
    name: Mapped[str] = mapped_column(String(255))
    original_ext: Mapped[str] = mapped_column(String(16))
    format: Mapped[str] = mapped_column(String(16))
    options: Mapped[dict[str, Any]] = mapped_column(JSON)
    state: Mapped[State] = mapped_column(Enum(State, native_enum=False, length=12))

    original_route: Mapped[str] = mapped_column(String(320))
    original_bytes: Mapped[int] = mapped_column(BigInteger)
    original_crc32c: Mapped[str] = mapped_column(String(8))
    source: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))

    attempt: Mapped[int] = mapped_column(Integer, default=1)
    tries: Mapped[int] = mapped_column(Integer, default=1)
    sends: Mapped[int] = mapped_column(Integer, default=0)
    sent_at: Mapped[datetime | None] = mapped_column(Moment)
    claimed_by: Mapped[str | None] = mapped_column(String(64))
    lease_until: Mapped[datetime | None] = mapped_column(Moment)
    started_at: Mapped[datetime | None] = mapped_column(Moment)
    finished_at: Mapped[datetime | None] = mapped_column(Moment)
    tidy_at: Mapped[datetime | None] = mapped_column(Moment)

    converted_route: Mapped[str] = mapped_column(String(320))
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    error_code: Mapped[str | None] = mapped_column(String(40))
    error_message: Mapped[str | None] = mapped_column(String(500))

    user: Mapped[User] = relationship(lazy="raise")

    def objects(self) -> set[str]:
        """Return the routes that may be in use: the original's, and the result's unless the task failed."""
        return {self.original_route} if self.state is State.FAILED else {self.original_route, self.converted_route}
