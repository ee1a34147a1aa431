"""Fills the tables with finished tasks, for measurements of lists and reads under a large table.

    python -m tests.measure.many_tasks --database postgresql://… [--tasks 1000000] [--mine 1000] [--accounts 1000]

or `fill()` from a program. The database has its tables already (`flask db upgrade`). The rows have no files: they are
there to be listed and read, not to be downloaded.
"""

import argparse
import sys
import uuid
from dataclasses import dataclass

from argon2 import PasswordHasher
from sqlalchemy import Connection, create_engine, text

PASSWORD = "Trombone-9-gris"
BATCH = 100_000
HOURS_BETWEEN = 0.01  # from one task to the next


@dataclass(frozen=True, slots=True)
class Filled:
    """What is there now, and the account to look at it with: `mine` tasks are its own, spread evenly over the table."""

    email: str
    password: str
    user_id: int
    tasks: int
    mine: int


def fill(database_url: str, tasks: int = 1_000_000, mine: int = 1000, accounts: int = 1000) -> Filled:
    """Adds so many tasks of a new account and of `accounts` others, in PostgreSQL or SQLite. May be called again."""
    if not 0 <= mine <= tasks or accounts < 1:
        raise ValueError("mine must be 0 to tasks, accounts 1 or more")
    run = uuid.uuid4().hex[:12]
    engine = create_engine(database_url)
    try:
        with engine.begin() as connection:
            me = _account(
                connection, f"many-{run}", PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1).hash(PASSWORD)
            )
            others = _accounts(connection, f"other-{run}", accounts)
        for start in range(0, tasks, BATCH):  # not all in one transaction: it would fill SQLite's cache
            with engine.begin() as connection:
                _tasks(connection, start, min(start + BATCH, tasks), tasks, mine, me, others, accounts)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE" if engine.dialect.name == "postgresql" else "ANALYZE"))
    finally:
        engine.dispose()
    return Filled(f"many-{run}@example.com", PASSWORD, me, tasks, mine)


def _account(connection: Connection, name: str, password_hash: str) -> int:
    row = connection.execute(
        text("""
            INSERT INTO users (name, name_key, email, email_key, password_hash, created_at)
            VALUES (:name, :name, :email, :email, :hash, :now) RETURNING id
        """),
        {"name": name, "email": f"{name}@example.com", "hash": password_hash, "now": "2026-01-01 00:00:00+00:00"},
    )
    return int(row.scalar_one())


def _accounts(connection: Connection, name: str, count: int) -> int:
    """Makes accounts that nobody can log in to, with ids that follow each other; returns the first id."""
    first = _account(connection, f"{name}-1", "!")
    connection.execute(
        text(f"""
            INSERT INTO users (id, name, name_key, email, email_key, password_hash, created_at)
            WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count)
            SELECT :first + i, :name || '-' || (i + 1), :name || '-' || (i + 1), :name || '-' || (i + 1) || '@example.com',
                   :name || '-' || (i + 1) || '@example.com', '!', {_moment(connection)}
            FROM n WHERE i < :count
        """),  # noqa: S608 (the dialect's own words)
        {"count": count, "first": first, "name": name, "hours": 0},
    )
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT setval(pg_get_serial_sequence('users', 'id'), (SELECT max(id) FROM users))"))
    return first


def _moment(connection: Connection) -> str:
    """So many hours after the year's begin, in the dialect's words and in the form that the models read."""
    if connection.dialect.name == "postgresql":
        return "(timestamptz '2026-01-01 00:00:00+00' + :hours * interval '1 hour')"
    return "strftime('%Y-%m-%d %H:%M:%f', '2026-01-01', '+' || (:hours * 3600) || ' seconds') || '000'"


def _tasks(
    connection: Connection, start: int, end: int, tasks: int, mine: int, me: int, others: int, accounts: int
) -> None:
    moment = _moment(connection).replace(":hours", f"(i * {HOURS_BETWEEN})")
    json = 'CAST(\'{"codec": "vorbis", "bitrateKbps": 112, "sampleRateHz": 44100, "channels": 2, "durationSeconds": 186.0, "bytes": 2604000, "crc32c": "00000000"}\' AS JSON)'
    empty = "CAST('{}' AS JSON)"
    if connection.dialect.name == "sqlite":
        json, empty = json.removeprefix("CAST(").removesuffix(" AS JSON)"), "'{}'"
    connection.execute(
        text(f"""
            INSERT INTO tasks (user_id, created_at, name, original_ext, format, options, state, original_route,
                original_bytes, original_crc32c, attempt, tries, sends, sent_at, started_at, finished_at,
                converted_route, result, error_code, error_message)
            WITH RECURSIVE n(i) AS (SELECT CAST(:start AS BIGINT) + 1 UNION ALL SELECT i + 1 FROM n WHERE i < :end)
            SELECT
                -- One of every tasks/mine is mine: the row where i * mine / tasks grows by one.
                CASE WHEN (i * :mine) / :tasks > ((i - 1) * :mine) / :tasks THEN :me ELSE :others + (i % :accounts) END,
                {moment}, 'song-' || i || '.mp3', 'mp3', CASE i % 3 WHEN 0 THEN 'wav' ELSE 'ogg' END, {empty},
                CASE WHEN i % 50 = 0 THEN 'FAILED' ELSE 'PROCESSED' END, 'measured/' || i || '/song.mp3',
                2980000, 'AAAAAA==', 1, 1, 1, {moment}, {moment}, {moment},
                'measured/' || i || '/song.out',
                CASE WHEN i % 50 = 0 THEN NULL ELSE {json} END,
                CASE WHEN i % 50 = 0 THEN 'not_audio' END, CASE WHEN i % 50 = 0 THEN 'This file has no audio.' END
            FROM n WHERE i <= :end
        """),  # noqa: S608 (no value of anybody else's)
        {
            "start": start, "end": end, "tasks": tasks, "mine": mine, "me": me, "others": others, "accounts": accounts,
        },
    )  # fmt: skip


def main() -> None:
    """Fill, and say with which account to look."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--database", required=True, help="as DATABASE_URL has it")
    parser.add_argument("--tasks", type=int, default=1_000_000)
    parser.add_argument("--mine", type=int, default=1000)
    parser.add_argument("--accounts", type=int, default=1000)
    asked = parser.parse_args()
    done = fill(asked.database, asked.tasks, asked.mine, asked.accounts)
    sys.stdout.write(f"{done.tasks} tasks, {done.mine} of them of {done.email}, password {done.password}\n")


if __name__ == "__main__":
    main()
