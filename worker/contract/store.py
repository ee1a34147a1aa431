"""Where the bytes are: one small interface, a folder and a bucket behind it.

A route is an object's key, ``<task id>/<file name>``. Objects are written once and never changed: `put` on a taken
route with other content raises `RouteTaken`.
"""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, Protocol
from urllib.parse import unquote, urlsplit

import google_crc32c

if TYPE_CHECKING:
    from google.cloud.storage import Blob, Bucket

CHUNK = 1024 * 1024  # bytes read at a time: large enough to cost no CPU, small enough for many at once


class StoreError(Exception):
    """Something about an object."""


class ObjectMissing(StoreError):
    """There is no object at that route."""


class RouteTaken(StoreError):
    """There is an object with other content at that route."""


class StoreUnavailable(StoreError):
    """The store did not answer, or answered that it cannot now; the same call may succeed later."""


class Corrupt(StoreError):
    """The bytes that came are not those that were stored; the same call may succeed later."""


@dataclass(frozen=True, slots=True)
class Stat:
    """What an object is: its size in bytes, and its CRC-32C as eight hexadecimal digits."""

    bytes: int
    crc32c: str


class Store(Protocol):
    """What both stores can do. Every method may raise StoreUnavailable."""

    @property
    def origin(self) -> str | None:
        """Where the addresses of `signed_url` lead, as browsers' policies name it; None where there are none."""

    def spool(self) -> IO[bytes]:
        """Return an empty temporary file, opened for writing and reading, from which `put` costs least."""

    def put(self, route: str, source: IO[bytes], stat: Stat | None = None) -> Stat:
        """Create the object from a named file, read from its beginning.

        stat: the file's, when the caller has worked it out already.
        Raises RouteTaken, unless what is there is equal: then an earlier try of the same call got through.
        """

    def fetch(self, route: str, folder: Path, name: str) -> Path:
        """Bring the object to ``folder / name``, which must not exist; the file is for reading only.

        Raises ObjectMissing.
        """

    def open(self, route: str) -> BinaryIO:
        """Return the object for reading, able to seek; raises ObjectMissing."""

    def signed_url(self, route: str, name: str, mime: str, seconds: int) -> str | None:
        """Return an address that hands out the object to anybody for a while, or None where the store cannot sign."""

    def list(self, prefix: str) -> Iterator[str]:
        """Return the routes that begin with `prefix`."""

    def remove(self, route: str) -> None:
        """Remove the object; nothing happens where there is none."""

    def remove_all(self, prefix: str) -> None:
        """Remove every object whose route begins with `prefix`."""

    def check(self) -> None:
        """Return if the store answers; raise StoreUnavailable if not."""


def stat_of(source: IO[bytes]) -> Stat:
    """Work out size and CRC-32C of a file from its beginning, and go back there."""
    source.seek(0)
    checksum = google_crc32c.Checksum()
    size = 0
    while chunk := source.read(CHUNK):
        checksum.update(chunk)
        size += len(chunk)
    source.seek(0)
    return Stat(size, checksum.digest().hex())


def open_store(url: str) -> Store:
    """Return the store at ``gs://bucket`` or ``file:///folder``. Made once per process and passed in."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return FolderStore(Path(unquote(parts.path)))
    return BucketStore(parts.netloc)


class FolderStore:
    """Objects as files under one folder, for one machine or a shared file system."""

    def __init__(self, root: Path) -> None:
        self._objects = root / "objects"
        self._spool = root / "spool"  # on the same file system, so that storing a spooled file is one hard link
        for folder in (self._objects, self._spool):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    @property
    def origin(self) -> str | None:
        return None

    def spool(self) -> IO[bytes]:
        with self._away():
            return tempfile.NamedTemporaryFile(dir=self._spool, prefix="upload-")

    def put(self, route: str, source: IO[bytes], stat: Stat | None = None) -> Stat:
        stat = stat or stat_of(source)
        path = self._path(route)
        with self._away():
            temporary = self._same_file_system_copy(source)
            try:
                self._link(temporary, path)
            except FileExistsError as error:
                with path.open("rb") as there:
                    if stat_of(there) != stat:
                        raise RouteTaken(route) from error
            finally:
                if temporary != Path(source.name):
                    temporary.unlink()
        return stat

    def _link(self, source: Path, path: Path) -> None:
        while True:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            try:
                os.link(source, path)
            except FileNotFoundError:
                if not source.exists():
                    raise
                continue  # `remove` took the empty folder away in between
            return

    def _same_file_system_copy(self, source: IO[bytes]) -> Path:
        """Return a complete, durable file with the source's bytes that a hard link can be made of."""
        source.flush()
        with contextlib.suppress(OSError):
            if os.stat(source.name).st_dev == os.stat(self._spool).st_dev:
                os.fsync(source.fileno())
                return Path(source.name)
        with tempfile.NamedTemporaryFile(dir=self._spool, prefix="put-", delete=False) as copy:
            source.seek(0)
            shutil.copyfileobj(source, copy, CHUNK)
            copy.flush()
            os.fsync(copy.fileno())
            return Path(copy.name)

    def fetch(self, route: str, folder: Path, name: str) -> Path:
        path, target = self._path(route), folder / name
        with self._away():
            try:
                try:
                    os.link(path, target)
                except OSError as error:
                    if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EACCES):
                        raise
                    shutil.copyfile(path, target)
            except FileNotFoundError as error:
                raise ObjectMissing(route) from error
        return target

    def open(self, route: str) -> BinaryIO:
        with self._away():
            try:
                return self._path(route).open("rb")
            except (FileNotFoundError, IsADirectoryError) as error:
                raise ObjectMissing(route) from error

    def signed_url(self, route: str, name: str, mime: str, seconds: int) -> str | None:
        return None

    def list(self, prefix: str) -> Iterator[str]:
        folder, _, _ = prefix.rpartition("/")
        root = self._objects / folder if folder else self._objects
        paths = root.iterdir() if folder else root.glob("*/*")
        with contextlib.suppress(FileNotFoundError):
            for path in sorted(paths):
                route = path.relative_to(self._objects).as_posix()
                if route.startswith(prefix):
                    yield route

    def remove(self, route: str) -> None:
        path = self._path(route)
        with self._away():
            path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # not empty, or gone
                path.parent.rmdir()

    def remove_all(self, prefix: str) -> None:
        for route in list(self.list(prefix)):
            self.remove(route)

    def check(self) -> None:
        with self._away():
            if not os.access(self._objects, os.W_OK):
                raise StoreUnavailable("The folder cannot be written.")

    def _path(self, route: str) -> Path:
        task, _, name = route.partition("/")
        if not task.isdigit() or not name or "/" in name or name in (".", "..") or "\0" in name:
            raise ValueError(f"Not a route: {route!r}")
        return self._objects / task / name

    @contextlib.contextmanager
    def _away(self) -> Iterator[None]:
        """Turn trouble of the file system (full, read-only, gone) into the store's own words."""
        try:
            yield
        except OSError as error:
            raise StoreUnavailable(f"The folder store failed: {error.strerror}.") from error


class BucketStore:
    """Objects in a Google Cloud Storage bucket, or in an emulator named by STORAGE_EMULATOR_HOST."""

    def __init__(self, bucket: str) -> None:
        # Imported here: a folder store must not pay for it with memory and start-up time.
        import requests
        from google.api_core import exceptions
        from google.auth.exceptions import TransportError
        from google.cloud import storage
        from google.resumable_media import common

        self._emulated = bool(os.environ.get("STORAGE_EMULATOR_HOST"))
        client = storage.Client() if not self._emulated else storage.Client.create_anonymous_client()
        if self._emulated:
            client.project = "emulator"
        adapter = requests.adapters.HTTPAdapter(pool_connections=4, pool_maxsize=64)
        client._http.mount("https://", adapter)
        client._http.mount("http://", adapter)
        self._bucket: Bucket = client.bucket(bucket)
        self._missing = exceptions.NotFound
        self._taken = exceptions.PreconditionFailed
        self._corrupt = common.DataCorruption
        self._trouble = (
            exceptions.GoogleAPIError,
            common.InvalidResponse,
            common.DataCorruption,
            requests.RequestException,
            TransportError,
            ConnectionError,
        )
        self._retry = storage.retry.DEFAULT_RETRY.with_timeout(_RETRY_SECONDS)

    @property
    def origin(self) -> str | None:
        return None if self._emulated else "https://storage.googleapis.com"

    def spool(self) -> IO[bytes]:
        return tempfile.NamedTemporaryFile(prefix="upload-")

    def put(self, route: str, source: IO[bytes], stat: Stat | None = None) -> Stat:
        stat = stat or stat_of(source)
        source.seek(0)
        blob = self._blob(route)
        blob.crc32c = _base64(stat.crc32c)
        with self._away(route):
            try:
                # Create-only makes the upload safe to retry: a second one of the same bytes changes nothing.
                blob.upload_from_file(
                    source,
                    size=stat.bytes,
                    if_generation_match=0,
                    checksum="crc32c",
                    retry=self._retry,
                    timeout=_TIMEOUT,
                    content_type="application/octet-stream",
                )
            except self._taken as error:
                there = self._bucket.get_blob(route, retry=self._retry, timeout=_TIMEOUT)
                if there is None or _stat(there) != stat:
                    raise RouteTaken(route) from error
        return stat

    def fetch(self, route: str, folder: Path, name: str) -> Path:
        target = folder / name
        with self._away(route):
            try:
                self._blob(route).download_to_filename(
                    str(target), checksum="crc32c", raw_download=True, retry=self._retry, timeout=_TIMEOUT
                )
            except self._corrupt as error:
                raise Corrupt(route) from error
        return target

    def open(self, route: str) -> BinaryIO:
        with self._away(route):
            blob = self._bucket.get_blob(route, retry=self._retry, timeout=_TIMEOUT)
            if blob is None:
                raise ObjectMissing(route)
            return blob.open("rb", chunk_size=CHUNK, raw_download=True, retry=self._retry)  # type: ignore[no-any-return]

    def signed_url(self, route: str, name: str, mime: str, seconds: int) -> str | None:
        if self._emulated:
            return None
        from urllib.parse import quote

        client = self._bucket.client
        signer: dict[str, Any] = {}
        credentials = client._credentials
        if not hasattr(credentials, "sign_bytes"):
            # On an instance there is no key file: the IAM service signs for the instance's own account.
            from google.auth.transport.requests import Request

            with self._away(route):
                credentials.refresh(Request())
            if not getattr(credentials, "service_account_email", None):
                return None
            signer = {"service_account_email": credentials.service_account_email, "access_token": credentials.token}
        with self._away(route):
            return str(
                self._blob(route).generate_signed_url(
                    version="v4",
                    expiration=timedelta(seconds=seconds),
                    method="GET",
                    response_type=mime,
                    response_disposition=f"attachment; filename*=UTF-8''{quote(name, safe='')}",
                    **signer,
                )
            )

    def list(self, prefix: str) -> Iterator[str]:
        with self._away(prefix):
            for blob in self._bucket.list_blobs(
                prefix=prefix, fields="items(name),nextPageToken", retry=self._retry, timeout=_TIMEOUT
            ):
                yield str(blob.name)

    def remove(self, route: str) -> None:
        with self._away(route), contextlib.suppress(self._missing):
            self._blob(route).delete(retry=self._retry, timeout=_TIMEOUT)

    def remove_all(self, prefix: str) -> None:
        for route in list(self.list(prefix)):
            self.remove(route)

    def check(self) -> None:
        with self._away(""):
            # Listing needs no more than the permission on objects, which is all that the service account has.
            next(iter(self._bucket.list_blobs(max_results=1, retry=None, timeout=2)), None)

    def _blob(self, route: str) -> "Blob":
        return self._bucket.blob(route)

    @contextlib.contextmanager
    def _away(self, route: str) -> Iterator[None]:
        """Turn the client library's many errors into the store's few."""
        try:
            yield
        except self._missing as error:
            raise ObjectMissing(route) from error
        except self._trouble as error:
            raise StoreUnavailable(f"The bucket did not answer: {type(error).__name__}.") from error


_TIMEOUT = (5, 60)  # seconds to connect, and between two bytes
_RETRY_SECONDS = 30  # for one call with all its retries; the callers retry beyond it where they can


def _base64(hexadecimal: str) -> str:
    import base64

    return base64.b64encode(bytes.fromhex(hexadecimal)).decode()


def _stat(blob: "Blob") -> Stat:
    import base64

    return Stat(int(blob.size or 0), base64.b64decode(blob.crc32c or "").hex())
