"""What a session tries of cases that take too long together."""

import os
import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


def drawn(cases: Sequence[T], most: int, group: str = "") -> list[T]:
    """At most so many of some cases, drawn by TESTS_SEED and the name of their group; all of them with SAMPLES=all."""
    if "SAMPLES" in os.environ or len(cases) <= most:
        return list(cases)
    return random.Random(os.environ["TESTS_SEED"] + group).sample(cases, most)
