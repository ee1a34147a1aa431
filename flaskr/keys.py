"""The secrets that sign tokens, and how one follows another without logging anybody out."""

import hashlib
from dataclasses import dataclass, field

LEAST_BYTES = 32  # as long as the digest of HS256: RFC 7518, 3.2


@dataclass(frozen=True)
class SigningKeys:
    """The key that signs, and others that only verify: those of before, or one that all instances are to know first."""

    current: str = field(repr=False)
    others: tuple[str, ...] = field(default=(), repr=False)

    @property
    def id(self) -> str:
        """The current key's id, which a user's token carries as `kid`."""
        return key_id(self.current)

    @property
    def oldest_first(self) -> list[str]:
        """Every key, the one that signs last, as itsdangerous takes them."""
        return [*reversed(self.others), self.current]

    def named(self, kid: object) -> str | None:
        """Return the key of that id, or None."""
        return next((key for key in (self.current, *self.others) if key_id(key) == kid), None)


def key_id(key: str) -> str:
    """Return a key's id: the same on every instance, and no help in finding the key."""
    return hashlib.sha256(b"swnube kid\0" + key.encode()).hexdigest()[:16]
