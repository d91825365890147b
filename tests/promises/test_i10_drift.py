"""I10, drift: whatever happens to a JSON path that a SELECT relies on is noticed; nothing turns into NULL in silence.

The paths are found in the SELECT files (`columns`). Each is dropped, renamed, re-typed and nested in all payloads of a
stream, as a source would that changes, and in ones that the contract then refuses. Each change has a stream of its own,
so that two landings try all of them.
"""

import copy
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import dagster as dg
import msgspec
import pytest

from pipelines import project
from pipelines.cli import main
from pipelines.columns import Read, Steps, reads
from pipelines.landing import json_paths, jsonb, schema_drift
from pipelines.landing.json_paths import Node, Tree
from pipelines.landing.schema_drift import ALWAYS, DAYS, EXPECTED, Change
from pipelines.ledger import Run
from pipelines.orchestration.assets import run_metadata
from pipelines.orchestration.checks import drift_checks
from pipelines.orchestration.resources import Atlas
from pipelines.project import SqlFile
from pipelines.source import Contract, Item, Payload, Source
from pipelines.warehouse.database import Warehouse
from tests.library import Recorder
from tests.recordings import everything
from tests.runs import land_items, stream_of
from tests.samples import drawn
from tests.select_paths import paths_read, quoted_words, steps_of

pytestmark = pytest.mark.emptied

DAY = "2026-11-01"
START = datetime(2026, 11, 1, tzinfo=UTC)

NOT_RECORDED = {"catalog/civitai": 1, "catalog/comfyui": 34}
"""How many paths no recording has: shapes of other years; of ComfyUI, what only one of its two formats can hold."""

NOT_READ_BY_NAME = {
    "catalog/civitai": "Model",
    "catalog/comfyui": "0 1 key lyrics negative negative_prompt positive prompt tags",
    "catalog/e621": "artist character contributor copyright general invalid lore meta species",
    "catalog/ollama": "extractedAt latest",
}
"""Keys of recordings that are quoted in the SQL for another reason: as values, as removed from a document, as names of
widgets and tags that are read as data."""

MUTANTS = 50
"""So many changes of a source a session tries."""

every_source = pytest.mark.parametrize("name", sorted(project.sources()))

Document = Any
Place = tuple[Any, Any]
"""A container and a key or index in it."""


@dataclass(frozen=True)
class Mutant:
    """A change of one path, and the payload that has it, before and after."""

    kind: str
    steps: Steps
    how: str
    before: bytes
    after: bytes

    def __str__(self) -> str:
        return f"{self.how} {self.kind} {Node().at(self.steps).path}"


@cache
def recorded(name: str) -> list[Payload]:
    return everything(project.sources()[name])


@cache
def relied_upon(name: str) -> frozenset[Read]:
    """What the SELECT files of a source read, and what holds it."""
    source = project.sources()[name]
    read = set().union(*(reads(source, select).paths for select in project.selects(name)))
    return frozenset((kind, steps[:length]) for kind, steps in read for length in range(1, len(steps) + 1))


def places(value: Document, steps: Steps) -> Iterator[Place]:
    """Where a path leads to a value; null is none."""
    step, rest = steps[0], steps[1:]
    keys: Sequence[Any] = []
    if isinstance(value, dict):
        if step == "*":
            keys = list(value)
        elif isinstance(step, str) and step.startswith("~^"):
            keys = [key for key in value if key.startswith(step[2:])]
        elif step in value:
            keys = [step]
    elif isinstance(value, list):
        keys = (
            range(len(value)) if step in ("[*]", "*") else [step] if isinstance(step, int) and step < len(value) else []
        )
    for key in keys:
        if rest:
            yield from places(value[key], rest)
        elif value[key] is not None:
            yield value, key


def drop(container: Any, key: Any) -> None:
    del container[key]


def null(container: Any, key: Any) -> None:
    container[key] = None


def rename(container: Any, key: Any) -> None:
    container[f"{key}Renamed"] = container.pop(key)


def nest(container: Any, key: Any) -> None:
    container[key] = {"nested": container[key]}


def retype(value: Any) -> Callable[[Any, Any], None]:
    def change(container: Any, key: Any) -> None:
        container[key] = copy.deepcopy(value)

    return change


CHANGES: dict[str, Callable[[Any, Any], None]] = {
    "drop": drop,
    "null": null,
    "rename": rename,
    "nest": nest,
    "string": retype("re-typed"),
    "number": retype(1_234_567),
    "object": retype({"re": "typed"}),
    "array": retype(["re-typed"]),
}


def mutated(body: bytes, steps: Steps, how: str, within: Sequence[Steps]) -> bytes:
    """The payload with each value of a path changed; the same bytes where there is nothing to change.

    within: what the SELECTs read in the value by name. An object that has none of it may hold any keys.
    """
    document = msgspec.json.decode(body)
    found = [
        (container, key)
        for container, key in places(document, steps)
        if how != json_paths.TYPES[type(container[key])]
        and (
            how != "nest"
            or not isinstance(container[key], dict)
            or any(any(places(container[key], rest)) for rest in within)
        )
    ]
    if any(how == json_paths.TYPES[type(container[key])] for container, key in places(document, steps)):
        return body  # the path has this type already
    if how == "rename" and (steps[-1] in ("*", "[*]") or isinstance(steps[-1], int)):
        return body  # no name that the SQL knows
    if how == "drop" and isinstance(steps[-1], int):
        return body  # what comes after it takes its place
    for container, key in reversed(found):
        CHANGES[how](container, key)
    return msgspec.json.encode(document) if found else body


def mutants(name: str) -> Iterator[Mutant]:
    """One a path and change, in the shortest payload that has the path."""
    payloads = sorted(recorded(name), key=lambda payload: len(payload.body))
    documents = [(payload.kind, payload.body, msgspec.json.decode(payload.body)) for payload in payloads]
    for kind, steps in sorted(relied_upon(name), key=str):
        within = [
            longer[len(steps) :]
            for each, longer in relied_upon(name)
            if each == kind and len(longer) > len(steps) and longer[: len(steps)] == steps and longer[len(steps)] != "*"
        ]
        having = [body for of, body, document in documents if of == kind and any(places(document, steps))]
        for how in CHANGES:
            changed = ((body, mutated(body, steps, how, within)) for body in having[:20])
            if found := next((pair for pair in changed if pair[0] != pair[1]), None):
                yield Mutant(kind, steps, how, *found)


@dataclass
class Watched:
    """A source, and what it landed."""

    warehouse: Warehouse
    source: Source
    clock: datetime = START
    runs: list[Run] = field(default_factory=list)

    def land(self, payloads: Sequence[Payload]) -> Run:
        self.clock += timedelta(minutes=1)
        self.runs.append(land_items(self.warehouse, self.source, DAY, payloads, received_at=self.clock))
        return self.runs[-1]

    def ask(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        with self.warehouse.connect() as connection:
            return connection.execute(query, list(parameters)).fetchall()

    def changes(self) -> list[Change]:
        with self.warehouse.connect() as connection:
            every = (schema_drift.changes(connection, stream) for stream in self.source.streams)
            return [change for changes in every for change in changes]

    def summary(self) -> set[tuple[str, str, str]]:
        return {(each["what"], each["path"], each["type"]) for each in self.changes()}


@every_source
def test_each_select_file_relies_on_paths_that_the_recording_has(name: str) -> None:
    source = project.sources()[name]
    read = {select.file.address: reads(source, select).paths for select in project.selects(name)}
    assert all(read.values()), [address for address, found in read.items() if not found]
    every = set().union(*read.values())
    for payload in recorded(name):
        document = msgspec.json.decode(payload.body)
        every -= {(kind, steps) for kind, steps in every if kind == payload.kind and any(places(document, steps))}
    assert len(every) == NOT_RECORDED.get(name, 0), every


@every_source
@pytest.mark.sample(2)
def test_each_mutant_of_a_path_is_noticed(name: str, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream for each mutant: as many payloads as the rule asks for before, then as many changed ones."""
    source = project.sources()[name]
    found_mutants = list(mutants(name))
    every = drawn(found_mutants, MUTANTS, name)
    contracts = {f"m{number}": source.contracts[mutant.kind] for number, mutant in enumerate(every)}
    read = schema_drift.read_paths(source)
    found = Watched(warehouse, replace(source, contracts=contracts))
    roots = {
        found.source.stream_names[f"m{number}"]: read[source.stream_names[mutant.kind]].root
        for number, mutant in enumerate(every)
    }
    monkeypatch.setattr(schema_drift, "read_paths", lambda _: {name: Tree(root) for name, root in roots.items()})
    for bodies, copies in (([each.before for each in every], EXPECTED), ([each.after for each in every], ALWAYS)):
        found.land(
            [
                Payload(body + b" " * copied, "x", f"record {copied} {len(bodies)}{copies}", kind=f"m{number}")
                for number, body in enumerate(bodies)
                for copied in range(copies)
            ]
        )
    noticed = defaultdict(list)
    for each in found.changes():
        noticed[each["stream"]].append(each)
    unnoticed = []
    for number, mutant in enumerate(every):
        warned = [each for each in noticed[found.source.stream_names[f"m{number}"]] if each["warns"]]
        files = {
            f"sql/{select.file.address}.sql"
            for select in project.selects(name)
            if (mutant.kind, mutant.steps) in reads(source, select).paths
        }
        named = {sentence.partition(":")[0] for each in warned for sentence in each["effects"]}
        if not warned or (not files <= named and not set("*~") & set(str(mutant.steps))):
            unnoticed.append(f"{mutant} {sorted(files - named)} {mutant.before[:300]!r}")
    assert unnoticed == []
    refused = found.ask("select count(distinct stream) as streams from staging.quarantine")[0]["streams"]
    print(f"{name}: {len(every)} of {len(found_mutants)} mutants, {refused} refused")
    assert {each["what"] for every in noticed.values() for each in every} >= {"vanished path", "new type"}


MODELS: list[dict[str, Any]] = [
    {"id": number, "name": f"model {number}", "type": "LORA", "stats": {"downloadCount": number}}
    for number in range(30)
]


def models(records: Sequence[Document]) -> list[Payload]:
    return [Payload(msgspec.json.encode(each), "x", kind="models") for each in records]


def more(number: int, count: int = 30, **fields: Document) -> list[Document]:
    """Other models of the same shape, with other fields; without those that are None."""
    made = [each | {"id": each["id"] + 1_000 * number} | fields for each in MODELS[:count]]
    return [{name: value for name, value in each.items() if value is not None} for each in made]


@pytest.fixture
def shaped(warehouse: Warehouse, civitai: Source) -> Watched:
    """Thirty models of one shape."""
    found = Watched(warehouse, civitai)
    assert "drift" not in found.land(models(MODELS)).stats
    return found


def checked(found: Watched) -> tuple[bool, str, str]:
    """Whether Dagster's check passes, what it warns of, and what it lists beside that."""
    with dg.DagsterInstance.ephemeral() as instance:
        every = dg.AssetSelection.all_asset_checks()
        resources = {"atlas": Atlas(found.warehouse)}
        result = dg.materialize([drift_checks(found.source)], instance=instance, resources=resources, selection=every)
    checks = {check.asset_key.to_user_string(): check for check in result.get_asset_check_evaluations()}
    assert checks.keys() == {stream.name for stream in found.source.streams}
    check = checks[stream_of(found.source).name]
    assert check.severity == dg.AssetCheckSeverity.WARN
    assert check.passed == (not check.description)
    warned, others = (str(check.metadata[key].value) if key in check.metadata else "" for key in ("watched", "others"))
    return check.passed, f"{check.description}\n{warned}", others


def test_a_renamed_path_names_the_select_and_the_column_that_it_empties(
    shaped: Watched, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shaped.land(models(more(1, stats=None, statistics={"downloadCount": 1})))
    assert {(each["what"], each["path"]) for each in run.stats["drift"]} == {
        ("vanished path", "stats"),
        ("new key", "statistics"),
    }
    (gone,) = [each for each in run.stats["drift"] if each["what"] == "vanished path"]
    assert (gone["share"], gone["lacking"], gone["run"]) == (1, 30, str(shaped.runs[0].id))
    new = next(each for each in run.stats["drift"] if each["what"] == "new key")
    (sample,) = shaped.ask("select body from staging.payloads where payload_id::text = %s", new["payload_id"])
    assert sample["body"]["statistics"] == {"downloadCount": 1}
    shown = run_metadata([run], None)["drift"].value
    assert (
        "| vanished path | catalog/civitai.models | `stats` | object | 100.0% | sql/catalog/civitai/model_st" in shown
    )

    monkeypatch.setenv("DATABASE_URL", shaped.warehouse.url.render_as_string(hide_password=False))
    for arguments in (["--json"], []):
        monkeypatch.setattr("sys.argv", ["atlas", "drift", "catalog/civitai", *arguments])
        with pytest.raises(SystemExit) as ended:
            main.main()
        assert ended.value.code in (0, None)
    out = capfd.readouterr().out
    assert "sql/catalog/civitai/model_stats.sql: downloads, rating are NULL in 30 of 30" in out.replace("\n", " ")


def test_what_the_contract_refuses_is_looked_at(shaped: Watched) -> None:
    run = shaped.land(models(more(1, count=7, name=None)))
    assert run.counts.quarantined == run.counts.fetched == 7
    (gone,) = run.stats["drift"]
    assert (gone["what"], gone["path"]) == ("vanished path", "name")
    assert gone["effects"] == ["sql/catalog/civitai/models.sql: name is NULL in 7 of 7"]
    passed, warned, _ = checked(shaped)
    assert not passed
    assert "sql/catalog/civitai/models.sql: name is NULL in 7 of 7" in warned

    again = shaped.land(models(more(1, count=7, name=None)))
    assert "drift" not in again.stats
    assert shaped.changes()[0]["lacking"] == 7, "payloads that are in quarantine already count once"
    back = shaped.land(models(more(1)))
    assert "drift" not in back.stats
    assert checked(shaped)[0]
    retyped = shaped.land(models(more(2, count=1, name=5)))
    assert [(each["what"], each["type"]) for each in retyped.stats["drift"]] == [("new type", "number")]
    shaped.land([Payload(b'{"id": 3, "name": "\xff', "x", kind="models")])
    assert not checked(shaped)[0]


@pytest.mark.long
def test_a_check_warns_of_a_path_that_is_gone_for_as_long_as_it_is(shaped: Watched) -> None:
    assert checked(shaped)[0]
    shaped.land(models(more(1, cover=1)))
    passed, _, others = checked(shaped)
    assert passed
    assert "| new key | catalog/civitai.models | `cover` |" in others
    for number in (2, 3):
        shaped.land(models(more(number, stats=None)))
        passed, warned, others = checked(shaped)
        assert not passed
        assert "| vanished path | catalog/civitai.models | `stats` | object |" in warned
        assert "stats" not in others
    shaped.land(models(more(4)))
    assert checked(shaped)[0]


def test_a_check_warns_of_a_type_beside_another_for_a_while(shaped: Watched) -> None:
    shaped.land(models(more(1, tags=["night"], cover=1)))
    shaped.land(models(more(2, tags=["night"], description="no null any more", cover="1")))
    assert checked(shaped)[0], "a first value after nulls, and a change of what no SELECT reads"

    said: Document = {"description": "some"}
    shaped.land(models([*more(3, tags=["night"], **said), *more(4, tags=[{"name": "night"}], **said)]))
    passed, warned, _ = checked(shaped)
    assert not passed
    assert "| new type | catalog/civitai.models | `tags[*]` | object |" in warned
    assert "sql/catalog/civitai/tags.sql: tag_id, name, normalized_name depend on it" in warned

    with shaped.warehouse.connect() as connection:
        connection.execute("update ops.fetch_runs set ended_at = ended_at - make_interval(days => %s)", [DAYS + 1])
    passed, _, others = checked(shaped)
    assert passed
    assert "| new type | catalog/civitai.models | `tags[*]` | object |" in others


@pytest.mark.parametrize(
    ("before", "of", "lacking", "vanished"),
    [
        (EXPECTED, EXPECTED, ALWAYS, True),
        (EXPECTED, EXPECTED, ALWAYS - 1, False),
        (EXPECTED - 1, EXPECTED - 1, EXPECTED - 1, False),
        (3, 3, EXPECTED, True),
        (50, 100, 20, True),
        (50, 100, 19, False),
        (1, 100, 500, False),
        (1, 100, 1_000, True),
    ],
)
def test_a_path_has_vanished_when_ten_payloads_should_have_it_and_none_has(
    warehouse: Warehouse, civitai: Source, before: int, of: int, lacking: int, vanished: bool
) -> None:
    """In payloads of several landings: few in each."""
    found = Watched(warehouse, civitai)
    found.land(models([{"id": 1, "name": "m", "type": "LORA"}]))
    with warehouse.connect() as connection:
        connection.execute(
            """
            insert into ops.schema_drift (stream, path, type, first_run, last_run, payloads, of_payloads, lacking)
            select 'catalog/civitai.models', 'description', 'string', first_run, first_run, %s, %s, %s
            from ops.schema_drift limit 1
            """,
            [before, of, max(0, lacking - 1)],
        )
    if lacking:
        found.land(models([{"id": 2, "name": "m", "type": "LORA"}]))
    assert (("vanished path", "description", "string") in found.summary()) == vanished


@every_source
def test_all_that_the_select_files_read_is_watched(name: str) -> None:
    source = project.sources()[name]
    trees = schema_drift.read_paths(source)
    named = {(kind, steps) for kind, steps in relied_upon(name) if not str(steps[-1]).startswith("~")}
    independent = {
        (kind, tuple(steps_of(path))) for select in project.selects(name) for kind, path in paths_read(source, select)
    }
    assert independent
    read = {(kind, tuple(step for step in steps if step != "[*]")) for kind, steps in named | independent}
    assert [
        each for each in sorted(read, key=str) if not is_read(trees[source.stream_names[each[0]]].root, each[1])
    ] == []
    assert len(read) > len(source.contracts)


def is_read(node: Node, steps: Sequence[str | int]) -> bool:
    """Whether there is such a path; steps to elements may lie between."""
    if not steps:
        return True
    elements = [node.below["[*]"]] if "[*]" in node.below else []
    below = [node.below[steps[0]]] if steps[0] in node.below else []
    return any(is_read(each, steps[1:]) for each in below) or any(is_read(each, steps) for each in elements)


def key_paths(value: Document) -> Iterator[str]:
    """Every key in a document."""
    if isinstance(value, dict):
        yield from value
        for child in value.values():
            yield from key_paths(child)
    elif isinstance(value, list):
        for child in value:
            yield from key_paths(child)


@every_source
def test_each_key_of_the_recording_that_is_quoted_in_the_sql_is_watched(name: str) -> None:
    """A lower bound that does not depend on a parser: a SELECT that reads a key by name quotes it."""
    source = project.sources()[name]
    quoted = set().union(*(quoted_words(select) for select in project.selects(name)))
    keys = {key for payload in recorded(name) for key in key_paths(msgspec.json.decode(payload.body))}
    trees = schema_drift.read_paths(source).values()
    watched = {step for tree in trees for node in tree.root.nodes() for step in node.below}
    assert (quoted & keys) - watched == set(NOT_READ_BY_NAME.get(name, "").split())


def test_of_a_select_that_cannot_be_parsed_the_check_says_so(shaped: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    path = project.SQL / "catalog/civitai/models.sql"
    broken = [
        replace(each, file=SqlFile(path, "select p.body -> from models as p"))
        for each in project.selects("catalog/civitai")[:1]
    ]
    monkeypatch.setattr(project, "selects", lambda name: broken)
    passed, warned, _ = checked(shaped)
    assert not passed
    assert "sql/catalog/civitai/models.sql cannot be followed: ParseError" in warned


def test_counters_that_change_alone_are_looked_at(shaped: Watched) -> None:
    run = shaped.land(models([each | {"stats": {"downloads": each["id"] + 7}} for each in MODELS]))
    assert run.stats["bodies"] == 0
    assert {(each["what"], each["path"]) for each in run.stats["drift"]} == {
        ("new key", "stats.downloads"),
        ("vanished path", "stats.downloadCount"),
    }


def test_the_same_again_writes_nothing(shaped: Watched) -> None:
    query = "select xmin, * from ops.schema_drift order by stream, path, type"
    before = shaped.ask(query)
    assert "drift" not in shaped.land(models(MODELS)).stats
    assert shaped.ask(query) == before != []


def test_bodies_that_a_broken_run_wrote_are_looked_at(shaped: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.landing.land.BATCH_PAYLOADS", 10)
    late = models(more(3, name=5) + more(4, stats=None))

    def broken() -> Iterator[Item]:
        yield from late
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        land_items(shaped.warehouse, shaped.source, DAY, broken(), kind="models")
    assert shaped.ask("select from staging.payloads where not body ? 'stats' limit 1")
    run = shaped.land(late[30:])
    assert run.stats["bodies"] < 30
    assert [(each["path"], each["lacking"]) for each in run.stats["drift"]] == [("stats", 30)]


def test_keys_that_are_data_are_no_paths(shaped: Watched) -> None:
    found = Tree()
    for steps in (("tags", "*", "[*]"), ("links", "[*]", 1), ("one", "two"), ("~^tag_", "[*]")):
        found.root.at(steps)
    for number in range(20):
        value = {"tags": {f"t{number}": ["x", 1]}, "links": [[1, "x", None]], "one": {str(number): 1, "k" * 65: 1}}
        found.walk(value | {"tag_a": [1], "tag_b": "x", "four five": None if number else 1}, b"%d" % number)
    assert found.payloads["tags.*[*]", "string"] == found.payloads["tags.*[*]", "number"] == 20
    assert found.payloads["links[*][1]", "string"] == found.payloads['"~^tag_"[*]', "number"] == 20
    assert found.of_payloads["one.two"] == 20
    assert found.payloads["one.two", "number"] == 0
    assert found.unread == {"$": {'"four five"': b"0"}}

    keys = {f"key_{chr(97 + number // 26)}{chr(97 + number % 26)}": 1 for number in range(200)}
    for number in (1, 2):
        shaped.land(models(more(number, **keys)))
    (row,) = shaped.ask("select count(*) from ops.schema_drift where type = 'unread'")
    assert row["count"] == schema_drift.MAX_KEYS


class Anything(Contract):
    """Nothing is required."""


def test_a_key_with_half_of_a_pair_is_kept_as_its_escape() -> None:
    found = Tree()
    found.root.at(("id",))
    found.walk({"\ud83d": 1}, b"0")
    assert found.unread == {"$": {r'"\ud83d"': b"0"}}


def test_a_large_body_is_not_decoded(warehouse: Warehouse, civitai: Source) -> None:
    """It takes little room in the table."""
    staged, large = (
        Recorder(warehouse, replace(civitai, contracts={"": Anything})),
        {"models": [], "filling": "x" * (jsonb.LARGE + 1)},
    )
    staged.land("a", large)
    staged.land("b", large)
    with warehouse.connect() as connection:
        assert connection.execute("select from ops.schema_drift").rowcount == 0
