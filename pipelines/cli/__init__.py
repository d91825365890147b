"""The `atlas` command: what a person types, and how it is shown. Nothing imports it."""

import os
import signal
from types import FrameType


def too_early(number: int, frame: FrameType | None) -> None:
    """Ends the process where Ctrl-C would show a traceback: the imports take most of a second."""
    os.write(2, b"error: Interrupted before anything was done.\n")
    os._exit(1)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, too_early)
