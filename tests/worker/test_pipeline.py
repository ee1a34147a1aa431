"""One attempt from claim to report, with a folder store and a real ffmpeg; the API is played by hand."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tests import audio
from worker.contract.job import Job, Report, waveform_route
from worker.contract.queue import Progress
from worker.contract.store import FolderStore, Stat, StoreUnavailable, stat_of
from worker.pipeline import Pipeline
from worker.report import AttemptLost
from worker.transcode import Transcoder


class Api:
    """Grants every claim and keeps the reports; refuses them when the attempt is to be lost."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.lost = False

    def claim(self, job: Job, worker: str) -> float:
        return 60.0

    def report(self, job: Job, report: Report) -> None:
        if self.lost:
            raise AttemptLost("409")
        self.reports.append(report)


class Silent:
    """A queue that nobody listens to."""

    def write_progress(self, task: int, progress: Progress) -> None:
        pass


class NoPictures(FolderStore):
    """A store that takes everything but waveforms."""

    def put(self, route: str, source: IO[bytes], stat: Stat | None = None) -> Stat:
        if route.endswith(".json"):
            raise StoreUnavailable("no room for pictures")
        return super().put(route, source, stat)


@pytest.fixture(scope="module")
def transcoder() -> Iterator[Transcoder]:
    with Transcoder() as made:
        yield made


def attempt(store: FolderStore, api: Api, transcoder: Transcoder, folder: Path) -> Job:
    """Run one conversion of a second of sound; return its job."""
    path = audio.make(folder / "tone.wav", 1)
    with path.open("rb") as file:
        stat = stat_of(file)
        store.put("7/tone.wav", file, stat)
    job = Job(7, 2, "7/tone.wav", stat.bytes, stat.crc32c, "7/tone.2.ogg", "ogg", {}, "token")
    made: Any = (api, store, Silent(), transcoder, folder)
    Pipeline(*made).run(job)
    return job


def test_the_waveform_lies_beside_the_result(transcoder: Transcoder, tmp_path: Path) -> None:
    """After a conversion the store holds original, result and waveform, and the report names the waveform's checksum."""
    store, api = FolderStore(tmp_path / "store"), Api()
    job = attempt(store, api, transcoder, tmp_path)
    route = waveform_route(7, 2)
    assert set(store.list("7/")) == {job.source, job.target, route}
    with store.open(route) as file:
        assert api.reports[0].encode()["waveform"] == {"bytes": stat_of(file).bytes, "crc32c": stat_of(file).crc32c}
        picture = json.load(file)
    assert (picture["version"], picture["full"]) == (1, 32_768)
    assert 9_000 < max(picture["peaks"]) < 11_000


def test_a_waveform_that_cannot_be_stored_fails_nothing(transcoder: Transcoder, tmp_path: Path) -> None:
    """The conversion is done all the same, and the report has no word of a waveform."""
    store, api = NoPictures(tmp_path / "store"), Api()
    job = attempt(store, api, transcoder, tmp_path)
    assert [report.outcome for report in api.reports] == ["done"]
    assert "waveform" not in api.reports[0].encode()
    assert set(store.list("7/")) == {job.source, job.target}


def test_an_attempt_that_came_too_late_takes_its_waveform_away(transcoder: Transcoder, tmp_path: Path) -> None:
    """Told that its attempt is lost, the worker removes result and waveform."""
    store, api = FolderStore(tmp_path / "store"), Api()
    api.lost = True
    job = attempt(store, api, transcoder, tmp_path)
    assert set(store.list("7/")) == {job.source}
