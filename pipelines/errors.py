"""What a user is told when something cannot be done: the thing, the reason, the next step; never a traceback."""


class AtlasError(Exception):
    """One sentence for a person. `usage` tells a wrong command (exit 2) from a failed one (exit 1)."""

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


class SourceFault(AtlasError):
    """The source answers in a way that no later page can be trusted after: a run does not go on from here."""


class NotRecorded(AtlasError):
    """A recording holds no answer to a request."""


class Refused(SourceFault):
    """The source answers a request with a status that says no."""


class Unreachable(AtlasError):
    """Nobody answers where the source should be."""
