"""One attempt from claim to report. Knows no Celery."""

import contextlib
import errno
import fcntl
import json
import os
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import structlog

from worker.contract.formats import FAILURES, Options, Probe
from worker.contract.job import Job, Report, waveform_route
from worker.contract.queue import Progress, Queue
from worker.contract.store import (
    Corrupt,
    ObjectMissing,
    RouteTaken,
    Stat,
    Store,
    StoreError,
    StoreUnavailable,
    stat_of,
)
from worker.report import Api, ApiUnavailable, AttemptLost, pauses
from worker.transcode import Cancelled, Transcoder, Unconvertible

log = structlog.get_logger()

_CLAIM_SECONDS = 120  # how long to try to claim; the sweeper sends the message again anyway
_STORE_SECONDS = 180  # how long to try one download or upload
_REPORT_SECONDS = 3600  # how long to try to report: a conversion is worth more than a worker's wait
_PROGRESS_SECONDS = 0.4  # between two words of progress


class Pipeline:
    """Runs jobs, one at a time in each thread. Everything it uses is passed in."""

    def __init__(self, api: Api, store: Store, queue: Queue, transcoder: Transcoder, scratch: Path) -> None:
        self._api = api
        self._store = store
        self._queue = queue
        self._transcoder = transcoder
        self._scratch = scratch
        self._stopped = False
        self._running: list[threading.Event] = []

    @property
    def stopped(self) -> bool:
        """Whether this process was told to end."""
        return self._stopped

    def stop(self) -> None:
        """Call off what runs, so that `run` gives it back. Safe in a signal handler."""
        self._stopped = True
        for lost in list(self._running):
            lost.set()

    def run(self, job: Job) -> None:
        """Do one attempt. Returns when there is nothing left to do for it, whatever came of it."""
        worker = secrets.token_hex(8)  # of this delivery: a second one of the same message must not pass for a renewal
        lost = threading.Event()  # the attempt is another's, or is to be given back: nothing more is worth doing for it
        self._running.append(lost)
        try:
            if not self._carry_out(job, worker, lost) and self._stopped:
                self._api.release(job, worker)  # so that another begins at once, instead of when the lease ends
                log.info("job.released")
        except (AttemptLost, ApiUnavailable) as error:
            log.info("job.left", reason=str(error))
        finally:
            self._running.remove(lost)

    def _carry_out(self, job: Job, worker: str, lost: threading.Event) -> bool:
        """Do an attempt; return whether it was reported. Raises AttemptLost, ApiUnavailable when it cannot be claimed."""
        lease = self._claim(job, worker)
        with _renewing(self._api, job, worker, lease, lost), _folder(self._scratch) as folder:
            report, uploaded = self._attempt(job, folder, lost)
            if report is not None:
                try:
                    self._report(job, report)
                    return True
                except AttemptLost as error:
                    log.info("job.superseded", reason=str(error))
            if uploaded:
                self._withdraw(job)
        return False

    def _claim(self, job: Job, worker: str) -> float:
        for _ in pauses(5, _CLAIM_SECONDS):
            if self._stopped:
                break
            with contextlib.suppress(ApiUnavailable):
                return self._api.claim(job, worker)
        raise ApiUnavailable("claim")

    def _attempt(self, job: Job, folder: Path, lost: threading.Event) -> tuple[Report | None, bool]:
        """Return what to report, and whether an object of this attempt is in the store."""
        clock = _Clock()
        say = self._sayer(job)
        source: Probe | None = None
        uploaded = False
        try:
            say("downloading", None)
            original = self._download(job, folder, lost)
            clock.lap("downloading")
            conversion = self._transcoder.convert(
                original, folder, job.format, Options.from_json(job.options), say, lost
            )
            source = conversion.source
            clock.lap("converting")
            say("uploading", None)
            stat = self._upload(job, conversion.path, lost)
            uploaded = True
            picture = self._upload_waveform(job, folder, conversion.waveform)
            clock.lap("uploading")
        except Cancelled:
            log.info("job.cancelled")
            return None, uploaded
        except Unconvertible as error:
            log.info("job.unconvertible", code=error.code)
            return self._failure(job, error.code, error.message, clock), uploaded
        except ObjectMissing:
            return self._failure(job, "original_missing", FAILURES["original_missing"], clock), uploaded
        except (StoreError, OSError) as error:
            code = _trouble(error)
            log.warning("job.trouble", code=code, reason=str(error))
            return self._failure(job, code, FAILURES[code], clock), uploaded
        result = {**conversion.result, "bytes": stat.bytes, "crc32c": stat.crc32c}
        done = Report(
            job.attempt, "done", result=result, source=source.to_json(), phases=clock.phases, waveform=picture
        )
        return done, uploaded

    def _failure(self, job: Job, code: str, message: str, clock: "_Clock") -> Report:
        return Report(job.attempt, "failed", error={"code": code, "message": message}, phases=clock.phases)

    def _download(self, job: Job, folder: Path, lost: threading.Event) -> Path:
        """Bring the original into the folder, and make sure that it is what was uploaded."""
        name = f"original.{job.source.rpartition('.')[2].lower()}"
        trouble: StoreError = StoreUnavailable("never tried")
        for _ in pauses(10, _STORE_SECONDS):
            if lost.is_set():
                raise Cancelled
            try:
                path = self._store.fetch(job.source, folder, name)
                with path.open("rb") as file:
                    if stat_of(file) == Stat(job.source_bytes, job.source_crc32c):
                        return path
                trouble = Corrupt(job.source)
            except (StoreUnavailable, Corrupt) as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.ENOSPC:
                    raise error.__cause__ from error
                trouble = error
            (folder / name).unlink(missing_ok=True)
        raise trouble

    def _upload(self, job: Job, path: Path, lost: threading.Event) -> Stat:
        trouble: StoreError = StoreUnavailable("never tried")
        with path.open("rb") as file:
            stat = stat_of(file)
            for _ in pauses(10, _STORE_SECONDS):
                if lost.is_set():
                    raise Cancelled
                try:
                    return self._store.put(job.target, file, stat)
                except RouteTaken:
                    raise
                except StoreUnavailable as error:
                    trouble = error
        raise trouble

    def _upload_waveform(self, job: Job, folder: Path, peaks: tuple[int, ...]) -> dict[str, Any] | None:
        """Store the picture of the result; a result without one is as good."""
        if not peaks:
            return None
        try:
            with (folder / "waveform.json").open("w+b") as file:
                file.write(json.dumps({"version": 1, "full": 32768, "peaks": peaks}, separators=(",", ":")).encode())
                file.flush()
                stat = self._store.put(waveform_route(job.task, job.attempt), file)
        except (StoreError, OSError) as error:
            log.warning("waveform.left_out", reason=str(error))
            return None
        return {"bytes": stat.bytes, "crc32c": stat.crc32c}

    def _report(self, job: Job, report: Report) -> None:
        for _ in pauses(15, _REPORT_SECONDS):
            try:
                self._api.report(job, report)
            except ApiUnavailable as error:
                log.info("report.waits", reason=str(error))
                if self._stopped:
                    break
                continue
            return
        log.error("report.given_up", task=job.task, attempt=job.attempt)

    def _withdraw(self, job: Job) -> None:
        """Remove what a lost attempt uploaded. Its route is its own: no other attempt's result is touched."""
        try:
            self._store.remove(job.target)
            self._store.remove(waveform_route(job.task, job.attempt))
        except StoreError as error:
            log.warning("object.kept", route=job.target, reason=str(error))  # the sweeper tidies it

    def _sayer(self, job: Job) -> Callable[[str, float | None], None]:
        last: list[Any] = [None, 0.0]

        def say(phase: str, percent: float | None) -> None:
            now = time.monotonic()
            if phase == last[0] and now - last[1] < _PROGRESS_SECONDS:
                return
            last[:] = phase, now
            self._queue.write_progress(job.task, Progress(job.attempt, phase, percent))

        return say


class _Clock:
    """How long each phase took, in seconds."""

    def __init__(self) -> None:
        self.phases: dict[str, float] = {}
        self._since = time.monotonic()

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.phases[phase], self._since = round(now - self._since, 4), now


@contextlib.contextmanager
def _renewing(api: Api, job: Job, worker: str, lease: float, lost: threading.Event) -> Iterator[None]:
    """Keep the claim while the body runs; set `lost` when it is another's."""
    stop = threading.Event()

    def renew() -> None:
        while not stop.wait(lease / 3):
            try:
                api.claim(job, worker)
            except AttemptLost:
                if not stop.is_set():
                    lost.set()
                return
            except ApiUnavailable as error:
                log.warning("lease.not_renewed", reason=str(error))

    thread = threading.Thread(target=renew, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@contextlib.contextmanager
def _folder(scratch: Path) -> Iterator[Path]:
    """Make a private folder, locked for as long as its worker lives, and remove it with all in it."""
    folder = Path(tempfile.mkdtemp(prefix="job-", dir=scratch))
    lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def clear_scratch(scratch: Path) -> int:
    """Remove the folders of workers that died; return how many. Those in use are locked, and stay."""
    scratch.mkdir(parents=True, exist_ok=True, mode=0o700)
    count = 0
    for folder in scratch.glob("job-*"):
        try:
            lock = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(lock).st_mtime > 1:  # one just made may not be locked yet
                shutil.rmtree(folder, ignore_errors=True)
                count += 1
        except BlockingIOError:
            pass
        finally:
            os.close(lock)
    return count


def _trouble(error: Exception) -> str:
    if isinstance(error, OSError):
        return "worker_disk_full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "worker_trouble"
    return "original_corrupt" if isinstance(error, Corrupt) else "store_unavailable"
