"""The worker's side of /claimed, /released and /processed: the POST, and what its reply means."""

import random
import time
from typing import Any

import requests
import structlog

from worker.contract.job import Job, Report

log = structlog.get_logger()
_TIMEOUT = (3, 20)  # seconds to connect, and to wait for a reply


class AttemptLost(Exception):
    """Superseded, settled, alive elsewhere, or the task is gone: whatever was made for it is to be removed."""


class ApiUnavailable(Exception):
    """The API did not answer, or answered that it cannot now."""


class Api:
    """The API as workers see it, through the balancer. One per process; connections are kept open."""

    def __init__(self, origin: str) -> None:
        self._origin = origin
        self._session = requests.Session()
        self._session.trust_env = False  # neither proxies nor .netrc have a say in where a token goes

    def claim(self, job: Job, worker: str) -> float:
        """Claim an attempt or renew the claim; return the lease in seconds.

        Raises AttemptLost, ApiUnavailable.
        """
        reply = self._post(job, "claimed", {"worker": worker})
        if reply.status_code == 200:
            return float(reply.json()["leaseSeconds"])
        log.info("claim.refused", task=job.task, attempt=job.attempt, status=reply.status_code)
        raise AttemptLost(str(reply.status_code))

    def release(self, job: Job, worker: str) -> None:
        """Give a claimed attempt back. Raises AttemptLost, ApiUnavailable."""
        reply = self._post(job, "released", {"worker": worker})
        if reply.status_code != 200:
            raise AttemptLost(str(reply.status_code))

    def report(self, job: Job, report: Report) -> None:
        """Report how an attempt ended, once. Raises AttemptLost, ApiUnavailable."""
        reply = self._post(job, "processed", report.encode())
        if reply.status_code == 200:
            return
        if reply.status_code in (404, 409):
            raise AttemptLost(str(reply.status_code))
        # To repeat what the API calls wrong would change nothing; the lease's end settles the task.
        log.error("report.refused", task=job.task, attempt=job.attempt, status=reply.status_code)

    def _post(self, job: Job, verb: str, body: dict[str, Any]) -> requests.Response:
        headers = {
            "Authorization": f"Bearer {job.token}",
            "X-Request-ID": job.request or f"job-{job.task}-{job.attempt}",
        }
        try:
            reply = self._session.post(
                f"{self._origin}/api/tasks/{job.task}/{verb}", json=body, headers=headers, timeout=_TIMEOUT,
                allow_redirects=False,
            )  # fmt: skip
        except requests.RequestException as error:
            raise ApiUnavailable(type(error).__name__) from error
        if reply.status_code == 429 or reply.status_code >= 500:
            raise ApiUnavailable(str(reply.status_code))
        return reply


def pauses(longest: float, total: float) -> Any:
    """Yield after pauses that grow, with jitter, until about `total` seconds have passed."""
    began, pause = time.monotonic(), 0.25
    while time.monotonic() - began < total:
        yield
        time.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - only to spread the load
        pause = min(pause * 2, longest)
