"""Accounts: register, authenticate, and the sessions behind tokens. No HTTP in here."""

import contextlib
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import timedelta

import structlog
from email_validator import EmailNotValidError, validate_email
from flask_jwt_extended import create_access_token, create_refresh_token
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from flaskr.config import Config
from flaskr.db import db, from_now
from flaskr.limits import Limit, Limits, QuotaExceeded, network
from flaskr.models import Session, User
from flaskr.passwords import Passwords

log = structlog.get_logger()

NAME_LENGTH = 64
EMAIL_LENGTH = 254  # RFC 5321, 4.5.3.1.3, without the angle brackets


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

    def __init__(self, config: Config, limits: Limits) -> None:
        self._config = config
        self._limits = limits
        self._passwords = Passwords(config.password_min_length)
        again = "Try again later."
        self._failures_of_account = Limit(
            "log-in-account", config.login_failures_per_account,
            f"Too many failed log-ins to this account. {again}",
        )  # fmt: skip
        self._failures_of_address = Limit(
            "log-in-address", config.login_failures_per_address,
            f"Too many failed log-ins from your address. {again}",
        )  # fmt: skip
        self._sign_ups = Limit(
            "sign-up-address", config.sign_ups_per_address, f"Too many sign-ups from your address. {again}"
        )

    def register(self, name: str, email: str, password: str, repeated: str, address: str) -> None:
        """Make an account.

        address: from where it is asked. Raises AccountRefused, also when another sign-up with the same name or e-mail
        wins the race; QuotaExceeded.
        """
        self._limits.count(self._sign_ups, network(address))
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
                    password_hash="")  # fmt: skip
        taken = self._taken(user)
        if not taken:
            user.password_hash = self._passwords.hash(password)
            db.session.add(user)
            try:
                db.session.commit()
            except IntegrityError:
                db.session.rollback()
                taken = self._taken(user)
        if taken:
            raise AccountRefused(taken)
        log.info("account.made", audit=True, user=user.id)

    def _password_errors(self, password: str, repeated: str, name: str, email: str) -> dict[str, list[str]]:
        if complaint := self._passwords.complaint(password, name, email, email.partition("@")[0]):
            return {"password1": [complaint]}
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

    def log_in(self, email: str, password: str, address: str, stay: bool = False) -> Tokens:
        """Begin a session; raises WrongCredentials, QuotaExceeded.

        address: from where it is asked; only what fails counts towards the limits.
        stay: goes along with the refresh token and its successors, for whoever keeps them.
        """
        try:
            key = normal_email(email).casefold()
        except ValueError:
            key = ""  # nobody has it; go on all the same, for the time it takes
        counted = ((self._failures_of_address, network(address)), (self._failures_of_account, key))
        try:
            for limit, who in counted:
                self._limits.check(limit, who)
        except QuotaExceeded as error:
            log.warning("account.log_in_refused", audit=True, quota=error.quota)
            raise
        row = db.session.execute(select(User.id, User.password_hash).where(User.email_key == key)).one_or_none()
        db.session.rollback()  # the connection goes back before the hashing
        if not self._passwords.verify(row.password_hash if row else None, password) or row is None:
            for limit, who in counted:
                with contextlib.suppress(QuotaExceeded):  # the next one is refused
                    self._limits.count(limit, who)
            # Both branches log one line each: neither takes longer than the other.
            log.warning("account.log_in_failed", audit=True, user=row.id if row else None)
            raise WrongCredentials
        if self._passwords.outdated(row.password_hash):
            db.session.execute(
                update(User).where(User.id == row.id).values(password_hash=self._passwords.hash(password))
            )
        session = Session(
            id=secrets.token_hex(16), user_id=row.id, expires_at=from_now(self._config.refresh_token_seconds)
        )
        db.session.add(session)
        db.session.commit()
        log.info("account.logged_in", audit=True, user=row.id, session=session.id)
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
            log.warning("session.replayed", audit=True, user=caller.id, session=caller.session, rotation=rotation)
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
        log.info("account.logged_out", audit=True, user=caller.id, session=caller.session)

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


def normal_email(email: str) -> str:
    """Return an e-mail address in its one spelling; raises ValueError when it is not one."""
    if len(email) > EMAIL_LENGTH:
        raise ValueError("too long")
    try:
        # `test_environment` lets names under .test pass, which private networks use too; nothing is looked up.
        return validate_email(email.strip(), check_deliverability=False, test_environment=True).normalized
    except EmailNotValidError as error:
        raise ValueError("malformed") from error
