"""Tasks over HTTP, the test playing the worker."""

import io
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import update

from flaskr.db import db, from_now
from flaskr.models import Task
from tests.api.conftest import Hand, Person
from tests.services import Redis

ODD_NAMES = [
    ("../../x y.mp3", "x y.mp3"), ("..\\..\\boot.mp3", "boot.mp3"), ("SONG.MP3", "SONG.MP3"), ("🎵 señal.mp3", "🎵 señal.mp3"),
    ("a\r\nb.mp3", "ab.mp3"), ('q"u;o.mp3', "qu;o.mp3"), ("-rf.mp3", "-rf.mp3"), ("\u202egpj.mp3", "gpj.mp3"),
]  # fmt: skip


def sweep(app: Flask) -> dict[str, int]:
    with app.app_context():
        found: dict[str, int] = app.extensions["conversions"].sweep()
        db.session.remove()
    return found


def age(app: Flask, task_id: int, **moments: float) -> None:
    """Move moments of a row, in seconds from now."""
    with app.app_context():
        values = {name: from_now(seconds) for name, seconds in moments.items()}
        db.session.execute(update(Task).where(Task.id == task_id).values(**values))
        db.session.commit()


def objects(app: Flask, task_id: int) -> list[str]:
    return sorted(app.extensions["store"].list(f"{task_id}/"))


def put_result(app: Flask, job: dict[str, Any], data: bytes = b"converted") -> None:
    store = app.extensions["store"]
    with store.spool() as file:
        file.write(data)
        store.put(job["target"], file)


def test_an_upload_becomes_a_task_and_a_job(app: Flask, ana: Person, hand: Hand) -> None:
    """The answer shows the task, the object is under its id, and the job on the queue names both."""
    answer = ana.upload("Mi canción.MP3", "OGG", bitrateKbps="96")
    assert answer.status_code == 200, answer.text
    task = answer.get_json()["task"]
    assert task["name"] == "Mi canción.MP3"
    assert (task["originalExt"], task["convertedExt"], task["state"]) == ("mp3", "ogg", "UPLOADED")
    assert (task["user"], task["attempt"], task["options"]) == (ana.email, 1, {"bitrateKbps": 96})
    assert task["timestamp"].endswith("+00:00")
    assert objects(app, task["id"]) == [f"{task['id']}/Mi canción.MP3"]
    job = hand.job()
    assert (job["task"], job["attempt"], job["options"]) == (task["id"], 1, {"bitrateKbps": 96})
    assert job["target"] == f"{task['id']}/Mi canción.ogg"


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({}, "audio"),
        ({"audio": (io.BytesIO(b"x"), "a.mp3"), "newFormat": "ogg"}, "filename"),
        ({"audio": (io.BytesIO(b"x"), "a.mp3"), "filename": "a.mp3"}, "newFormat"),
        ({"audio": (io.BytesIO(b""), "a.mp3"), "filename": "a.mp3", "newFormat": "ogg"}, "audio"),
        ({"audio": "text", "filename": "a.mp3", "newFormat": "ogg"}, "audio"),
        ({"audio": (io.BytesIO(b"x"), "a"), "filename": "a", "newFormat": "ogg"}, "filename"),
        ({"audio": (io.BytesIO(b"x"), "a"), "filename": "....", "newFormat": "ogg"}, "filename"),
        ({"audio": (io.BytesIO(b"x"), "a"), "filename": "a.exe", "newFormat": "ogg"}, "filename"),
        ({"audio": (io.BytesIO(b"x"), "a"), "filename": "a.mp3", "newFormat": "exe"}, "newFormat"),
        ({"audio": (io.BytesIO(b"x"), "a"), "filename": "a.mp3", "newFormat": "ogg", "volume": "9"}, "volume"),
        ({"audio": (io.BytesIO(b"x"), "a"), "filename": "a.mp3", "newFormat": "ogg", "bitrateKbps": "x"}, "bitrateKbps"),
        ({"audio": (io.BytesIO(b"x"), "a"), "filename": "a.mp3", "newFormat": "opus", "sampleRateHz": "44100"},
         "sampleRateHz"),
    ],
)  # fmt: skip
def test_bad_uploads_name_the_field_and_leave_nothing(
    app: Flask, ana: Person, hand: Hand, form: dict[str, Any], field: str
) -> None:
    """A form with something missing, empty, unknown or out of range gets 400, and no task, object or job."""
    fresh = {k: (io.BytesIO(v[0].getvalue()), v[1]) if isinstance(v, tuple) else v for k, v in form.items()}
    answer = ana.call("POST", "/api/tasks", data=fresh, content_type="multipart/form-data")
    assert answer.status_code == 400, answer.text
    assert field in answer.get_json()["errors"]
    assert ana.call("GET", "/api/tasks").get_json() == []
    assert hand.jobs() == []


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"garbage", "multipart/form-data"), (b"garbage", "multipart/form-data; boundary=x"), (b"{}", "application/json"),
     (b"--x\r\nContent-Disposition: form-data; name=audio; filename=a", "multipart/form-data; boundary=x")],
)  # fmt: skip
def test_broken_multipart_bodies_get_400(ana: Person, body: bytes, kind: str) -> None:
    """A body that is not the form it should be is answered 400."""
    assert ana.call("POST", "/api/tasks", data=body, content_type=kind).status_code == 400


def test_a_large_upload_arrives_whole(ana: Person) -> None:
    """A file far above the parser's buffer and the limit for text fields is stored byte for byte."""
    data = bytes(range(256)) * 12_000
    task_id = ana.upload(data=data).get_json()["task"]["id"]
    assert ana.call("GET", f"/api/tasks/{task_id}/original").data == data


def test_too_large_an_upload_gets_413(make_app: Callable[..., Flask], ana: Person) -> None:
    """A body above the limit is refused before it is stored."""
    small = Person(make_app(max_upload_bytes=2048).test_client(), ana.email, ana.token, ana.refresh_token)
    answer = small.upload(data=b"x" * (2048 + 1024 * 1024 + 1))
    assert answer.status_code == 413
    assert small.call("GET", "/api/tasks").get_json() == []


@pytest.mark.parametrize(("given", "kept"), ODD_NAMES)
def test_odd_names_stay_inside_their_prefix(app: Flask, ana: Person, given: str, kept: str) -> None:
    """Paths, control characters and bidi marks are taken out of names; what is safe comes back on download."""
    task = ana.upload(given).get_json()["task"]
    assert task["name"] == kept
    assert objects(app, task["id"]) == [f"{task['id']}/{kept}"]
    answer = ana.call("GET", f"/api/tasks/{task['id']}/original")
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"].startswith("attachment; ")


def test_long_names_are_cut_but_keep_their_extension(app: Flask, ana: Person, hand: Hand) -> None:
    """A name of 300 characters is stored within 200 bytes, for the original as for the result."""
    task = ana.upload("ñ" * 300 + ".mp3", "mp3").get_json()["task"]
    assert task["name"].endswith("ñ.mp3")
    assert len(task["name"].encode()) <= 200
    put_result(app, hand.job())
    assert len(objects(app, task["id"])) == 2


@pytest.mark.parametrize(("name", "target"), [("song.mp3", "mp3"), ("SONG.MP3", "mp3"), ("song.1.mp3", "mp3")])
def test_a_conversion_never_overwrites_its_original(
    app: Flask, ana: Person, hand: Hand, name: str, target: str
) -> None:
    """Converting to the same extension, in whatever case, writes another object than the original."""
    ana.upload(name, target)
    job = hand.job()
    assert job["target"].casefold() != job["source"].casefold()


def test_the_life_of_a_task(app: Flask, ana: Person, hand: Hand) -> None:
    """Claimed it is PROCESSING, reported it is PROCESSED and can be fetched, whole and in part; before, it is 409."""
    task_id = ana.upload("song.mp3", "ogg").get_json()["task"]["id"]
    assert ana.call("GET", f"/api/tasks/{task_id}/converted").status_code == 409
    job = hand.job()
    claim = hand.claim(job)
    assert (claim.status_code, claim.get_json()["leaseSeconds"]) == (200, 30)
    task = ana.task(task_id)
    assert (task["state"], task["progress"]["phase"], task["error"]) == ("PROCESSING", "starting", None)
    put_result(app, job, b"0123456789")
    assert hand.report(job, source={"codec": "mp3"}).status_code == 200
    task = ana.task(task_id)
    assert (task["state"], task["progress"], task["result"]["codec"]) == ("PROCESSED", None, "vorbis")
    assert task["startedAt"] <= task["finishedAt"]
    whole = ana.call("GET", f"/api/tasks/{task_id}/converted")
    assert (whole.status_code, whole.data, whole.mimetype) == (200, b"0123456789", "audio/ogg")
    assert "song.ogg" in whole.headers["Content-Disposition"]
    part = ana.call("GET", f"/api/tasks/{task_id}/converted", headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.data, part.headers["Content-Range"]) == (206, b"234", "bytes 2-4/10")
    beyond = ana.call("GET", f"/api/tasks/{task_id}/converted", headers={"Range": "bytes=99-"})
    assert beyond.status_code == 416
    same = ana.call("GET", f"/api/tasks/{task_id}/converted", headers={"If-None-Match": whole.headers["ETag"]})
    assert same.status_code == 304
    for path in (f"/api/download/{task_id}", f"/api/tasks/{task_id}/original"):
        assert ana.call("GET", path).data == b"abc" * 999


def test_a_failed_task_says_why(ana: Person, hand: Hand) -> None:
    """A failure reported shows as FAILED with code and sentence, and there is nothing to fetch."""
    task_id = ana.upload().get_json()["task"]["id"]
    job = hand.job()
    hand.claim(job)
    assert hand.fail(job).status_code == 200
    task = ana.task(task_id)
    assert (task["state"], task["error"]["code"]) == ("FAILED", "not_audio")
    assert ana.call("GET", f"/api/tasks/{task_id}/converted").status_code == 409


def test_the_fence_around_an_attempt(app: Flask, ana: Person, hand: Hand) -> None:
    """One delivery holds an attempt; renewals pass, copies and superseded attempts get 409, repeated reports 200."""
    task_id = ana.upload().get_json()["task"]["id"]
    first = hand.job()
    assert hand.claim(first, "a").status_code == 200
    assert hand.claim(first, "a").status_code == 200
    assert hand.claim(first, "b").status_code == 409
    assert ana.call("PUT", f"/api/tasks/{task_id}", json={"newFormat": "wav"}).status_code == 200
    assert hand.claim(first, "a").status_code == 409
    assert hand.report(first).status_code == 409
    second = hand.job()
    assert second["target"] != first["target"]
    assert hand.claim(second, "c").status_code == 200
    assert hand.report(second).status_code == 200
    assert hand.report(second).status_code == 200
    assert hand.fail(second).status_code == 409
    assert hand.claim(second, "c").status_code == 409
    assert ana.task(task_id)["state"] == "PROCESSED"
    assert ana.call("DELETE", f"/api/tasks/{task_id}").status_code == 200
    assert hand.claim(second).status_code == 404
    assert hand.report(second).status_code == 404


def test_a_worker_may_give_an_attempt_back(ana: Person, hand: Hand) -> None:
    """Only who holds an attempt can; the next one is announced at once, and the old one is superseded."""
    task_id = ana.upload().get_json()["task"]["id"]
    first = hand.job()
    assert hand.release(first, "a").status_code == 409
    assert hand.claim(first, "a").status_code == 200
    assert hand.release(first, "b").status_code == 409
    assert hand.release(first, "a").status_code == 200
    assert hand.release(first, "a").status_code == 409
    assert hand.report(first).status_code == 409
    task = ana.task(task_id)
    assert (task["state"], task["attempt"], task["startedAt"]) == ("UPLOADED", 2, None)
    second = hand.job()
    assert hand.claim(second, "b").status_code == 200
    assert hand.report(second).status_code == 200
    assert hand.release(second, "b").status_code == 409
    assert ana.call("DELETE", f"/api/tasks/{task_id}").status_code == 200
    assert hand.release(second, "b").status_code == 404


def test_a_claim_without_a_name(ana: Person, hand: Hand) -> None:
    """The token alone claims and renews; a claimant with a name and one without are two."""
    ana.upload()
    job = hand.job()
    headers = {"Authorization": f"Bearer {job['token']}"}
    for _ in range(2):
        assert hand.client.post(f"/api/tasks/{job['task']}/claimed", headers=headers).status_code == 200
    assert hand.claim(job, "a").status_code == 409


def test_job_tokens_open_nothing_else(ana: Person, ben: Person, hand: Hand) -> None:
    """A job token is good for its own task alone; users' tokens, none and garbage cannot claim or report."""
    ana.upload()
    ben.upload()
    mine, other = hand.jobs()
    assert hand._post({**mine, "task": other["task"]}, "claimed", {}).status_code == 401
    for token in (ana.token, "", "x.y.z", mine["token"][:-1]):
        assert hand._post({**mine, "token": token}, "claimed", {}).status_code == 401
        assert hand._post({**mine, "token": token}, "processed", {"attempt": 1, "outcome": "done"}).status_code == 401
    assert ana.call("GET", "/api/tasks", token=mine["token"]).status_code == 401
    assert hand._post(mine, "processed", {"attempt": 2, "outcome": "done", "result": {}}).status_code == 409
    for body in ({}, {"attempt": 1}, {"attempt": 1, "outcome": "maybe"}, {"attempt": 1, "outcome": "done"}, [], 7):
        assert hand._post(mine, "processed", body).status_code == 400  # type: ignore[arg-type]


def test_other_peoples_tasks_do_not_exist(ana: Person, ben: Person) -> None:
    """Whatever somebody else asks of a task, the answer is 404, as for one that is not there."""
    task_id = ana.upload().get_json()["task"]["id"]
    for number in (task_id, 999_999, 2**63 - 1, 2**63, 10**30):
        for path in (f"/api/tasks/{number}", f"/api/tasks/{number}/original", f"/api/tasks/{number}/converted",
                     f"/api/download/{number}"):  # fmt: skip
            assert ben.call("GET", path).status_code == 404, path
        assert ben.call("PUT", f"/api/tasks/{number}", json={"newFormat": "wav"}).status_code == 404
        assert ben.call("DELETE", f"/api/tasks/{number}").status_code == 404
    assert ben.call("GET", "/api/tasks").get_json() == []
    assert ana.task(task_id)["state"] == "UPLOADED"


def test_lists_are_ordered_limited_filtered_and_paged(ana: Person, hand: Hand) -> None:
    """max, order, state and name select; Link leads through all pages without gap or repetition."""
    ids = [ana.upload(f"track {n}.mp3").get_json()["task"]["id"] for n in range(5)]
    hand.fail(hand.jobs()[0])

    def listed(query: str) -> list[int]:
        return [task["id"] for task in ana.call("GET", f"/api/tasks?{query}").get_json()]

    assert listed("") == listed("order=0") == ids
    assert listed("order=1") == ids[::-1]
    assert listed("max=2&order=1") == ids[:-3:-1]
    assert listed("max=0") == []
    assert listed("state=FAILED") == ids[:1]
    assert listed("state=uploaded,failed") == ids
    assert listed("name=TRACK%203") == [ids[3]]
    assert listed("name=%25") == []
    walked, path = [], "/api/tasks?max=2&order=1"
    while path:
        answer = ana.call("GET", path)
        walked += [task["id"] for task in answer.get_json()]
        path = answer.headers["Link"].split(">")[0][1:] if "Link" in answer.headers else ""
    assert walked == ids[::-1]


@pytest.mark.parametrize(
    "query", ["max=abc", "max=-1", "max=1.5", "order=2", "order=x", "state=GONE", "after=x", "max="]
)
def test_bad_list_parameters_get_400(ana: Person, query: str) -> None:
    """A parameter out of its range is named in a 400."""
    answer = ana.call("GET", f"/api/tasks?{query}")
    assert answer.status_code == 400
    assert query.split("=")[0] in answer.get_json()["errors"]


def test_put_converts_again_in_every_state(app: Flask, ana: Person, hand: Hand) -> None:
    """PUT is taken when waiting, running, done and failed; the newest wins, and older results are removed."""
    task_id = ana.upload("song.mp3", "ogg").get_json()["task"]["id"]

    def change(target: str, **options: Any) -> dict[str, Any]:
        answer = ana.call("PUT", f"/api/tasks/{task_id}", json={"newFormat": target, **options})
        assert answer.status_code == 200, answer.text
        assert answer.get_json()["state"] == "UPLOADED"
        return hand.jobs()[-1]

    change("wav")
    job = change("flac", bitDepth=24)
    assert job["options"] == {"bitDepth": 24}
    hand.claim(job)
    job = change("ogg")
    hand.claim(job)
    put_result(app, job)
    hand.report(job)
    job = change("wav")
    assert len(objects(app, task_id)) == 1
    hand.fail(job)
    job = change("mp3")
    assert (job["attempt"], ana.task(task_id)["error"]) == (6, None)
    for body in ({"newFormat": "exe"}, {}, {"newFormat": "ogg", "volume": 1}, {"newFormat": "ogg", "bitrateKbps": "no"},
                 [], "x"):  # fmt: skip
        assert ana.call("PUT", f"/api/tasks/{task_id}", json=body).status_code == 400
    assert ana.task(task_id)["attempt"] == 6


def test_delete_removes_row_and_objects_in_every_state(app: Flask, ana: Person, hand: Hand) -> None:
    """After DELETE nothing is left of a task; one that a worker is at is looked after until it cannot upload."""
    waiting = ana.upload().get_json()["task"]["id"]
    hand.jobs()
    running = ana.upload().get_json()["task"]["id"]
    job = hand.job()
    hand.claim(job)
    for task_id in (waiting, running):
        assert ana.call("DELETE", f"/api/tasks/{task_id}").status_code == 200
        assert ana.call("DELETE", f"/api/tasks/{task_id}").status_code == 404
        assert ana.call("GET", f"/api/tasks/{task_id}").status_code == 404
        assert objects(app, task_id) == []
    put_result(app, job)  # a worker that dies right after its upload
    age(app, running, tidy_at=-1)
    assert sweep(app)["tidied"] == 1
    assert objects(app, running) == []
    with app.app_context():
        assert db.session.query(Task).count() == 0


def test_a_broker_that_is_away_fails_no_upload(
    make_app: Callable[..., Flask], ana: Person, hand: Hand, app: Flask
) -> None:
    """Without Redis uploads and reads answer as ever; the sweeper sends the jobs once it is back."""
    from worker.contract.settings import Addresses

    addresses = app.extensions["store"]._objects.parent
    cut_off = make_app(addresses=Addresses("redis://127.0.0.1:1/0", f"file://{addresses}"))
    client = Person(cut_off.test_client(), ana.email, ana.token, ana.refresh_token)
    task_ids = [client.upload().get_json()["task"]["id"] for _ in range(3)]
    assert client.task(task_ids[0])["state"] == "UPLOADED"
    ready = cut_off.test_client().get("/readyz")
    assert (ready.status_code, ready.get_json()) == (503, {"database": "ok", "broker": "unavailable", "store": "ok"})
    assert cut_off.test_client().get("/readyz?parts=database,store").status_code == 200
    assert sweep(cut_off)["message_unsent"] == 0
    assert sweep(app)["message_unsent"] == 3
    assert sweep(app)["message_unsent"] == 0
    assert [job["task"] for job in hand.jobs()] == task_ids


def test_lost_messages_are_sent_again_by_evidence(app: Flask, ana: Person, hand: Hand) -> None:
    """A message is lost when the queue is empty or was overtaken; one that waits behind others is not sent again."""
    first, second, third = (ana.upload().get_json()["task"]["id"] for _ in range(3))
    for task_id, seconds in ((first, -300), (second, -200), (third, -100)):
        age(app, task_id, sent_at=seconds)
    assert sweep(app)["message_lost"] == 0  # a backlog: they are all on the queue
    jobs = hand.jobs()
    app.extensions["queue"].redis.lpush("conversions", "another")
    hand.claim(jobs[1])
    age(app, second, started_at=-60)
    assert sweep(app)["message_lost"] == 1  # the first was overtaken by the second; the third may yet come
    assert hand.redis.llen("conversions") == 2
    hand.redis.delete("conversions")
    assert sweep(app)["message_lost"] == 1  # the queue is empty, so the third is lost; the first was sent just now
    assert [job["task"] for job in hand.jobs()] == [third]
    assert sweep(app)["message_lost"] == 0


def test_an_expired_lease_gives_the_task_to_another_and_ends_after_three(app: Flask, ana: Person, hand: Hand) -> None:
    """A silent worker's attempt is issued again under a new number, its late report refused; the third is the last."""
    task_id = ana.upload().get_json()["task"]["id"]
    for attempt in (1, 2, 3):
        job = hand.job()
        assert job["attempt"] == attempt
        hand.claim(job, f"w{attempt}")
        assert sweep(app)["lease_expired"] == 0
        age(app, task_id, lease_until=-1)
        assert sweep(app)["lease_expired"] == 1
        assert hand.report(job).status_code == 409
    task = ana.task(task_id)
    assert (task["state"], task["error"]["code"]) == ("FAILED", "worker_lost")
    assert hand.jobs() == []


def test_an_upload_whose_process_died_leaves_nothing(app: Flask, ana: Person) -> None:
    """A row that never became UPLOADED is invisible, and the sweeper removes it and its object."""
    task_id = ana.upload().get_json()["task"]["id"]
    with app.app_context():
        db.session.execute(update(Task).where(Task.id == task_id).values(state="RECEIVING"))
        db.session.commit()
    assert ana.call("GET", f"/api/tasks/{task_id}").status_code == 404
    assert sweep(app)["upload_given_up"] == 0
    age(app, task_id, created_at=-7200)
    assert sweep(app)["upload_given_up"] == 1
    assert objects(app, task_id) == []
    age(app, task_id, tidy_at=-1)
    sweep(app)
    with app.app_context():
        assert db.session.query(Task).count() == 0


def test_too_many_waiting_tasks_get_429(make_app: Callable[..., Flask], ana: Person) -> None:
    """Over quota the answer is 429 and says when to try again."""
    few = Person(make_app(max_waiting_tasks=1).test_client(), ana.email, ana.token, ana.refresh_token)
    assert few.upload().status_code == 200
    answer = few.upload()
    assert answer.status_code == 429
    assert int(answer.headers["Retry-After"]) > 0


def test_progress_shows_while_it_runs(app: Flask, ana: Person, hand: Hand, redis_server: Redis) -> None:
    """What the worker says of its progress shows in the task; that of an older attempt does not."""
    from worker.contract.queue import Progress

    task_id = ana.upload().get_json()["task"]["id"]
    hand.claim(hand.job())
    app.extensions["queue"].write_progress(task_id, Progress(1, "converting", 41.5))
    assert ana.task(task_id)["progress"] == {"phase": "converting", "percent": 41.5}
    app.extensions["queue"].write_progress(task_id, Progress(7, "converting", 41.5))
    assert ana.task(task_id)["progress"] == {"phase": "starting", "percent": None}
