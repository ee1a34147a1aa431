"""Addresses that hand out something of a caller's for a while, without a token: for players, downloads and the like.

A browser cannot put a token into the request of a link or of a player, and a token has no place in an address. So the
caller asks for an address of one file or one archive; it opens nothing else, and dies with its time or with the session.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from itsdangerous import BadSignature, URLSafeTimedSerializer

from flaskr.accounts import Accounts, Caller
from flaskr.config import Config


class LinkDead(Exception):
    """The address is none of ours, its time is over, or its session has ended."""


@dataclass(frozen=True, slots=True)
class Link:
    """What an address opens, and for whom. `archive` selects files; else `file` (original, converted) of `task`."""

    caller: Caller
    task: int
    file: str
    archive: dict[str, Any] | None


class Links:
    """Makes and reads addresses. One per process; threads share it."""

    def __init__(self, config: Config, accounts: Accounts) -> None:
        self.seconds = config.download_url_seconds
        self.watch_seconds = config.access_token_seconds
        self._accounts = accounts
        # Other kinds of token than users' and jobs': none can ever pass for another.
        self._tokens, self._watches = (
            URLSafeTimedSerializer(config.keys.oldest_first, salt=salt, signer_kwargs={"digest_method": hashlib.sha256})
            for salt in ("link", "watch")
        )

    def to_file(self, caller: Caller, task: int, file: str) -> str:
        """Return the secret part of an address of one file."""
        return self._sign([caller.id, caller.session, task, file, None])

    def to_archive(self, caller: Caller, selection: dict[str, Any]) -> str:
        """Return the secret part of an address of an archive."""
        return self._sign([caller.id, caller.session, 0, "", selection])

    def to_watch(self, caller: Caller) -> str:
        """Return the secret part of an address that tells when something of the caller's changes, and nothing else."""
        return str(self._watches.dumps(caller.id))

    def watched(self, secret: str) -> int:
        """Return whose tasks an address watches; raises LinkDead.

        Asked for by every open page every few seconds, so it reads no database: what it opens is a random word.
        """
        try:
            return int(self._watches.loads(secret, max_age=self.watch_seconds))
        except (BadSignature, ValueError, TypeError) as error:
            raise LinkDead from error

    def read(self, secret: str) -> Link:
        """Return what an address opens; raises LinkDead."""
        try:
            user, session, task, file, archive = self._tokens.loads(secret, max_age=self.seconds)
        except (BadSignature, ValueError) as error:
            raise LinkDead from error
        caller = self._accounts.caller(str(user), str(session))
        if caller is None:
            raise LinkDead
        return Link(caller, task, file, archive)

    def _sign(self, claims: list[Any]) -> str:
        return str(self._tokens.dumps(claims))
