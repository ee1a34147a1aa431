"""How often something may be done, by address and by account. Counted in Redis, for all instances together.

While Redis is away nothing is refused for that, and nothing is without limits either: each process then counts for
itself, so that the whole allows at most as many times more as there are processes. No request waits for a Redis that
is away: after a failure a process leaves it alone for a few seconds.
"""

import functools
import hashlib
import ipaddress
import math
import time
from dataclasses import dataclass

import redis
import structlog
from limits import RateLimitItem, parse
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import FixedWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

log = structlog.get_logger()

_AWAY_SECONDS = 5.0
_TIMEOUT = 0.3
_REFUSED = 10_000


class QuotaExceeded(Exception):
    """As much as may be was done or is there already.

    quota: which limit, as a word; seconds: when to try again.
    """

    def __init__(self, quota: str, message: str, seconds: int) -> None:
        super().__init__(message)
        self.quota = quota
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Limit:
    """So many times in so long. rate: as in ``100 per hour``; ``off`` for no limit."""

    name: str
    rate: str
    sentence: str

    @property
    def item(self) -> RateLimitItem | None:
        """The limit as the library has it; raises ValueError when it is not written as it must be."""
        return None if self.rate == "off" else _parsed(self.rate)


class Limits:
    """One per process; threads share it."""

    def __init__(self, redis_url: str) -> None:
        client = redis.Redis.from_url(
            redis_url, socket_timeout=_TIMEOUT, socket_connect_timeout=_TIMEOUT, retry=Retry(NoBackoff(), 0)
        )
        shared = RedisStorage("redis://", connection_pool=client.connection_pool, key_prefix="swnube:limit")
        self._shared = FixedWindowRateLimiter(shared)
        self._own = FixedWindowRateLimiter(MemoryStorage())
        self._away_until = 0.0
        # Whom Redis said no to: until when to believe that, and when the window ends. Who floods is refused from here.
        self._refused: dict[tuple[str, str], tuple[float, float]] = {}

    def count(self, limit: Limit, who: str) -> None:
        """Count one time; raises QuotaExceeded when that is more than may be."""
        self._ask(limit, who, count=True)

    def check(self, limit: Limit, who: str) -> None:
        """Count nothing; raises QuotaExceeded when the next time would be more than may be."""
        self._ask(limit, who, count=False)

    def _ask(self, limit: Limit, who: str, *, count: bool) -> None:
        item = limit.item
        if item is None:
            return
        # Neither addresses nor e-mails lie about in Redis.
        key = hashlib.sha256(who.encode()).hexdigest()[:32]
        believed, until = self._refused.get((limit.name, key), (0.0, 0.0))
        if believed > time.time():
            raise QuotaExceeded(limit.name, limit.sentence, max(1, math.ceil(until - time.time())))
        if time.monotonic() >= self._away_until:
            try:
                self._refuse(self._shared, limit, item, key, count)
            except redis.RedisError as error:
                self._away_until = time.monotonic() + _AWAY_SECONDS
                log.warning("limits.alone", reason=type(error).__name__)
            else:
                return
        self._refuse(self._own, limit, item, key, count)

    def _refuse(
        self, limiter: FixedWindowRateLimiter, limit: Limit, item: RateLimitItem, key: str, count: bool
    ) -> None:  # fmt: skip
        fits = limiter.hit(item, limit.name, key) if count else limiter.test(item, limit.name, key)
        if not fits:
            until = limiter.get_window_stats(item, limit.name, key).reset_time
            if len(self._refused) >= _REFUSED:
                self._refused.clear()
            # Not for long: should Redis lose its memory, or an operator clear it, that is soon noticed.
            self._refused[limit.name, key] = (min(until, time.time() + _AWAY_SECONDS), until)
            raise QuotaExceeded(limit.name, limit.sentence, max(1, math.ceil(until - time.time())))


_parsed = functools.cache(parse)


def network(address: str) -> str:
    """Return what counts as one address: an IPv4 address, or the /64 that one customer has in IPv6."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped:
            return str(ip.ipv4_mapped)
        return str(ipaddress.IPv6Network((ip, 64), strict=False))
    return str(ip)
