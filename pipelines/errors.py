"""Errors that are shown to a user without a traceback: what failed, the reason, the next step."""


class AtlasError(Exception):
    """An error with a message for the user. usage: the command was wrong (exit code 2), else it failed (1)."""

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


class SourceFault(AtlasError):
    """A page of the source cannot be used: the run stops, and the next one goes on where it stopped."""


class ListingChanged(SourceFault):
    """The listing changed while it was read, or repeats itself: the next run reads it from the start."""


class Refused(AtlasError):
    """A request is not answered with what it asks for. reason: the status, or what else is wrong, in a few words."""

    def __init__(self, message: str, reason: str = "refused") -> None:
        super().__init__(message)
        self.reason = reason


class NotRecorded(Refused):
    """A recording has no answer to a request."""


class Unanswered(Refused):
    """The source has no proper answer to a request, whatever is tried. has_response: it has an improper one."""

    def __init__(self, message: str, reason: str, *, has_response: bool) -> None:
        super().__init__(message, reason)
        self.has_response = has_response


class Unreachable(AtlasError):
    """The source does not answer."""
