"""Accounts: register, authenticate, and the sessions behind tokens. No HTTP in here."""

import secrets
import unicodedata
from dataclasses import dataclass
from datetime import timedelta
from threading import BoundedSemaphore

import structlog
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from email_validator import EmailNotValidError, validate_email
from flask_jwt_extended import create_access_token, create_refresh_token
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from flaskr.config import Config
from flaskr.db import db, from_now
from flaskr.models import Session, User
from worker.contract.settings import cores

log = structlog.get_logger()

NAME_LENGTH = 64
EMAIL_LENGTH = 254  # RFC 5321, 4.5.3.1.3, without the angle brackets
PASSWORD_LENGTH = 128


class AccountRefused(ValueError):
    """The sign-up cannot be taken: `errors` maps each field to its sentences."""

    def __init__(self, errors: dict[str, list[str]]) -> None:
        super().__init__("; ".join(sentence for sentences in errors.values() for sentence in sentences))
        self.errors = errors


class WrongCredentials(Exception):
    """No account has this e-mail with this password; which of the two is wrong is not told."""


class TokenReplayed(Exception):
    """The refresh token was used before: somebody else has it too, so its session is over."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is asking, as their token says."""

    id: int
    name: str
    email: str
    session: str


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a log-in gives: two JWTs with their lives in seconds; stay: whether a browser is to keep the second."""

    access: str
    refresh: str
    seconds: int
    refresh_seconds: int
    stay: bool


class Accounts:
    """Everything about accounts. One per process; threads share it."""

    def __init__(self, config: Config) -> None:
        self._config = config
        # OWASP's figures for argon2id: 19 MiB, 2 passes, 1 lane.
        self._hasher = PasswordHasher(time_cost=2, memory_cost=19456, parallelism=1)
        # A flood of log-ins must leave processors to the uploads.
        self._hashing = BoundedSemaphore(cores())
        # Verified when the e-mail is unknown, so that the answer takes as long as for a wrong password.
        self._nobody = self._hasher.hash(secrets.token_hex(16))

    def register(self, name: str, email: str, password: str, repeated: str) -> None:
        """Make an account.

        Raises AccountRefused, also when another sign-up with the same name or e-mail wins the race.
        """
        errors: dict[str, list[str]] = {}
        name = unicodedata.normalize("NFC", name).strip()
        if not name or len(name) > NAME_LENGTH or not name.isprintable():
            errors["user"] = [f"A user name has 1 to {NAME_LENGTH} visible characters."]
        try:
            email = normal_email(email)
        except ValueError:
            errors["email"] = ["This is not an e-mail address."]
        errors |= self._password_errors(password, repeated, name, email)
        if errors:
            raise AccountRefused(errors)
        user = User(name=name, name_key=name.casefold(), email=email, email_key=email.casefold(),
                    password_hash=self._hash(password))  # fmt: skip
        taken = self._taken(user)
        if not taken:
            db.session.add(user)
            try:
                db.session.commit()
            except IntegrityError:
                db.session.rollback()
                taken = self._taken(user)
        if taken:
            raise AccountRefused(taken)

    def _password_errors(self, password: str, repeated: str, name: str, email: str) -> dict[str, list[str]]:
        least = self._config.password_min_length
        if not least <= len(password) <= PASSWORD_LENGTH:
            return {"password1": [f"A password has {least} to {PASSWORD_LENGTH} characters."]}
        known = {name.casefold(), email.casefold(), email.partition("@")[0].casefold()}
        if password.casefold() in known or len(set(password)) < 3:
            return {"password1": ["This password is too easy to guess: take one that is not your name or e-mail."]}
        if password != repeated:
            return {"password2": ["The passwords differ."]}
        return {}

    def _taken(self, user: User) -> dict[str, list[str]]:
        rows = db.session.execute(
            select(User.name_key, User.email_key).where(
                (User.name_key == user.name_key) | (User.email_key == user.email_key)
            )
        ).all()
        db.session.rollback()
        errors: dict[str, list[str]] = {}
        if any(row.email_key == user.email_key for row in rows):
            errors["email"] = ["There is an account with this e-mail already."]
        if any(row.name_key == user.name_key for row in rows):
            errors["user"] = ["There is an account with this user name already."]
        return errors

    def log_in(self, email: str, password: str, stay: bool = False) -> Tokens:
        """Begin a session; raises WrongCredentials.

        stay: goes along with the refresh token and its successors, for whoever keeps them.
        """
        try:
            key = normal_email(email).casefold()
        except ValueError:
            key = ""  # nobody has it; go on all the same, for the time it takes
        row = db.session.execute(select(User.id, User.password_hash).where(User.email_key == key)).one_or_none()
        db.session.rollback()  # the connection goes back before the hashing
        if not self._verify(row.password_hash if row else self._nobody, password) or row is None:
            raise WrongCredentials
        if self._hasher.check_needs_rehash(row.password_hash):
            db.session.execute(update(User).where(User.id == row.id).values(password_hash=self._hash(password)))
        session = Session(
            id=secrets.token_hex(16), user_id=row.id, expires_at=from_now(self._config.refresh_token_seconds)
        )
        db.session.add(session)
        db.session.commit()
        return self._tokens(row.id, session.id, 0, self._config.refresh_token_seconds, stay)

    def refresh(self, caller: Caller, rotation: int, stay: bool) -> Tokens:
        """Return new tokens for the refresh token of that rotation, which is dead from now on.

        Raises TokenReplayed when it was dead already, or dies in a race: of two that use one token, one is not its
        owner, and nobody can tell which. So the session ends for both. The session's end stays where log-in put it.
        """
        turned = db.session.execute(
            update(Session)
            .where(
                Session.id == caller.session,
                Session.rotation == rotation,
                Session.ended_at.is_(None),
                Session.expires_at > from_now(),
            )
            .values(rotation=rotation + 1)
            .returning(Session.expires_at, from_now())
            .execution_options(synchronize_session=False)
        ).one_or_none()
        db.session.commit()
        if turned is None:
            self._end(caller.session)
            log.warning("session.replayed", user=caller.id, session=caller.session, rotation=rotation)
            raise TokenReplayed
        left = max(1, int((turned[0] - turned[1]).total_seconds()))
        return self._tokens(caller.id, caller.session, rotation + 1, left, stay)

    def _tokens(self, user_id: int, session: str, rotation: int, left: int, stay: bool) -> Tokens:
        claims = {"sid": session}
        renewing = {**claims, "rot": rotation, "stay": stay}
        return Tokens(
            create_access_token(identity=str(user_id), additional_claims=claims),
            create_refresh_token(
                identity=str(user_id), additional_claims=renewing, expires_delta=timedelta(seconds=left)
            ),
            self._config.access_token_seconds, left, stay,
        )  # fmt: skip

    def log_out(self, caller: Caller) -> None:
        """End the session: its tokens are dead on every instance with the commit."""
        self._end(caller.session)

    def _end(self, session: str) -> None:
        db.session.execute(
            update(Session).where(Session.id == session, Session.ended_at.is_(None)).values(ended_at=from_now())
        )
        db.session.commit()

    def caller(self, user_id: str, session_id: str) -> Caller | None:
        """Return who holds a token of this session, or None when the session has ended."""
        if not user_id.isascii() or not user_id.isdigit() or len(user_id) > 18:
            return None
        row = db.session.execute(
            select(User.id, User.name, User.email)
            .join(Session, Session.user_id == User.id)
            .where(
                Session.id == session_id,
                User.id == int(user_id),
                Session.ended_at.is_(None),
                Session.expires_at > from_now(),
            )
        ).one_or_none()
        db.session.rollback()  # no connection is held while a body is read
        return Caller(row.id, row.name, row.email, session_id) if row else None

    def sweep(self) -> int:
        """Forget sessions whose tokens have all expired; return how many."""
        gone = db.session.execute(delete(Session).where(Session.expires_at < from_now()))
        db.session.commit()
        return int(gone.rowcount)  # type: ignore[attr-defined]

    def _hash(self, password: str) -> str:
        with self._hashing:
            return self._hasher.hash(password)

    def _verify(self, password_hash: str, password: str) -> bool:
        with self._hashing:
            try:
                return self._hasher.verify(password_hash, password)
            except (VerificationError, InvalidHashError):
                return False


def normal_email(email: str) -> str:
    """Return an e-mail address in its one spelling; raises ValueError when it is not one."""
    if len(email) > EMAIL_LENGTH:
        raise ValueError("too long")
    try:
        # `test_environment` lets names under .test pass, which private networks use too; nothing is looked up.
        return validate_email(email.strip(), check_deliverability=False, test_environment=True).normalized
    except EmailNotValidError as error:
        raise ValueError("malformed") from error
