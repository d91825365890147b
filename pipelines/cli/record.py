"""`atlas record`: keeps what a live source answers as a recording, which `atlas run` and the tests replay.

    live source ──fetch, get_record──> Recorder ──replayed once──> samples/<domain>/<source>/<day>.json

Belongs here: what is requested, and messages. Not here: the format (`connectors.recording`), what is a secret
(`connectors.redaction`).
"""

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from pipelines import project, settings
from pipelines.cli import context, load, show
from pipelines.connectors import recording
from pipelines.connectors.recording import Recorder
from pipelines.errors import AtlasError, Refused
from pipelines.landing import extract
from pipelines.landing.validate import Validator
from pipelines.source import FullScan, Item, Payload, Source, Window
from pipelines.warehouse.database import Warehouse


def record(
    source: Annotated[str, typer.Argument(help="The source (domain/source).")],
    day: Annotated[str | None, typer.Option(help="Day of the recording; without it, today.", metavar="DAY")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="The most pages of a listing, records of a page, files of a folder.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Overwrite the recording of that day.")] = False,
    json: context.AsJson = False,
) -> None:
    """Keep what a live source answers as a recording, without tokens, passwords and e-mail addresses."""
    chosen = project.find_sources([source])
    if len(chosen) > 1:
        raise AtlasError(f"Name one source: {', '.join(each.name for each in chosen)}.", usage=True)
    found, window = chosen[0], load.parse_day(day or datetime.now(UTC).date().isoformat())
    path = recording.file_of(found, window.day)
    name = path.relative_to(project.SAMPLES.parent).as_posix()
    if path.exists() and not replace:
        raise AtlasError(f"{name} exists already. To overwrite it, add --replace.", usage=True)
    for place in found.extra_urls:
        if not (settings.base_url(found.stem, place) or found.extra_urls[place]):
            variable = f"ATLAS_{found.stem}_{place}_BASE_URL".upper()
            raise AtlasError(f"{found.name} reads {place} too: set {variable}, so that it is recorded.", usage=True)
    recorder = Recorder(limit, past=not extract.is_current(found, window))
    with context.warehouse() as warehouse:
        items = _record(warehouse, found, window, recorder)
    recording.write(path, recorder)
    payloads = sum(isinstance(item, Payload) for item in items)
    if json:
        counts = {"responses": len(recorder.exchanges), "files": len(recorder.files), "payloads": payloads}
        show.as_json({"recording": name, **counts, "left_out": recorder.left_out})
    else:
        kept = f"{len(recorder.files):,} files" if found.kind == "folder" else f"{len(recorder.exchanges):,} responses"
        show.out.print(f"{name}: {kept}, {payloads:,} payloads. Read what it holds before you commit it.")
        show.out.print(f"To replay it, run: atlas run {found.name} --partition {window.key}", highlight=False)
    for each in recorder.left_out:
        show.err.print(f"left out, it seems to hold a secret or an address: {each}", highlight=False, markup=False)
    if recorder.left_out:
        raise typer.Exit(context.PARTIAL)


def _record(warehouse: Warehouse, source: Source, window: Window, recorder: Recorder) -> list[Item]:
    """Fetches a source, and replays what was kept. Raises AtlasError where that fails."""
    items: list[Item] = []
    with (
        extract.open_source(warehouse, source, recorder) as place,
        show.err.status(f"recording {source.name}") as status,
    ):
        for item in source.fetch(place, recorder.recording().window(source, window.day)):
            items.append(item)
            status.update(f"recording {source.name}: {len(items):,} items so far")
        if isinstance(place, Path):
            recorder.keep_files(place, items)
            return items
        for kind, external_id in _missing(warehouse, source, window, items) if recorder.limit is None else []:
            with suppress(Refused):  # a landing of the recording counts it
                source.get_record and source.get_record(place, kind, external_id)
    with extract.open_recording(source, window, recorder.recording()) as intake:
        try:
            list(intake.items({}))
        except AtlasError as error:
            raise AtlasError(f"What {source.name} answered cannot be replayed: {error} Nothing is written.") from None
    return items


def _missing(warehouse: Warehouse, source: Source, window: Window, items: list[Item]) -> list[tuple[str, str]]:
    """Kind and id of records of earlier recordings that a full scan lacks: a landing asks for each of them by id."""
    scans = {item.kind: item.id_range for item in items if isinstance(item, FullScan)}
    known: set[tuple[str, str]] = set()
    for day in recording.days(source):
        if scans and day < window.day:
            with extract.open_intake(warehouse, source, Window(day), "recorded") as intake:
                known |= _ids(source, intake.items({}))
    return [
        (kind, external_id)
        for kind, external_id in sorted(known - _ids(source, items))
        if kind in scans and ((limits := scans[kind]) is None or limits[0] <= int(external_id) <= limits[1])
    ]


def _ids(source: Source, items: Iterable[Item]) -> set[tuple[str, str]]:
    """Kind and id of each payload that has a readable one."""
    validators = {kind: Validator(stream, source.contracts[kind], None) for kind, stream in source.streams.items()}
    payloads = [item for item in items if isinstance(item, Payload)]
    found = {(payload.kind, validators[payload.kind].validate(payload, 0).external_id) for payload in payloads}
    return {(kind, external_id) for kind, external_id in found if external_id}
