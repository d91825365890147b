"""I10, drift: whatever happens to a JSON path that a SELECT relies on is noticed; nothing turns into NULL in silence.

The paths are found in the SELECT files (`columns`). Each is dropped, renamed, re-typed and nested in payloads of the
recording: first in one payload a mutant, among many in one landing; what that does not show, in all payloads of a
stream, as a source would that changes. A mutant is noticed by its contract, by a row that does not fit, by a path or a
type that is new, or by one that is gone.
"""

import copy
import math
import os
import random
import re
from collections import Counter
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
from pipelines.landing.json_paths import StreamPaths
from pipelines.landing.land import land_items
from pipelines.ledger import Run
from pipelines.orchestration.assets import run_metadata
from pipelines.orchestration.drift_checks import DAYS, WatchedPaths, drift_check
from pipelines.orchestration.resources import Atlas
from pipelines.project import SqlFile
from pipelines.source import Contract, Payload, Source
from pipelines.transform.run import transform
from pipelines.warehouse.database import Warehouse
from tests.library import Recorder
from tests.select_paths import paths_read, quoted_words, steps_of
from tests.test_conformance import everything

DAY = "2026-11-01"
START = datetime(2026, 11, 1, tzinfo=UTC)
BASE = 8
"""Payloads of a stream that mutants are landed beside, beside those that its paths are found in."""
RUNS = 6
"""So many landings a path that few payloads have may take until it is told as gone."""

EVERYWHERE = int(os.environ.get("DRIFT_EVERYWHERE", "20"))
"""So many mutants of a source that are tried in all its payloads; a landing each."""
SEED = int(os.environ.get("DRIFT_SEED", random.randrange(10_000)))

NOT_RECORDED = {"catalog/civitai": 1, "catalog/comfyui": 34}
"""How many paths no recording has: shapes of other years; of ComfyUI, what only one of its two formats can hold."""

NOT_READ_BY_NAME = {
    "catalog/civitai": "Model",
    "catalog/comfyui": "0 1 class_type key lyrics negative negative_prompt positive prompt tags",
    "catalog/e621": "artist character contributor copyright general invalid lore meta species",
    "catalog/ollama": "extractedAt latest",
}
"""Keys of recordings that are quoted in the SQL for another reason: as values, as removed from a document, as names of
widgets and tags that are read as data, or, of ComfyUI's API format, read at a place that no recording has."""

every_source = pytest.mark.parametrize("name", sorted(project.sources()))

Document = Any
Place = tuple[Any, Any]
"""A container and a key or index in it."""


@dataclass(frozen=True)
class Mutant:
    """A change of one path, and one payload that it was made in."""

    kind: str
    steps: Steps
    how: str
    number: int
    body: bytes

    @property
    def name(self) -> str:
        return f"{self.how} {self.kind} {self.steps}"


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
    "rename": rename,
    "nest": nest,
    "string": retype("re-typed"),
    "number": retype(1_234_567),
    "object": retype({"re": "typed"}),
    "array": retype(["re-typed"]),
}


def mutated(body: bytes, steps: Steps, how: str) -> bytes:
    """The payload with each value of a path changed; the same bytes where there is nothing to change."""
    document = msgspec.json.decode(body)
    found = [
        (container, key) for container, key in places(document, steps) if how != json_paths.TYPES[type(container[key])]
    ]
    if how == "rename" and (steps[-1] in ("*", "[*]") or isinstance(steps[-1], int)):
        return body  # no name that the SQL knows
    for container, key in reversed(found):
        CHANGES[how](container, key)
    return msgspec.json.encode(document) if found else body


@cache
def chosen(name: str) -> dict[str, list[Payload]]:
    """Payloads of each kind: the shortest, and of those that have a path the shortest."""
    found: dict[str, list[Payload]] = {}
    for kind in project.sources()[name].contracts:
        latest = {payload.external_id or payload.body: payload for payload in recorded(name) if payload.kind == kind}
        payloads = sorted(latest.values(), key=lambda payload: len(payload.body))
        documents = [msgspec.json.decode(payload.body) for payload in payloads]
        numbers = set(range(min(BASE, len(payloads))))
        for each, steps in sorted(relied_upon(name), key=str):
            if each == kind:
                numbers |= set(
                    [number for number, document in enumerate(documents) if any(places(document, steps))][:1]
                )
        found[kind] = [payloads[number] for number in sorted(numbers)]
    return found


def mutants(name: str) -> list[Mutant]:
    """One a path and change, in the first payload that has the path."""
    found: list[Mutant] = []
    for kind, steps in sorted(relied_upon(name), key=str):
        having = [each for each in chosen(name)[kind] if any(places(msgspec.json.decode(each.body), steps))]
        for how in CHANGES:
            for payload in having:
                after = mutated(payload.body, steps, how)
                if after != payload.body:
                    found.append(Mutant(kind, steps, how, len(found), after))
                    break
    return found


@dataclass
class Watched:
    """A source whose base is landed, and what became of its mutants."""

    warehouse: Warehouse
    source: Source
    clock: datetime = START
    noticed: Counter[str] = field(default_factory=Counter)
    copies: int = 0
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    base: dict[str, set[tuple[str, str]]] = field(default_factory=dict)

    def land(self, payloads: Sequence[Payload]) -> Run:
        self.clock += timedelta(minutes=1)
        return land_items(self.warehouse, self.source, DAY, payloads, fetched_at=self.clock)

    def ask(self, query: str, *parameters: object) -> list[dict[str, Any]]:
        with self.warehouse.connect() as connection:
            return connection.execute(query, list(parameters)).fetchall()

    def known(self, kind: str) -> StreamPaths:
        stream = self.source.streams[kind]
        if kind not in self.rows:
            self.rows[kind] = self.ask(
                'select path, type, payloads from ops.schema_drift where stream = %s order by path collate "C"', stream
            )
        contract = msgspec.inspect.type_info(self.source.contracts[kind])
        return StreamPaths(stream, set(json_paths.map_paths(contract)), self.rows[kind])

    def told(self, word: str) -> set[tuple[str, str, str]]:
        """Kinds, paths and types that are reported as new, or as vanished."""
        kinds = {stream: kind for kind, stream in self.source.streams.items()}
        with self.warehouse.connect() as connection:
            found = schema_drift.changes(connection, list(kinds))
        return {
            (kinds[each["stream"]], each["path"], type_)
            for each in found
            if each["what"].startswith(word)
            for type_ in each["type"].split(", ")
        }

    def within(self, kind: str, bodies: Sequence[bytes], path: str) -> int:
        """How many of the payloads hold what holds the path."""
        found = self.known(kind)
        for body in bodies:
            found.inspect(msgspec.json.decode(body), b"")
        (node,) = (node for node in found.root.each() if node.path == path)
        return node.holder.seen if node.holder else len(bodies)

    def seen_in(self, kind: str, bodies: Sequence[bytes]) -> set[tuple[str, str]]:
        """Paths and types of payloads, as a landing would tell them."""
        found = self.known(kind)
        for body in bodies:
            found.inspect(msgspec.json.decode(body), b"")
        return {(row.path, row.type) for row in found.rows() if row.seen}

    def another(self, payload: Payload) -> Payload:
        """The same payload as another record: with other ids, or other words."""
        self.copies += 1
        document = msgspec.json.decode(payload.body)
        for key in ("id", "name", "description", "modelfile"):
            if isinstance(document.get(key), int):
                document[key] += self.copies * 10_000_000
                break
            if isinstance(document.get(key), str):
                document[key] += f" {self.copies}"
                break
        body = msgspec.json.encode(document) + b" " * self.copies
        return replace(payload, body=body, external_id=f"copy {self.copies}")


def watched(warehouse: Warehouse, name: str) -> Watched:
    found = Watched(warehouse, project.sources()[name])
    found.land([payload for payloads in chosen(name).values() for payload in payloads])
    transform(warehouse, found.source, DAY)
    for kind, payloads in chosen(name).items():
        found.base[kind] = found.seen_in(kind, [each.body for each in payloads])
    return found


@every_source
def test_each_select_file_relies_on_paths_that_the_recording_has(name: str) -> None:
    source = project.sources()[name]
    read = {select.file.address: reads(source, select).paths for select in project.selects(name)}
    assert all(read.values()), [address for address, found in read.items() if not found]
    every = set().union(*read.values())
    for payload in recorded(name):
        document = msgspec.json.decode(payload.body)
        every -= {(kind, steps) for kind, steps in every if kind == payload.kind and any(places(document, steps))}
    print(f"{name}: {len(relied_upon(name))} paths, {len(every)} of them not in the recording")
    assert len(every) == NOT_RECORDED.get(name, 0), every


def alone(found: Watched, every: Sequence[Mutant]) -> list[Mutant]:
    """Lands and transforms each mutant as a record of its own beside the base; those that nobody has noticed."""
    new = {each.number: found.seen_in(each.kind, [each.body]) - found.base[each.kind] for each in every}
    for start in range(0, len(every), schema_drift.FIRST_BODIES):
        batch = every[start : start + schema_drift.FIRST_BODIES]
        found.land([Payload(each.body, each.name, f"mutant {each.number}", kind=each.kind) for each in batch])
    transform(found.warehouse, found.source, DAY)
    told = found.told("new")
    rejected = {row["request"] for row in found.ask("select request from staging.quarantine where stage = 'land'")}
    misfits = {
        row["external_id"] for row in found.ask("select external_id from staging.quarantine where stage = 'transform'")
    }
    unnoticed = []
    for each in every:
        if each.name in rejected:
            found.noticed["contract"] += 1
        elif new[each.number] and {(each.kind, *what) for what in new[each.number]} <= told:
            found.noticed["new path or type"] += 1
        elif f"mutant {each.number}" in misfits:
            found.noticed["misfit"] += 1
        else:
            unnoticed.append(each)
    return unnoticed


def everywhere(found: Watched, mutant: Mutant) -> int:
    """Lands all payloads of a stream changed so; the number of landings until a path is told as gone, 0 if it is not.

    There are so many copies of them in a landing as chance asks for, at the share of the path.
    """
    kind, stream = mutant.kind, found.source.streams[mutant.kind]
    changed: list[Payload] = []
    whole: list[bytes] = []
    for payload in chosen(found.source.name)[kind]:
        body = mutated(payload.body, mutant.steps, mutant.how)
        if body != payload.body:
            changed.append(replace(payload, body=body))
            whole.append(payload.body)
    lost = found.seen_in(kind, whole) - found.seen_in(kind, [each.body for each in changed])
    if not lost:
        return 0
    path = min((path for path, _ in lost), key=len)
    (row,) = found.ask(
        """
        select max(of_payloads - missed) as before, sum(payloads) as payloads
        from ops.schema_drift where stream = %s and path = %s and type = any(%s)
        """,
        stream,
        path,
        [type_ for each, type_ in lost if each == path],
    )
    within = found.within(kind, [each.body for each in changed], path)
    chance = max(1e-9, 1 - float(row["payloads"]) / (row["before"] + 1))
    times = math.ceil(1.3 * math.log(schema_drift.SIGNIFICANCE) / math.log(chance) / max(within, 1))
    for number in range(1, RUNS + 1):
        copies = max(1, min(times, schema_drift.FIRST_BODIES // len(changed)))
        found.land([found.another(each) for _ in range(copies) for each in changed])
        if found.told("vanished") & {(kind, *what) for what in lost}:
            return number
    return 0


@every_source
def test_each_mutant_of_a_path_is_noticed(name: str, warehouse: Warehouse) -> None:
    found = watched(warehouse, name)
    every = mutants(name)
    left = alone(found, every)
    tried = random.Random(SEED).sample(left, min(EVERYWHERE, len(left)))
    silent = []
    for each in tried:
        landings = everywhere(found, each)
        if landings:
            found.noticed["vanished" if landings == 1 else "vanished, later"] += 1
        else:
            silent.append(each.name)
    print(f"{name}: {len(every)} mutants, {dict(found.noticed)}, {len(left) - len(tried)} left out, DRIFT_SEED={SEED}")
    assert silent == []
    assert found.noticed.total() == len(every) - len(left) + len(tried)
    assert min(found.noticed[way] for way in ("contract", "new path or type", "vanished")) > 0


MODELS: list[dict[str, Any]] = [
    {"id": number, "name": f"model {number}", "type": "LORA", "stats": {"downloadCount": number}}
    for number in range(30)
]


def models(records: Sequence[Document]) -> list[Payload]:
    return [Payload(msgspec.json.encode(each), "x", kind="models") for each in records]


@pytest.fixture
def shaped(warehouse: Warehouse, civitai: Source) -> Watched:
    """Thirty models of one shape."""
    found = Watched(warehouse, civitai)
    assert "drift" not in found.land(models(MODELS)).stats
    return found


def test_what_is_new_and_what_is_gone_is_told_after_one_run(
    shaped: Watched, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    run = shaped.land(models([{"id": each["id"] + 100, "name": "n", "type": "LORA", "kind": 1} for each in MODELS]))
    told = {(each["what"], each["path"], each["type"]) for each in run.stats["drift"]}
    assert told == {("new path", "kind", "number"), ("vanished path", "stats", "object")}
    new, gone = sorted(run.stats["drift"], key=lambda each: each["what"])
    assert (new["run"], new["share"], new["payloads"]) == (str(run.id), 0.5, 30)
    assert (gone["missed"], gone["share"]) == (30, 0.5)
    (sample,) = shaped.ask("select body from staging.payloads where payload_id::text = %s", new["payload_id"])
    assert sample["body"]["kind"] == 1
    shown = run_metadata(run, None)["drift"].value
    assert "| new path | catalog/civitai.models | `kind` | number | 50.0% |" in shown

    monkeypatch.setenv("DATABASE_URL", shaped.warehouse.url.render_as_string(hide_password=False))
    monkeypatch.setattr("sys.argv", ["atlas", "drift", "catalog/civitai", "--json"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code in (0, None)
    listed = {(each["what"], each["path"]) for each in msgspec.json.decode(capfd.readouterr().out)}
    assert listed == {("new path", "kind"), ("vanished path", "stats")}

    back = shaped.land(models([each | {"id": each["id"] + 200} for each in MODELS]))
    assert {(each["what"], each["path"]) for each in back.stats["drift"]} == {("vanished path", "kind")}


def checked(found: Watched) -> tuple[bool, str, str]:
    """Whether Dagster's check passes, what it warns of, and what it tells beside that."""
    with dg.DagsterInstance.ephemeral() as instance:
        every = dg.AssetSelection.all_asset_checks()
        resources = {"atlas": Atlas(found.warehouse)}
        result = dg.materialize([drift_check(found.source)], instance=instance, resources=resources, selection=every)
    (check,) = result.get_asset_check_evaluations()
    assert check.asset_key.to_user_string() == found.source.name
    assert check.severity == dg.AssetCheckSeverity.WARN
    warned, told = (str(check.metadata[name].value) if name in check.metadata else "" for name in ("watched", "others"))
    assert check.passed == (not warned)
    return check.passed, warned, told


def more(number: int, **fields: Document) -> list[Document]:
    """Thirty other models of the same shape, with other fields."""
    return [each | {"id": each["id"] + 1_000 * number} | fields for each in MODELS]


def test_a_check_warns_of_a_path_that_is_gone_for_as_long_as_it_is(shaped: Watched) -> None:
    assert checked(shaped) == (True, "", "")
    shaped.land(models(more(1, cover=1)))
    passed, _, told = checked(shaped)
    assert passed
    assert "| new path | catalog/civitai.models | `cover` | number |" in told

    without = [{name: value for name, value in each.items() if name != "stats"} for each in more(2)]
    for _ in range(2):
        shaped.land(models(without))
        passed, warned, told = checked(shaped)
        assert not passed
        assert "| vanished path | catalog/civitai.models | `stats` | object |" in warned
        assert "stats" not in told

    shaped.land(models(more(3)))
    passed, _, told = checked(shaped)
    assert passed
    assert "| vanished path | catalog/civitai.models | `cover` | number |" in told


def test_a_check_warns_of_a_type_beside_another_for_a_while(shaped: Watched) -> None:
    shaped.land(models(more(1, tags=["night"], description=None, cover=1)))
    shaped.land(models(more(2, tags=["night"], description="no null any more", cover="1")))
    assert checked(shaped)[0], "a first value after nulls, and a change of what no SELECT reads"

    as_before: Document = {"description": "none", "cover": "1"}
    both = [*more(3, tags=["night"], **as_before), *more(4, tags=[{"name": "night"}], **as_before)]
    shaped.land(models(both))
    passed, warned, told = checked(shaped)
    assert not passed
    assert "| new type | catalog/civitai.models | `tags[*]` | object |" in warned
    assert warned.count("catalog/civitai.models") == 1, warned
    assert "`cover`" in told

    with shaped.warehouse.connect() as connection:
        connection.execute("update ops.fetch_runs set ended_at = ended_at - make_interval(days => %s)", [DAYS + 1])
    assert checked(shaped)[0]
    shaped.land(models(more(5, tags=[{"name": "night"}], **as_before)))
    passed, _, told = checked(shaped)
    assert passed
    assert "| vanished type | catalog/civitai.models | `tags[*]` | string |" in told


def written(steps: Steps) -> str:
    """A path as `ops.schema_drift` has it."""
    parts = (
        f"[{step}]"
        if isinstance(step, int)
        else step
        if step == "[*]"
        else f".{step}"
        if re.fullmatch(r"\w+|\*", step)
        else f".{msgspec.json.encode(step).decode()}"
        for step in steps
    )
    return "".join(parts).removeprefix(".")


def key_paths(value: Document, above: Steps = ()) -> Iterator[Steps]:
    """The path of every key in a document."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield (*above, key)
            yield from key_paths(child, (*above, key))
    elif isinstance(value, list):
        for child in value:
            yield from key_paths(child, (*above, "[*]"))


@every_source
def test_all_that_the_select_files_read_is_watched(name: str) -> None:
    source = project.sources()[name]
    watched_paths = WatchedPaths(source)
    named = {(kind, steps) for kind, steps in relied_upon(name) if not str(steps[-1]).startswith("~")}
    independent = {
        (kind, tuple(steps_of(path))) for select in project.selects(name) for kind, path in paths_read(source, select)
    }
    assert independent
    read = {(source.streams[kind], written(steps)) for kind, steps in named | independent}
    assert [each for each in sorted(read) if not watched_paths.contains(*each)] == []
    assert len(read) > len(source.contracts)
    assert not any(watched_paths.contains(stream, "creator.username") for stream in source.streams.values())


@every_source
def test_each_key_of_the_recording_that_is_quoted_in_the_sql_is_watched(name: str) -> None:
    """A lower bound that does not depend on a parser: a SELECT that reads a key by name quotes it."""
    source = project.sources()[name]
    watched_paths = WatchedPaths(source)
    quoted = set().union(*(quoted_words(select) for select in project.selects(name)))
    paths = {
        (source.streams[payload.kind], steps)
        for payload in recorded(name)
        for steps in key_paths(msgspec.json.decode(payload.body))
        if steps[-1] in quoted
    }
    watched = {steps[-1] for stream, steps in paths if watched_paths.contains(stream, written(steps))}
    assert {steps[-1] for _, steps in paths} - watched == set(NOT_READ_BY_NAME.get(name, "").split())


def test_of_a_select_that_cannot_be_parsed_every_path_is_watched_and_the_check_says_so(
    shaped: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = project.SQL / "catalog/civitai/models.sql"
    broken = [
        replace(each, file=SqlFile(path, "select p.body -> from models as p"))
        for each in project.selects("catalog/civitai")
    ]
    monkeypatch.setattr(project, "selects", lambda name: broken)
    paths = WatchedPaths(shaped.source)
    assert paths.contains("catalog/civitai.models", "creator.username")
    assert list(paths.problems) == ["sql/catalog/civitai/models.sql"]
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [drift_check(shaped.source)],
            instance=instance,
            resources={"atlas": Atlas(shaped.warehouse)},
            selection=dg.AssetSelection.all_asset_checks(),
        )
    (check,) = result.get_asset_check_evaluations()
    assert check.passed
    assert check.metadata["unparsed"].value == paths.problems


def test_what_a_contract_names_is_watched_though_the_sql_reads_it_by_a_pattern() -> None:
    paths = WatchedPaths(project.sources()["catalog/danbooru"])
    assert paths.contains("catalog/danbooru.posts", "tag_string_artist")
    assert not paths.contains("catalog/danbooru.tags", "tag_string_artist")


def test_counters_that_change_alone_are_looked_at(shaped: Watched) -> None:
    run = shaped.land(models([each | {"stats": {"downloads": each["id"] + 7}} for each in MODELS]))
    assert run.stats["bodies"] == 0
    told = {(each["what"], each["path"]) for each in run.stats["drift"]}
    assert told == {("new path", "stats.downloads"), ("vanished path", "stats.downloadCount")}


def test_the_same_again_writes_nothing(shaped: Watched) -> None:
    query = "select xmin, * from ops.schema_drift order by stream, path, type"
    before = shaped.ask(query)
    assert "drift" not in shaped.land(models(MODELS)).stats
    assert shaped.ask(query) == before != []


def test_bodies_that_a_broken_run_wrote_are_looked_at(shaped: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.landing.land.BATCH_PAYLOADS", 10)
    late = models([each | {"id": each["id"] + 300, "came": True} for each in MODELS])
    with pytest.raises(KeyError):
        shaped.land([*late, Payload(b"{}", "x", kind="none such")])
    assert shaped.ask("select from staging.payloads where body ? 'came' limit 1")
    run = shaped.land(late)
    assert run.stats["bodies"] < len(late)
    told = {(each["path"], each["payloads"]) for each in run.stats["drift"] if each["what"] == "new path"}
    assert told == {("came", len(late))}


def test_keys_that_are_data_are_one_path() -> None:
    found = StreamPaths("s", {"tags"}, [])
    for number in range(200):
        ids = {str(number): {"a": number}, f"1:{number}": {"a": number}, "0c" * 16: {"a": 1}}
        named = {f"key_{number}": {"b": 1}, "k" * 65: 1, "with a space": 1}
        found.inspect({"ids": ids, "named": named, "tags": {f"t{number}": [1]}, "link": [1, "x", None, number]}, b"")
    told = {(row.path, row.type): row.seen for row in found.rows()}
    assert told["ids.*", "object"] == told["ids.*.a", "number"] == 200
    assert told["tags.*[*]", "number"] == told['named."with a space"', "number"] == 200
    assert (told["link[1]", "string"], told["link[3]", "number"], told["link[2]", "null"]) == (200, 200, 200)
    assert ("named.key_0.b", "number") in told
    assert ("named.*.b", "number") in told
    assert len(told) < 3 * json_paths.MAX_KEYS
    again = StreamPaths("s", {"tags"}, [{"path": path, "type": kind, "payloads": 1} for path, kind in sorted(told)])
    assert {node.path for node in again.root.each()} == {node.path for node in found.root.each()}


def test_a_stream_has_so_many_paths_and_no_more() -> None:
    found = StreamPaths("s", set(), [])
    for number in range(2_000):
        found.inspect({f"a_{number % 60}": {f"b_{number}": {f"c_{number}": 1}}}, b"")
    deep: Document = 1
    for _ in range(500):
        deep = {"down": [deep]}
    found.inspect(deep, b"")
    assert sum(1 for _ in found.root.each()) < 2 * json_paths.MAX_PATHS
    assert max(node.depth for node in found.root.each()) <= json_paths.MAX_DEPTH


class Anything(Contract):
    """Nothing is required."""


def test_a_large_body_that_another_record_has_already_is_not_decoded(warehouse: Warehouse, civitai: Source) -> None:
    """It takes little room in the table."""
    made = replace(civitai, contracts={"": Anything})
    told, large = Recorder(warehouse, made), {"models": [], "filling": "x" * (jsonb.LARGE + 1)}
    told.land("a", large)
    told.land("b", large)
    told.land("c", {"models": []})
    with warehouse.connect() as connection:
        found = connection.execute("select distinct path from ops.schema_drift order by 1").fetchall()
    assert [row["path"] for row in found] == ["$", "models"]
