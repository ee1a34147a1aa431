"""Two hundred jobs at once on one upload, and the hostile corpus, through the whole service."""

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mutagen
import psutil
import pytest

from tests import audio
from tests.client import Client
from tests.stack import Stack
from tests.worker.transcode.test_hostile import SECRET, Canary, bomb, corpus
from tests.worker.transcode.test_many import jobs
from worker.contract.formats import FAILURES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """One API instance, one worker with two processes."""
    with Stack(concurrency=2, environment={"MAX_RESULT_BYTES": "100000000"}) as running:
        yield running


def test_each_of_two_hundred_jobs_on_one_upload_gets_what_it_asked_for(stack: Stack, tmp_path: Path) -> None:
    """The same file uploaded two hundred times at once, each with its own options: each download is what its own job asked for."""
    ana = Client(stack.url, "many@example.com").signup().login()
    song = audio.make(tmp_path / "song.flac", 3.0).read_bytes()
    asked = jobs(200)
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda job: ana.upload(song, "song.flac", job[0], **job[1])["id"], asked))
    for number, (target, options) in zip(made, asked, strict=True):
        task = ana.wait(number, seconds=500)
        assert task["state"] == "PROCESSED", task
        file = io.BytesIO(ana.converted(number))
        file.name = f"x.{task['convertedExt']}"
        seen = mutagen.File(file).info
        assert seen.length == pytest.approx(options["endSeconds"], abs=0.1)
        if target != "m4a":  # of mono AAC mutagen says that it may be stereo
            assert getattr(seen, "channels", options["channels"]) == options["channels"]
        assert getattr(seen, "sample_rate", 48_000) == options.get("sampleRateHz", getattr(seen, "sample_rate", 48_000))
        if target in ("mp3", "mp2"):
            assert seen.bitrate / 1000 == pytest.approx(options["bitrateKbps"], rel=0.1)
        if target in ("wav", "flac", "aiff"):
            assert seen.bits_per_sample == options["bitDepth"]


def test_the_hostile_corpus_does_the_service_no_harm(stack: Stack, tmp_path: Path) -> None:
    """Each hostile file, under names with CR, LF, NUL and dashes, ends with a result or a reason; nothing connects, reads or stays."""
    canary = Canary(tmp_path)
    ana = Client(stack.url, "hostile@example.com").signup().login()
    files = {name: data for name, data in corpus(canary, tmp_path).items() if data}
    files["bomb"] = bomb(tmp_path).read_bytes()
    canary.touched()
    names = (
        "a.mp3",
        "-i.wav",
        "--help.ogg",
        "a\r\nX-Evil: 1.flac",
        "../../etc/passwd.mp3",
        "a\0b.m4a",
        "$(id).wav",
        "%2e%2e.aac",
    )
    before = {child.pid for worker in stack.workers for child in psutil.Process(worker.pid).children(recursive=True)}
    made = {}
    for index, (name, data) in enumerate(files.items()):
        target = "wav" if name == "bomb" else ("wav", "mp3", "ogg")[index % 3]  # only uncompressed it is huge
        form = {"filename": names[index % len(names)], "newFormat": target}
        answer = ana.session.post(f"{stack.url}/api/tasks", data=form, files={"audio": ("x", data)}, timeout=60)
        assert answer.status_code in (200, 400), answer.text
        if answer.status_code == 200:
            made[name] = answer.json()["task"]["id"]
    assert len(made) >= 100
    for name, number in made.items():
        task = ana.wait(number, seconds=300)
        if task["state"] == "FAILED":
            assert task["error"]["code"] in set(FAILURES) - {"conversion_failed", "worker_lost"}, (name, task)
            assert "/" not in task["error"]["message"], (name, task)
        else:
            assert SECRET not in ana.converted(number), name
            assert task["result"]["durationSeconds"] > 0, (name, task)
    assert ana.task(made["bomb"])["error"]["code"] == "too_large"
    assert not canary.touched()
    left = [
        child for worker in stack.workers for child in psutil.Process(worker.pid).children(recursive=True)
        if child.pid not in before and "ffmpeg" in child.name()
    ]  # fmt: skip
    assert left == []
    canary.close()
