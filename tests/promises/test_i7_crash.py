"""I7, crash anywhere: killed, cut off or cancelled at any statement, a command run again ends as if nothing had been.

`make test-crashes` strikes every statement of landing, transforming, rebuilding, pruning and erasing the recordings of
two sources, and of transforming, rebuilding and erasing people of the toy project whom applications name too, and tries
100 crashes of each other scenario; `make test` a sample.
`CRASHES="cut before 4.12" pytest -k "good and ollama"` repeats one case.
"""

import os
import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import pytest
from sqlalchemy import make_url

from pipelines.warehouse.database import Warehouse
from tests import toy_project
from tests.crashes import outcome
from tests.crashes.faults import Answer, Fault, faults
from tests.crashes.ollama import Ollama
from tests.crashes.proxy import Proxy
from tests.crashes.scenarios import SCENARIOS
from tests.crashes.stage import Stage

SEED = int(os.environ["TESTS_SEED"])
WANTED = os.environ.get("CRASHES", "")
SAMPLED_SCENARIOS, SAMPLED_CASES = 2, 4


def parts() -> list[tuple[str, int, int]]:
    """The tests: a scenario, which part of its cases, of how many."""
    if WANTED:
        number = 1 if WANTED != "all" else None
        return [
            (name, part, number or each.parts)
            for name, each in SCENARIOS.items()
            for part in range(number or each.parts)
        ]
    return [(name, 0, 1) for name in random.Random(SEED).sample(list(SCENARIOS), SAMPLED_SCENARIOS)]


def chosen(name: str, everything: list[Fault]) -> list[Fault]:
    if WANTED not in ("", "all"):
        return [each for each in everything if str(each) == WANTED]
    most = SCENARIOS[name].most if WANTED else SAMPLED_CASES
    return random.Random(SEED).sample(everything, min(most or len(everything), len(everything)))


@pytest.fixture(scope="module")
def stage(
    server: str, new_warehouse: Callable[[], Warehouse], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    stage = Stage(folder, new_warehouse, Proxy(make_url(server)), Ollama())
    yield stage
    stage.close()


@pytest.mark.long("crashes, and runs after them")
@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("name", "part", "of"), parts())
def test_the_same_command_makes_good(
    stage: Stage, record_property: Callable[[str, object], None], name: str, part: int, of: int
) -> None:
    with toy_project.enter() if SCENARIOS[name].toy else nullcontext():
        statements = stage.undisturbed(name).statements
        cases = chosen(name, [fault for each in statements for fault in faults(each)])[part::of]
        texts = {each.at: each.text[:100] for each in statements}
        wrong = []
        for fault in cases:
            try:
                stage.crash(name, fault)
            except AssertionError as error:
                wrong.append(f"{fault} ({texts[fault.at]}): {error}")
    if part == 0:
        record_property("statements", len(statements))
    record_property("crashes", len(cases))
    assert not wrong, f"{len(wrong)} of {len(cases)}:\n" + "\n".join(wrong[:20])


ANSWERS = range(1, 8)
"""What the server of the scenario `live` answers: a list, and of each model what it shows."""


@pytest.mark.long("crashes, and runs after them")
@pytest.mark.parametrize("number", ANSWERS if WANTED else random.Random(SEED).sample(ANSWERS, 1))
def test_killed_while_it_waits_for_an_http_answer(stage: Stage, number: int) -> None:
    stage.crash("live", Answer(number))


def test_checkpoints_that_differ_in_their_place_are_two_states(warehouse: Warehouse) -> None:
    """A test of the tests: from each state the command is run again."""
    seen = []
    for progress in (
        '{"listings": {"a": {"page": 1}}, "fetched": 5}',
        '{"listings": {"a": {"page": 2}}, "fetched": 9}',
    ):
        with warehouse.connect() as connection:
            connection.execute("delete from staging.checkpoints")
            insert = "insert into staging.checkpoints (fetch_run_id, progress) values (uuidv7(), %s)"
            connection.execute(insert, [progress])
        seen.append(outcome.contents(warehouse))
    assert outcome.different(*seen) == ["staging.checkpoints"]


@pytest.mark.parametrize(
    ("harm", "name", "seen"),
    [
        ("ledger_row_before_the_data", "land danbooru", "shows neither before nor after"),
        ("checkpoint_before_its_page", "live", "lacks 6 of those that it had"),
    ],
)
@pytest.mark.long("crashes, and runs after them")
def test_a_mistake_of_the_product_is_noticed(stage: Stage, harm: str, name: str, seen: str) -> None:
    """A test of the tests."""
    commits = [each for each in stage.undisturbed(name, harm).statements if each.text == "COMMIT"]
    noticed = []
    for each in commits:
        try:
            stage.crash(name, Fault("kill", "before", each.at), harm)
        except AssertionError as error:
            noticed.append(str(error))
    assert any(seen in text for text in noticed), noticed
