"""The wire contract end to end: real processes, real audio, a client that knows only the contract."""

import io
import itertools
import tempfile
import threading
from collections.abc import Iterator

import pytest
from pydub import AudioSegment

from tests.audio import run
from tests.client import Client, tone
from tests.services import wait_for
from tests.stack import Stack

PROFILES = [("sqlite", "folder"), ("postgres", "gcs")]


@pytest.fixture(scope="module", params=PROFILES, ids="-".join)
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """The whole system on each pair of database and store."""
    database, store = request.param
    with Stack(database=database, store=store) as running:
        yield running


def client(stack: Stack, name: str) -> Client:
    return Client(stack.url, f"{name}@example.com").signup().login()


def loudest(audio: bytes, extension: str) -> tuple[float, int]:
    """Return seconds and pitch in hertz, as an independent reader hears them."""
    with tempfile.NamedTemporaryFile(suffix=f".{extension}") as file:
        file.write(audio)
        file.flush()
        heard = AudioSegment.from_wav(io.BytesIO(run("-i", file.name, "-f", "wav", "-c:a", "pcm_s16le", "pipe:1")))
    samples = heard.set_channels(1).set_frame_rate(8000).get_array_of_samples()[800:-800]
    crossings = sum(1 for one, following in itertools.pairwise(samples) if one < 0 <= following)
    return heard.duration_seconds, round(crossings / (len(samples) / 8000))


@pytest.mark.parametrize(
    ("first", "then"),
    [("mp3", "ogg"), ("ogg", "wav"), ("wav", "mp3"), ("mp3", "wav"), ("flac", "m4a"), ("opus", "mp3")],
)
def test_a_conversion_sounds_like_its_original(stack: Stack, first: str, then: str) -> None:
    """Through two conversions length and pitch stay, as pydub hears them; the original comes back unchanged."""
    ana = client(stack, f"sound-{first}-{then}")
    audio, name = tone(2, hertz=523), "A tone.wav"
    for target in (first, then):
        task = ana.wait(ana.upload(audio, name, target)["id"])
        assert task["state"] == "PROCESSED", task
        assert ana.original(task["id"]) == audio
        audio, name = ana.converted(task["id"]), f"A tone.{target}"
        assert len(audio) == task["result"]["bytes"]
    seconds, hertz = loudest(audio, then)
    assert seconds == pytest.approx(2, abs=0.1)
    assert hertz == pytest.approx(523, abs=5)


def test_the_sequence_of_existing_clients(stack: Stack) -> None:
    """Upload, list with max and order, read, download, change, delete: fields and codes as they know them."""
    ana = client(stack, "existing")
    ids = [
        ana.upload(tone(hertz=300 + n), f"t{n}.wav", target)["id"]
        for n, target in enumerate(["mp3", "ogg", "wav", "mp3"])
    ]
    assert {ana.wait(number)["state"] for number in ids} == {"PROCESSED"}
    assert [task["id"] for task in ana.tasks(max=2, order=1)] == ids[:1:-1]
    assert [task["id"] for task in ana.tasks(max=2, order=0)] == ids[:2]
    task = ana.task(ids[0])
    assert {"id", "timestamp", "name", "originalExt", "convertedExt", "state", "user"} <= set(task)
    assert ana.call("GET", f"/api/download/{ids[0]}").content == tone(hertz=300)
    ana.change(ids[0], "ogg", bitrateKbps=64)
    again = ana.wait(ids[0])
    assert (again["state"], again["convertedExt"], again["result"]["codec"]) == ("PROCESSED", "ogg", "vorbis")
    ana.delete(ids[0])
    ana.task(ids[0], status=404)
    ana.logout()
    ana.call("GET", "/api/tasks", status=401)


def test_what_is_not_audio_fails_with_a_reason(stack: Stack) -> None:
    """A text under an audio name ends FAILED with code and sentence, without a path in it."""
    ana = client(stack, "text")
    task = ana.wait(ana.upload(b"To whom it may concern\n" * 50, "letter.mp3", "ogg")["id"])
    assert (task["state"], task["error"]["code"]) == ("FAILED", "not_audio")
    assert "/" not in task["error"]["message"]
    ana.call("GET", f"/api/tasks/{task['id']}/converted", status=409)


@pytest.mark.parametrize("name", ["../../x y.mp3", "SONG.MP3", "🎵.mp3", "ñ" * 300 + ".mp3", "-rf.mp3"])
def test_odd_names_convert_to_their_own_extension(stack: Stack, name: str) -> None:
    """A name that could escape, collide or overflow converts, and its original stays what it was."""
    ana = client(stack, f"odd{sum(name.encode())}")
    audio = ana.converted(ana.wait(ana.upload(tone(), "t.wav", "mp3")["id"])["id"])
    task = ana.wait(ana.upload(audio, name, "mp3")["id"])
    assert task["state"] == "PROCESSED"
    assert ana.original(task["id"]) == audio
    answer = ana.call("GET", f"/api/tasks/{task['id']}/converted")
    assert "/" not in answer.headers["Content-Disposition"].partition("filename=")[2].partition(";")[0]


def test_two_users_with_one_file_name_get_their_own(stack: Stack) -> None:
    """Twenty files of the same name, uploaded at once by two users, each come back with their own pitch."""
    people = [client(stack, "twin-a"), client(stack, "twin-b")]
    wrong: list[object] = []

    def one(person: Client, hertz: int) -> None:
        task = person.wait(person.upload(tone(hertz=hertz), "song.wav", "mp3")["id"])
        heard = loudest(person.converted(task["id"]), "mp3")[1]
        if abs(heard - hertz) > 5:
            wrong.append((hertz, heard))

    threads = [threading.Thread(target=one, args=(people[n % 2], 300 + 40 * n)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_formats_are_those_of_the_workers(stack: Stack) -> None:
    """GET /api/formats lists what the running workers can write."""
    listed = wait_for(lambda: client_formats(stack), "formats")
    assert {"mp3", "ogg", "wav", "flac", "m4a", "opus"} <= set(listed)


def client_formats(stack: Stack) -> list[str]:
    return list(Client(stack.url).call("GET", "/api/formats").json()["outputs"])
