"""Whatever is sent to the operations of the served document, each answer is one that the document states."""

import itertools
import json
import secrets
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from flask import Flask
from flask_jwt_extended import create_access_token, create_refresh_token
from hypothesis import given, seed
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from flaskr.db import db, from_now
from flaskr.models import Session
from tests import services
from tests.api.conftest import Hand, Person, config_for, migrated, person
from tests.fuzz.conftest import ANSWERS, CASES, SEED, cases, no_hang
from worker.contract.formats import OUTPUTS

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_headers_conformance,
          response_schema_conformance]  # fmt: skip
SHARE = 0.6  # of all cases; the other share is test_raw.py's
MODES = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)


@dataclass
class Service:
    """The application with some people's tasks in it, and tokens of every kind."""

    app: Flask
    ana: Person
    tasks: list[int]
    job_token: str

    def token(self, kind: str) -> str:
        """A token to send. Sessions that a case may end are made for it."""
        if kind == "job":
            return self.job_token
        if kind == "ana":
            return self.ana.token
        with self.app.app_context():
            session = Session(id=secrets.token_hex(16), user_id=1, expires_at=from_now(3600))
            db.session.add(session)
            db.session.commit()
            claims = {"sid": session.id, "rot": 0}
            make = create_refresh_token if kind == "refresh" else create_access_token
            return str(make(identity="1", additional_claims=claims))


@pytest.fixture(scope="module")
def service(redis_server: services.Redis) -> Iterator[Service]:
    """Made once: what cases change stays changed, and the next must cope with it."""
    redis_server.client.flushall()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        off = dict.fromkeys(
            ("login_failures_per_account", "login_failures_per_address", "sign_ups_per_address",
             "conversions_per_account"), "off",
        )  # fmt: skip
        app = migrated(config_for(f"sqlite:///{folder}/fuzz.db", redis_server.url, folder / "store", **off))
        ana = person(app)
        hand = Hand(app.test_client(), redis_server.client)
        tasks = [ana.upload().get_json()["task"]["id"] for _ in range(40)]
        jobs = hand.jobs()
        for job in jobs[:5]:
            hand.report(job)
        yield Service(app, ana, tasks, jobs[-1]["token"])
        with app.app_context():
            db.session.remove()
            db.engine.dispose()


def test_every_answer_is_one_that_the_document_states(service: Service) -> None:
    """Good and bad parameters and bodies for each operation, with each kind of token: no 5xx, no hang, no surprise."""
    schema = schemathesis.openapi.from_wsgi("/api/openapi.json", service.app)
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 15
    pairs = [pair for pair in itertools.product(operations, MODES)
             if pair[0].label != "GET /api/formats" or pair[1] is GenerationMode.POSITIVE]  # fmt: skip
    for operation, mode in pairs:
        _try(service, operation, mode, SHARE / len(pairs))
    assert ANSWERS.total() >= CASES * SHARE * 0.95  # an operation without parameters has one case


def _try(service: Service, operation: Any, mode: GenerationMode, share: float) -> None:
    kinds = st.sampled_from(("ana", "ana", "ana", "access", "refresh", "job", "none"))
    # Half of the cases are about tasks that there are, and about formats that there are.
    real = st.tuples(st.booleans(), st.sampled_from(service.tasks), st.booleans(), st.sampled_from(sorted(OUTPUTS)))

    @seed(SEED)
    @cases(share)
    @given(case=operation.as_strategy(generation_mode=mode), kind=kinds, choice=real)
    def one(case: Any, kind: str, choice: tuple[bool, int, bool, str]) -> None:
        about_real, task, to_real, target = choice
        if about_real and "task_id" in (case.path_parameters or {}):
            case.path_parameters["task_id"] = task
        if to_real and isinstance(case.body, dict) and "newFormat" in case.body:
            case.body["newFormat"] = target
        if kind == "ana" and operation.label == "POST /api/auth/logout":
            kind = "access"
        headers = {} if kind == "none" else {"Authorization": f"Bearer {service.token(kind)}"}
        with no_hang():
            answer = case.call(headers=headers)
        ANSWERS[operation.label, answer.status_code] += 1
        case.validate_response(answer, checks=CHECKS)

    one()


_names = st.one_of(
    st.sampled_from(["audio", "filename", "newFormat", "bitrateKbps", "", "audio\0"]), st.text(max_size=9)
)
_content = st.one_of(st.binary(max_size=300), st.sampled_from([b"ogg", b"song.mp3", b"wav", b"96", b"x" * 70000]))
_parts = st.lists(st.tuples(_names, st.one_of(st.none(), st.text(max_size=20)), _content), max_size=6)
_breaks = st.sampled_from([b"\r\n", b"\n", b"\r", b""])
_ends = st.sampled_from([b"--b--\r\n", b"--b--", b"--b\r\n", b"", b"--c--\r\n"])


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    """A multipart body, more or less: parts in any order and number, line ends and boundaries that may be off."""
    good = draw(st.booleans())  # the three parts that must be there, well framed; else anything
    end = b"\r\n" if good else draw(_breaks)
    body = draw(st.sampled_from([b"", b"\r\n", b"preamble\r\n"]))
    parts = draw(_parts.filter(lambda each: len(each) < 2)) if good else draw(_parts)
    if good:
        parts += [("audio", draw(st.text(max_size=9)), draw(_content)), ("filename", None, b"song.mp3"),
                  ("newFormat", None, draw(st.sampled_from([b"ogg", b"wav", b"exe", b""])))]  # fmt: skip
    for name, filename, content in parts:
        head = b'Content-Disposition: form-data; name="' + name.encode("utf-8", "surrogatepass") + b'"'
        if filename is not None:
            head += b'; filename="' + filename.encode("utf-8", "surrogatepass") + b'"'
        body += b"--b" + end + head + end + end + content + end
    return body + (b"--b--\r\n" if good else draw(_ends))


def test_every_form_is_understood_or_refused(service: Service) -> None:
    """Uploads whose parts and framing may be broken in any way are taken or refused with a sentence."""
    client = service.app.test_client(use_cookies=False)
    kinds = st.sampled_from([*["multipart/form-data; boundary=b"] * 9, "multipart/form-data", "multipart/form-data; boundary=",
                             "application/x-www-form-urlencoded", "multipart/mixed; boundary=b"])  # fmt: skip

    @seed(SEED)
    @cases(0.1)
    @given(body=forms(), kind=kinds)
    def one(body: bytes, kind: str) -> None:
        with no_hang():
            answer = client.post("/api/tasks", data=body, content_type=kind,
                                 headers={"Authorization": f"Bearer {service.ana.token}"})  # fmt: skip
        ANSWERS["form", answer.status_code] += 1
        assert answer.status_code in (200, 400, 413), (answer.status_code, answer.text)
        assert answer.mimetype == ("application/json" if answer.status_code == 200 else "application/problem+json")
        assert json.loads(answer.data)

    one()
