"""The bodies and parameters on the wire, as the OpenAPI document shows them."""

from typing import Any

from marshmallow import EXCLUDE, INCLUDE, Schema, ValidationError, fields, validate

from flaskr.conversions import PAGE
from flaskr.models import SHOWN


class Text(fields.String):
    """A string that a database and a log can hold: no NUL, no half of a surrogate pair."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = super()._deserialize(value, attr, data, **kwargs)
        if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            raise ValidationError("This text has characters that cannot be stored.")
        return text


class Lenient(Schema):
    """Fields that it does not know are passed over: clients may send more than this release reads."""

    class Meta:
        unknown = EXCLUDE


class SignUp(Lenient):
    """A new account."""

    user = Text(required=True, validate=validate.Length(max=1000), metadata={"description": "1 to 64 characters"})
    email = Text(required=True, validate=validate.Length(max=1000))
    password1 = Text(required=True, validate=validate.Length(max=1000), metadata={"format": "password"})
    password2 = Text(required=True, validate=validate.Length(max=1000), metadata={"format": "password"})


class LogIn(Lenient):
    """Who wants to log in."""

    email = Text(required=True, validate=validate.Length(min=1, max=1000))
    password = Text(required=True, validate=validate.Length(min=1, max=1000), metadata={"format": "password"})
    refreshIn = Text(
        load_default="body", validate=validate.OneOf(["body", "cookie"]),
        metadata={"description": "where the refresh token goes: into the answer's body, or into a cookie that no script can read"},
    )  # fmt: skip
    stay = fields.Boolean(
        load_default=False, metadata={"description": "whether that cookie outlives the browser's session"}
    )


class Message(Schema):
    """A sentence."""

    message = fields.String(required=True)


class Tokens(Schema):
    """JWTs; `expiresIn` is the access token's life in seconds. A refresh token is good for one use."""

    token = fields.String(required=True)
    refreshToken = fields.String(metadata={"description": "not there when it went into the cookie"})
    expiresIn = fields.Integer(required=True)


class Problem(Schema):
    """RFC 9457 problem details, with `error` as one sentence for people."""

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    error = fields.String(required=True)
    errors = fields.Dict(keys=fields.String(), values=fields.List(fields.String()))
    state = fields.String(metadata={"description": "with 409 for a file that is not there: the task's state"})
    quota = fields.String(metadata={"description": "with 429: which limit it is; Retry-After says when to try again"})


class Progress(Schema):
    """How far a running conversion is."""

    phase = fields.String(required=True)
    percent = fields.Float(required=True, allow_none=True)


class Failure(Schema):
    """Why a task failed."""

    code = fields.String(required=True)
    message = fields.String(required=True)


class Task(Schema):
    """A file and its conversion."""

    id = fields.Integer(required=True)
    timestamp = fields.String(required=True, metadata={"format": "date-time"})
    name = fields.String(required=True)
    originalExt = fields.String(required=True)
    convertedExt = fields.String(required=True)
    newFormat = fields.String(required=True)
    state = fields.String(required=True, validate=validate.OneOf([str(s) for s in SHOWN]))
    user = fields.String(required=True)
    attempt = fields.Integer(required=True)
    options = fields.Dict(required=True)
    originalBytes = fields.Integer(required=True, allow_none=True)
    progress = fields.Nested(Progress, required=True, allow_none=True)
    error = fields.Nested(Failure, required=True, allow_none=True)
    result = fields.Dict(required=True, allow_none=True)
    source = fields.Dict(required=True, allow_none=True)
    waveform = fields.Boolean(required=True, metadata={"description": "whether there is one to fetch"})
    startedAt = fields.String(required=True, allow_none=True, metadata={"format": "date-time"})
    finishedAt = fields.String(required=True, allow_none=True, metadata={"format": "date-time"})
    expiresAt = fields.String(required=True, allow_none=True, metadata={
        "format": "date-time", "description": "when it will be removed, where old tasks are"})  # fmt: skip


class Waveform(Schema):
    """How far from zero the samples of the converted file get, from its beginning to its end, in equal steps of time."""

    version = fields.Integer(required=True)
    full = fields.Integer(required=True, metadata={"description": "the peak of full scale"})
    peaks = fields.List(fields.Integer(), required=True, metadata={"description": "600 at most, each from 0 to `full`"})


class Created(Message):
    """The task that an upload became."""

    task = fields.Nested(Task, required=True)


class TaskQuery(Lenient):
    """Which tasks to list."""

    max = fields.Integer(
        validate=validate.Range(min=0),
        metadata={"description": f"at most so many; a page has {PAGE} at most, and Link names the next"},
    )
    order = fields.Integer(
        load_default=0,
        validate=validate.OneOf([0, 1]),
        metadata={"description": "0 oldest first, 1 newest first"},
    )
    state = Text(metadata={"description": "only these states, separated by commas"})
    name = Text(validate=validate.Length(max=255), metadata={"description": "only names that contain this"})
    after = fields.Integer(validate=validate.Range(min=0, max=2**63 - 1), metadata={
        "description": "the page after the task with this id"})  # fmt: skip


class Numbers(fields.List[int]):
    """Ids, as a JSON array or, in an address, separated by commas."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> list[Any]:
        if isinstance(value, str):
            value = [value]
        if isinstance(value, list):
            value = [part for one in value for part in (one.split(",") if isinstance(one, str) else [one])]
        return super()._deserialize(value, attr, data, **kwargs)


class ArchiveQuery(Lenient):
    """Which of your converted files to put together; all of them when nothing is said."""

    tasks = Numbers(
        fields.Integer(validate=validate.Range(min=0, max=2**63 - 1)), validate=validate.Length(min=1, max=500),
        metadata={"description": "only these tasks"},
    )  # fmt: skip
    name = Text(validate=validate.Length(max=255), metadata={"description": "only names that contain this"})


class FileLink(Lenient):
    """Which file of a task."""

    file = fields.String(load_default="converted", validate=validate.OneOf(["original", "converted"]))


class Link(Schema):
    """An address that needs no token for `expiresIn` seconds; it opens one file or archive, and dies with the session."""

    url = fields.String(required=True, metadata={"description": "relative to this API, or the store's own"})
    expiresIn = fields.Integer(required=True)


class Version(Schema):
    """A word that is another one after every change."""

    version = fields.String(required=True)


class Watch(Link, Version):
    """Where to ask for changes, and the word to compare with."""


class NewConversion(Schema):
    """What to convert the original to; the options of GET /api/formats stand beside it."""

    class Meta:
        unknown = INCLUDE

    newFormat = Text(required=True, validate=validate.Length(max=100))


class PlanQuery(Schema):
    """A conversion to think through: of a task, or of a file that `probe` describes. Options stand in `options` or beside it."""

    class Meta:
        unknown = INCLUDE

    newFormat = Text(required=True, validate=validate.Length(max=100))
    options = fields.Dict(keys=Text())
    task = fields.Integer(strict=True, validate=validate.Range(min=0, max=2**63 - 1))
    probe = fields.Dict(keys=Text())


def _sized(result: dict[str, Any]) -> None:
    size = result.get("bytes")
    if size is not None and (type(size) is not int or not 0 <= size < 2**60):
        raise ValidationError("The result's bytes must be a whole number.")


class Claim(Lenient):
    """Who claims; the same name again is a renewal."""

    worker = Text(load_default="", validate=validate.Length(max=64))


class Report(Lenient):
    """How an attempt ended."""

    attempt = fields.Integer(strict=True, required=True)
    outcome = fields.String(required=True, validate=validate.OneOf(["done", "failed"]))
    result = fields.Dict(keys=fields.String(), allow_none=True, validate=_sized)
    error = fields.Nested(
        type("ReportedFailure", (Lenient,), {"code": Text(required=True), "message": Text(required=True)}),
        allow_none=True,
    )
    source = fields.Dict(keys=fields.String(), allow_none=True)
    phases = fields.Dict(keys=Text(validate=validate.Length(max=20)), values=fields.Float(), allow_none=True)
    waveform = fields.Nested(
        type("ReportedWaveform", (Lenient,), {
            "bytes": fields.Integer(required=True), "crc32c": Text(required=True, validate=validate.Regexp("[0-9a-f]{8}$"))
        }),
        allow_none=True,
    )  # fmt: skip


class Lease(Schema):
    """How long an attempt is the worker's without another claim."""

    attempt = fields.Integer(required=True)
    leaseSeconds = fields.Float(required=True)


class Ready(Schema):
    """What answers, each part by name."""

    database = fields.String()
    broker = fields.String()
    store = fields.String()
