"""The settings: a flag overrides the environment, which overrides `atlas.toml` in the working directory."""

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from pipelines.errors import AtlasError

HOME = Path(__file__).resolve().parent.parent / ".atlas"

Mode = Literal["recorded", "live"]


class Settings(BaseSettings):
    """The settings of one process."""

    model_config = SettingsConfigDict(
        env_prefix="ATLAS_", toml_file="atlas.toml", extra="forbid", env_ignore_empty=True
    )

    # An alias, here the name itself, has no prefix: DATABASE_URL, SQL_ECHO.
    database_url: str | None = Field(
        None, validation_alias="database_url", description="Postgres 18 to use; unset: the embedded one"
    )
    home: Path = Field(HOME, description="Folder of the embedded server and Dagster's files")
    mode: Mode = Field("recorded", description="recorded replays samples/, live asks the sources")
    contact: str | None = Field(None, description="How operators of sources can reach you; sent in the User-Agent")
    keep_versions_days: int = Field(90, ge=0, description="Days that superseded versions are kept, for `as-of`")
    keep_quarantine_days: int = Field(90, ge=0, description="Days that closed quarantine entries are kept")
    keep_events_days: int = Field(14, ge=0, description="Days that Dagster's events are kept")
    sql_echo: bool = Field(False, validation_alias="sql_echo", description="Log SQLAlchemy's statements")

    def environment(self) -> dict[str, str]:
        """Environment variables that give another process the same settings."""
        return {variable(name): str(value) for name, value in self.model_dump(exclude_none=True).items()}

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], *_: Any, **sources: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return sources["init_settings"], sources["env_settings"], TomlConfigSettingsSource(settings_cls)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return name.upper() if Settings.model_fields[name].validation_alias else _variable(name)


def load(**flags: object) -> Settings:
    """The effective settings. Raises AtlasError for an invalid one. A flag that is None counts as not given."""
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})  # type: ignore[arg-type]
    except tomllib.TOMLDecodeError as error:
        raise AtlasError(f"atlas.toml cannot be read: {error}. Texts need quotes.", usage=True) from None
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        message = f"There is no setting {name!r}, as atlas.toml has it. There are: {', '.join(Settings.model_fields)}."
        if name in Settings.model_fields:
            message = f"The setting {variable(name)} is {first['input']!r}: {first['msg']}."
        raise AtlasError(message, usage=True) from None


def base_url(stem: str, kind: str = "") -> str | None:
    """What overrides the URL of a source, `ATLAS_<SOURCE>_BASE_URL`, or of a stream of another server, `…_<KIND>_…`."""
    return os.environ.get(_variable(stem, kind, "BASE_URL"))


def token(stem: str) -> str | None:
    """The API token of a source, from the environment only: `ATLAS_<SOURCE>_TOKEN`."""
    return os.environ.get(_variable(stem, "TOKEN"))


def redaction_key() -> str | None:
    """What keys the hashes of redacted values, from the environment only: `ATLAS_REDACTION_KEY`."""
    return os.environ.get(_variable("REDACTION_KEY"))


def _variable(*words: str) -> str:
    return "_".join(word.upper() for word in ("ATLAS", *words) if word)


def unknown_variables(kinds: Mapping[str, Iterable[str]]) -> list[str]:
    """Environment variables `ATLAS_…` that no setting has. kinds: by source, its streams of other servers."""
    known = {"ATLAS_DAGSTER_URL", _variable("REDACTION_KEY"), *map(variable, Settings.model_fields)}
    for stem, others in kinds.items():
        known |= {_variable(stem, "TOKEN"), *(_variable(stem, kind, "BASE_URL") for kind in ("", *others))}
    return sorted(name for name in os.environ if name.startswith("ATLAS_") and name not in known)
