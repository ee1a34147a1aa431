"""One suite for both stores: the folder, and a bucket in an emulator."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import services
from worker.contract.store import ObjectMissing, RouteTaken, Stat, Store, StoreUnavailable, open_store, stat_of


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """An empty store of each kind."""
    if request.param == "folder":
        yield open_store(f"file://{tmp_path}/a%20store")
        return
    server: services.GcsEmulator = request.getfixturevalue("gcs_server")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url)
    yield open_store(f"gs://{server.create_bucket()}")


def put(store: Store, route: str, data: bytes) -> Stat:
    with store.spool() as file:
        file.write(data)
        return store.put(route, file)


def test_what_is_put_comes_back(store: Store, tmp_path: Path) -> None:
    """Bytes, size and CRC-32C of an object are those of the file it was made of; Unicode and odd names included."""
    data = bytes(range(256)) * 5000
    for name in ("a.mp3", "ñandú 🎵 #1?%2F.mp3", "x" * 200 + ".wav"):
        stat = put(store, f"7/{name}", data)
        assert stat == stat_of(io.BytesIO(data))
        path = store.fetch(f"7/{name}", tmp_path, f"copy-{len(name)}")
        assert path.read_bytes() == data
        with store.open(f"7/{name}") as file:
            file.seek(1000)
            assert file.read(10) == data[1000:1010]
    assert len(list(store.list("7/"))) == 3


def test_crc32c_is_the_castagnoli_polynomials() -> None:
    """The check value of RFC 3720 B.4: 32 bytes of zero give 8a9136aa."""
    assert stat_of(io.BytesIO(bytes(32))).crc32c == "8a9136aa"


def test_objects_are_created_once(store: Store) -> None:
    """A second put of the same bytes is a repeated success; of other bytes it is refused, and the first stays."""
    put(store, "1/a.mp3", b"first")
    put(store, "1/a.mp3", b"first")
    with pytest.raises(RouteTaken):
        put(store, "1/a.mp3", b"other")
    with store.open("1/a.mp3") as file:
        assert file.read() == b"first"


def test_a_file_from_elsewhere_can_be_put(store: Store, tmp_path: Path) -> None:
    """The worker's result, a file of its own, is stored, and stays where it was."""
    path = tmp_path / "result.ogg"
    path.write_bytes(b"result")
    with path.open("rb") as file:
        store.put("2/result.ogg", file)
    assert path.read_bytes() == b"result"
    with store.open("2/result.ogg") as file:
        assert file.read() == b"result"


def test_what_is_not_there_is_missing(store: Store, tmp_path: Path) -> None:
    """Reading says ObjectMissing; removing what is not there is no error."""
    with pytest.raises(ObjectMissing):
        store.open("3/none.mp3")
    with pytest.raises(ObjectMissing):
        store.fetch("3/none.mp3", tmp_path, "x")
    store.remove("3/none.mp3")
    store.remove_all("3/")
    assert list(store.list("3/")) == []


def test_a_prefix_is_removed_whole_and_alone(store: Store) -> None:
    """Removing 4/ takes all its objects and none of 44/."""
    for route in ("4/a.mp3", "4/b.mp3", "44/a.mp3"):
        put(store, route, b"x")
    store.remove_all("4/")
    assert list(store.list("4/")) == []
    assert list(store.list("44/")) == ["44/a.mp3"]


def test_an_empty_object(store: Store, tmp_path: Path) -> None:
    """No bytes are an object too."""
    assert put(store, "5/empty", b"") == Stat(0, "00000000")
    assert store.fetch("5/empty", tmp_path, "empty").read_bytes() == b""


def test_it_says_whether_it_answers(store: Store) -> None:
    """The check passes on a store that works."""
    store.check()


def test_a_bucket_that_is_away_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the client library's errors gets out: the store is unavailable."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{services.free_port()}")
    with pytest.raises(StoreUnavailable):
        open_store("gs://nowhere").check()


@pytest.mark.parametrize("route", ["../x", "1/../2", "1/..", "a/b.mp3", "1/a/b", "/etc/passwd", "1/", "1", "1/a\0b"])
def test_the_folder_takes_nothing_but_routes(tmp_path: Path, route: str) -> None:
    """A route that could leave its prefix is refused before the file system sees it."""
    store: Any = open_store(f"file://{tmp_path}/store")
    with pytest.raises(ValueError, match="Not a route"):
        put(store, route, b"x")
