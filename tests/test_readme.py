"""README.md and docs/ are true: answers and transcripts are what commands print, the example of a new source works.

`README_WRITE=1 .venv/bin/python -m pytest tests/test_readme.py` writes the questions and answers.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines import project
from pipelines.warehouse.database import Warehouse
from tests import budgets, documents, launcher
from tests.documents import ADD_A_DOMAIN, ADD_A_SOURCE, DOCUMENTS, FIGURES, QUESTIONS, README

BEGIN, END = "<!-- answers -->", "<!-- /answers -->"
RUN_ID = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}\b")
BLOCK = re.compile(r"^```\n(\$ .*?)^```$", re.M | re.S)
"""A transcript: commands, each with lines that it prints."""


def command(root: Path, warehouse: Warehouse, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return launcher.run("--database-url", warehouse.conninfo, *arguments, folder=root, environment=os.environ)


def atlas(root: Path, warehouse: Warehouse, *arguments: str) -> str:
    """What the command prints to a pipe."""
    done = command(root, warehouse, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def answers(warehouse: Warehouse) -> dict[str, tuple[str, str, str]]:
    """Each question by its name: its sentence, its SELECT, and what `atlas ask` prints for it."""
    printed = "\n".join(line.rstrip() for line in atlas(project.ROOT, warehouse, "ask").splitlines())
    found = {}
    for question, answer in zip(project.questions(), printed.strip().split("\n\n"), strict=True):
        select = question.text.removeprefix(f"-- {question.sentence}\n").strip()
        rows = re.sub(r"\A[^()]*\(\w+\)\n", "", answer)  # the title, which may take several lines
        assert rows != answer
        assert launcher.words(question.sentence) in launcher.words(answer)
        found[question.name] = (question.sentence, select, rows)
    return found


def as_markdown(found: dict[str, tuple[str, str, str]], document: Path, names: list[str]) -> str:
    """Questions with their answers, in docs/questions.md with their SELECT too."""
    parts = []
    for name in names:
        sentence, select, rows = found[name]
        with_select = f"```sql\n{select}\n```\n" if document == QUESTIONS else ""
        parts.append(f"**{sentence}** `{name}`\n\n{with_select}```\n{rows}\n```")
    return "\n" + "\n\n".join(parts) + "\n"


def without_run_ids(text: str) -> str:
    """Runs have new ids in every warehouse; all else is the same everywhere."""
    return RUN_ID.sub("a run's id", text)


@pytest.mark.long("loads the recordings of all sources")
def test_the_answers_are_what_ask_prints(with_recordings: tuple[Warehouse, str]) -> None:
    """docs/questions.md has every question, README.md some of them."""
    found = answers(with_recordings[0])
    for document in (README, QUESTIONS):
        before, written, after = documents.between(document.read_text(), BEGIN, END)
        names = list(found) if document == QUESTIONS else re.findall(r"^\*\*.*\*\* `(\w+)`$", written, re.M)
        expected = as_markdown(found, document, names)
        if os.environ.get("README_WRITE"):
            document.write_text(f"{before}{BEGIN}{expected}{END}{after}")
            continue
        assert len(names) >= 5
        assert without_run_ids(written) == without_run_ids(expected), (
            f"the answers in {document.name} have changed. If that is meant, write them anew with: "
            "README_WRITE=1 .venv/bin/python -m pytest tests/test_readme.py"
        )


def test_the_figures_are_those_that_are_measured_and_within_their_budgets() -> None:
    """`README_WRITE=1 make bench` writes them."""
    written = budgets.figures(FIGURES.read_text())
    assert {what: most for what, (_, most) in written.items()} == budgets.BUDGETS
    assert all(budgets.number(figure) <= budgets.number(most) for figure, most in written.values())
    assert [path.name for path in DOCUMENTS if budgets.figures(path.read_text())] == [FIGURES.name]


def transcripts(text: str) -> list[tuple[str, list[str]]]:
    """The commands of a document's transcripts, each with the lines that it is said to print."""
    found: list[tuple[str, list[str]]] = []
    for block in BLOCK.findall(text):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def words(line: str) -> list[str]:
    """A line without ids of runs and without times to the minute, which are the clock's."""
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d(?!:)", "", without_run_ids(line)).split()


def test_transcripts_are_found() -> None:
    """In README.md and in a page of docs/, and every block that begins with a prompt is one."""
    commands = [command for path in DOCUMENTS for command, _ in transcripts(path.read_text())]
    assert len(commands) > 9
    assert len(commands) == len(re.findall(r"^\$ ", documents.text(), re.M))


@pytest.mark.long("commands, each a process")
@pytest.mark.parametrize(
    "document", [path for path in DOCUMENTS if BLOCK.search(path.read_text())], ids=lambda path: path.name
)
def test_commands_print_what_they_are_said_to_print(
    document: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every line of a transcript, in its order; a file that one shows is made of what is shown.

    Those of README.md run where the recordings are loaded, those of a page in an empty warehouse, one after another.
    """
    warehouse = (
        request.getfixturevalue("with_recordings")[0] if document == README else request.getfixturevalue("warehouse")
    )
    environment = os.environ | {"DATABASE_URL": warehouse.conninfo}
    for command, lines in transcripts(document.read_text()):
        if command.startswith("cat "):
            (tmp_path / command.removeprefix("cat ")).write_text("\n".join(lines) + "\n")
            continue
        command, _, code = command.partition("# exit code")
        program, *arguments = shlex.split(command)
        if program == "atlas":
            done = launcher.run(*arguments, folder=tmp_path, environment=environment)
        else:
            done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert done.returncode == int(code or 0), said
        printed = iter([words(line) for line in said.splitlines()])
        for line in lines:
            assert words(line) in printed, f"{command} does not print: {line}\n{said}"


def test_a_load_prints_what_it_is_said_to_print(with_recordings: tuple[Warehouse, str]) -> None:
    (written,) = re.findall(r"^```\n(landed .*?)^```$", documents.text(), re.M | re.S)
    printed = [words(line) for line in with_recordings[1].splitlines()]
    lines = written.strip().splitlines()
    assert len(lines) > 4
    assert [line for line in lines if words(line) not in printed] == []


def with_example(folder: Path, document: Path) -> dict[str, str]:
    """Copies the project and the example of a document: its blocks that follow a line with nothing but their path."""
    blocks = re.findall(r"^`((?:assets|sql|samples)/\S+)`:?\n+```\w*\n(.*?)^```$", document.read_text(), re.M | re.S)
    for name in ("assets", "sql", "samples", "pipelines", "migrations"):
        shutil.copytree(project.ROOT / name, folder / name)
    shutil.copy(project.ROOT / "pyproject.toml", folder)
    for path, text in blocks:
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return dict(blocks)


@pytest.fixture
def example(tmp_path: Path) -> dict[str, str]:
    """A copy of the project with the example of a new source."""
    return with_example(tmp_path, ADD_A_SOURCE)


def test_the_example_of_a_new_source_works_as_it_is_written(
    example: dict[str, str], tmp_path: Path, with_dagster: Warehouse
) -> None:
    assert [path.split("/")[0] for path in example] == ["assets", "sql", "samples"]
    source = next(path for path in example if path.startswith("assets/")).removeprefix("assets/").removesuffix(".py")
    (recorded,) = (json.loads(text) for path, text in example.items() if path.startswith("samples/"))
    payloads = [model for exchange in recorded["exchanges"] for model in exchange["body"]["models"]]
    told = json.loads(atlas(tmp_path, with_dagster, "run", source, "--json"))
    assert told["rows"] == {"catalog.models": len(payloads)}
    assert {run["status"] for run in told["runs"]} == {"completed"}


@pytest.mark.long("commands, each a process")
def test_the_example_of_a_new_domain_works_as_it_is_written(tmp_path: Path, with_dagster: Warehouse) -> None:
    assert len(with_example(tmp_path, ADD_A_DOMAIN)) == 5
    atlas(tmp_path, with_dagster, "db", "revision", "-m", "fonts")
    atlas(tmp_path, with_dagster, "db", "migrate")
    told = json.loads(atlas(tmp_path, with_dagster, "run", "fonts", "--json"))
    assert told["rows"] == {"fonts.families": 2}
    assert {run["status"] for run in told["runs"]} == {"completed"}
    compared = json.loads(atlas(tmp_path, with_dagster, "rebuild", "fonts", "--check", "--json"))
    assert [(each["table"], each["rows"], each["same"]) for each in compared] == [("fonts.families", 2, True)]
    assert "nothing to write" in atlas(tmp_path, with_dagster, "db", "revision", "-m", "again")


@pytest.mark.long("a dozen commands in a project of its own")
def test_what_is_wrong_with_a_new_source_is_told(
    example: dict[str, str], tmp_path: Path, with_dagster: Warehouse
) -> None:
    connector, select, sample = (tmp_path / path for path in example)
    source = connector.relative_to(tmp_path / "assets").with_suffix("").as_posix()
    printed: list[str] = []

    def says(words: str | list[str], *arguments: str, code: int = 1) -> None:
        done = command(tmp_path, with_dagster, *arguments)
        assert done.returncode == code, done.stderr
        said = launcher.words(done.stdout + done.stderr)
        assert [each for each in ([words] if isinstance(words, str) else words) if each not in said] == [], said
        assert "Traceback" not in said
        printed.append(said)

    select.unlink()
    says(
        f"{source} has no SELECT files: its payloads stay pending in staging, its rows stay as they are. "
        f"Add sql/{source}/",
        "run",
        source,
        code=0,
    )
    (run,) = json.loads(atlas(tmp_path, with_dagster, "runs", "--json"))
    assert (run["kind"], run["status"], run["created"] > 0) == ("land", "completed", True)
    says(f"{source} has no SELECT files", "transform", source, "--full", code=0)
    says(f"{source} has no SELECT files", "transform", "catalog", "--partition", run["partition_key"], code=0)
    defined = [sys.executable, "-c", "from pipelines.definitions import defs; print(defs.resolve_asset_graph())"]
    assert subprocess.run(defined, cwd=tmp_path, capture_output=True, timeout=120).returncode == 0
    select.write_text(example[select.relative_to(tmp_path).as_posix()])

    odd = sample.with_name("2026-1-1.json")
    sample.rename(odd)
    says("2026-1-1.json is not a recording of a day. Name it YYYY-MM-DD.json.", "run", source)
    odd.rename(sample)
    told = sample.read_text()
    sample.write_text(told.replace("GET /", "GET /v2/"))
    says(["The recording holds no response to GET /", "The most similar request is: GET /v2/"], "run", source)
    sample.write_text(told + ",")
    says(f"{sample.relative_to(tmp_path)} is not a valid recording: JSON is malformed", "run", source)
    says("exists already. To overwrite it, add --replace.", "record", source, "--day", sample.stem, code=2)
    says("has no history: 2026-11-02 cannot be fetched any more.", "record", source, "--day", "2026-11-02")
    sample.unlink()
    says(f"Recorded are {source}: none.", "run", source, code=2)

    text = connector.read_text()
    unknown = "TypeError: source.__init__() got an unexpected keyword argument 'start', from line "
    for wrong, words in {
        text.replace("start_date=", "start="): unknown,
        text.replace("def fetch", "dev fetch"): "invalid syntax in line ",
        f"import nothing_so_called\n{text}": "ModuleNotFoundError: No module named 'nothing_so_called', from line 1.",
    }.items():
        connector.write_text(wrong)
        says([f"{connector.relative_to(tmp_path)} cannot be imported: ", words], "transform", source)

    listed = re.findall(r"^\| `([^`]+)` \| .+ \|$", ADD_A_SOURCE.read_text(), re.M)
    assert len(listed) > 6
    assert [message for message in listed if not any(message in each for each in printed)] == []
