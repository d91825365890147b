"""Errors that are shown to a user without a traceback: what failed, the reason, the next step."""


class AtlasError(Exception):
    """An error with a message for the user. usage: the command was wrong (exit code 2), else it failed (1)."""

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


class SourceFault(AtlasError):
    """The listing of the source cannot be trusted: the run stops, and the next one reads it from the start."""


class NotRecorded(AtlasError):
    """A recording has no answer to a request."""


class Refused(AtlasError):
    """The source answers a request with an error status."""


class Unreachable(AtlasError):
    """The source does not answer."""
