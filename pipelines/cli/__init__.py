"""The `atlas` command: one module for each group of commands.

    main ──> load, queries, maintenance, db, ui ──> context, show

Belongs here: options, messages and exit codes. Not here: what a command does. No other package imports this one.
"""

import os
import signal
from types import FrameType


def too_early(number: int, frame: FrameType | None) -> None:
    """Ends the process where Ctrl-C during the imports, which take most of a second, would show a traceback."""
    os.write(2, b"error: Interrupted before anything was done.\n")
    os._exit(1)


if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, too_early)
