"""The message on the queue."""

import json

import pytest

from worker.contract.job import Job, JobError

JOB = Job(1, 2, "1/a.mp3", 3, "00000000", "1/a.2.ogg", "ogg", {"bitrateKbps": 96}, "token", "request")


def test_a_job_survives_the_queue() -> None:
    """Encoded, through JSON and decoded, a job is what it was."""
    assert Job.decode(json.loads(json.dumps(JOB.encode()))) == JOB


@pytest.mark.parametrize("name", list(JOB.encode()))
@pytest.mark.parametrize("value", [None, [], True])
def test_a_message_with_a_field_of_the_wrong_kind_is_refused(name: str, value: object) -> None:
    """A field that is missing or of another type makes the message unreadable, instead of failing later."""
    with pytest.raises(JobError):
        Job.decode({**JOB.encode(), name: value})


@pytest.mark.parametrize("message", [None, "x", 7, [], {}, {**JOB.encode(), "version": 99}])
def test_messages_of_other_kinds_and_versions_are_refused(message: object) -> None:
    """What is not a job of this version is refused."""
    with pytest.raises(JobError):
        Job.decode(message)
