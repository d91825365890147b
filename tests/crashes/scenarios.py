"""The commands that are crashed.

Belongs here: which there are, and what is different about each. Not here: the databases they begin with (`stage`).
"""

from dataclasses import dataclass

from tests.crashes.payloads import DAY

FIRST_DAY, SECOND_DAY = "2026-11-01", "2026-11-02"
SOURCES = ("catalog/ollama", "catalog/danbooru")
PEOPLE = ("toy/forum", "toy/mail")
POST = "10243390"


@dataclass(frozen=True)
class Scenario:
    """A command. prepared: the method of `Stage` that makes its database. parts: into how many tests its cases go.

    most: how many cases are enough. again: what it ends with where everything is done. piecemeal: it publishes what it
    does in several steps. toy: it is a command of the toy project.
    """

    prepared: str
    command: str
    parts: int = 1
    most: int | None = None
    again: int = 0
    piecemeal: bool = False
    fresh: bool = True
    toy: bool = False


SCENARIOS = {
    "land ollama": Scenario("one_day", f"extract catalog/ollama.local {SECOND_DAY}", parts=2),
    "land danbooru": Scenario("one_day", f"extract catalog/danbooru.posts {SECOND_DAY}", parts=2),
    "transform ollama": Scenario("landed", "transform catalog/ollama.local", parts=6),
    "transform danbooru": Scenario("landed", "transform catalog/danbooru.posts", parts=2),
    "rebuild": Scenario("spoiled", "rebuild catalog", parts=12),
    "prune": Scenario("two_days", "prune --versions-days 0 --quarantine-days 0", parts=2, piecemeal=True),
    "erase": Scenario("two_days", f"erase catalog/danbooru.posts {POST} --yes", parts=3, again=2),
    "live": Scenario("fetched", "extract catalog/ollama.local {today} --mode live", parts=2),
    "resumed": Scenario("interrupted", "extract catalog/ollama.local {today} --mode live", most=100, fresh=False),
    "dead runs": Scenario(
        "died", f"land catalog/civitai.models --from {{news}} --partition {DAY}", most=100, fresh=False
    ),
    "rejected": Scenario("rejected", "transform catalog/civitai", most=100),
    "replay": Scenario("refused", "quarantine replay 1 --with {mended}", most=100, again=2),
    "as-of": Scenario("two_days", "as-of {run} --schema kept", most=100, again=2),
    "transform people": Scenario("people_landed", "transform toy/mail", parts=6, toy=True),
    "rebuild people": Scenario("people_spoiled", "rebuild toy --shrink", parts=6, toy=True),
    "erase people": Scenario("people", "erase toy/mail ann --yes", parts=6, again=2, toy=True),
    "as-of people": Scenario("people", "as-of {run} --schema kept", most=100, again=2, toy=True),
}
