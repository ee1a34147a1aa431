"""What can go wrong, by what the person can do about it. Each kind has its exit code."""


class ClientError(Exception):
    """The message is a sentence for the person at the terminal."""

    exit_code = 1


class UsageError(ClientError):
    """The command line asks for what does not exist or is out of range."""

    exit_code = 2


class NotSignedIn(ClientError):
    """There is no session, or its end has come, or the password is wrong."""

    exit_code = 3


class ServiceTrouble(ClientError):
    """The service cannot be reached, or kept failing until retries ran out."""

    exit_code = 4


class LocalTrouble(ClientError):
    """A file here cannot be read or written."""

    exit_code = 5


class Refused(ClientError):
    """The service said no to this one request, for good. `status` is its code."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Interrupted(Exception):
    """Ctrl-C: what is under way stops at the next block of bytes."""
