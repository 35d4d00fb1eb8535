"""What ``clip-text serve`` is to do: options over environment variables over a file.

Every field of :class:`ServeConfig` has one name in all three: ``port`` in the file,
``CLIP_TEXT_SERVE_PORT`` in the environment, and ``--port`` or ``--set port=…`` as an option.
"""

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clip_text.errors import ClipTextError, needs
from clip_text.names import RuntimeName
from clip_text_cli.options import DEFAULT_INDEX
from retrieval.service.settings import Settings
from retrieval.stores.address import Location, StoreAddress, as_location

with needs("clip-text[serve]", "the search service"):
    from pydantic import Field, ValidationError, field_serializer, field_validator
    from pydantic_settings import BaseSettings, SettingsConfigDict, TomlConfigSettingsSource
    from pydantic_settings.sources import EnvSettingsSource, PydanticBaseSettingsSource

__all__ = ["CONFIG_VARIABLE", "PREFIX", "ConfigError", "ServeConfig", "Sourced", "read_config"]

PREFIX: Final = "CLIP_TEXT_SERVE_"
CONFIG_VARIABLE: Final = f"{PREFIX}CONFIG"
FIRST_INDEX: Final = "default"
"""Name of an index that is given none."""

_NAMED: Final = re.compile(r"([\w.-]+)=(.+)", re.DOTALL)
# What a shell says to all our commands counts here, too, where nothing of the service's own does.
_SHARED: Final = {
    "index": "CLIP_TEXT_INDEX",
    "model": "CLIP_TEXT_MODEL",
    "runtime": "CLIP_TEXT_RUNTIME",
}


class ConfigError(ClipTextError):
    """A value that the service cannot be run with, or a name that says nothing to it."""


class ServeConfig(Settings, BaseSettings):
    """What is served, where, and how; :class:`Settings` has the bounds.

    Frozen, and the same after pickling.
    """

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        extra="forbid",
        frozen=True,
        env_ignore_empty=True,  # as compose files leave what is not set
        # lists are written with commas, so that no shell has to quote JSON
        enable_decoding=False,
        # names that begin with model_ are ours
        protected_namespaces=(),
    )

    index: dict[str, Any] = Field(
        default_factory=lambda: {FIRST_INDEX: DEFAULT_INDEX},
        min_length=1,
        description="Folders of indexes, or addresses on a server, each under the name that "
        "?collection= has.",
    )
    model: str = Field(
        default="starter", description="Model of the indexes: starter, a folder, or a hub name."
    )
    models: dict[str, str] = Field(
        default_factory=dict, description="Models of indexes that have another, by their names."
    )
    runtime: RuntimeName | None = Field(default=None, description="How the models compute.")
    trust_remote_code: bool = Field(
        default=False, description="Whether code that lies beside a model's weights may run."
    )
    head: str | None = Field(
        default=None, description="Classification head that names each query's category."
    )
    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port; 0 takes a free one.")
    workers: int = Field(default=1, ge=1, le=256, description="Processes that answer.")
    root_path: str = Field(
        default="",
        pattern=r"^(/[\w.~-]+)*$",
        description="Path under which a proxy has the service, such as /pictures.",
    )
    proxies: tuple[str, ...] = Field(
        default=("127.0.0.1", "::1"),
        description="Proxies whose word on a caller's address counts; * for all.",
    )
    cached_queries: int = Field(
        default=1024, ge=0, description="Queries that keep their vectors, in each process."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003  (of pydantic's signature, as the rest)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what :func:`read_config` has gathered, which knows where it is from."""
        return (init_settings,)

    @field_validator("*", mode="before")
    @classmethod
    def _take_apart(cls, value: object, info: Any) -> object:  # noqa: ANN401  (pydantic's)
        """Read lists and named things that are written in one word, as shells have them."""
        annotation = str(cls.model_fields[info.field_name].annotation)
        if isinstance(value, str) and value[:1] in ("[", "{") and _is_many(annotation):
            try:
                value = json.loads(value)
            except json.JSONDecodeError as error:
                raise ValueError(f"be JSON, or written with commas: {error}") from error
        if info.field_name == "index":
            many = value if isinstance(value, dict) else _named(value)  # type: ignore[arg-type]
            return {name: _place(each) for name, each in many.items()}
        if not isinstance(value, str) or not _is_many(annotation):
            return value
        return dict(map(_pair, _split(value))) if "dict[" in annotation else _split(value)

    @field_serializer("index")
    def _tell_places(self, index: dict[str, Location]) -> dict[str, str]:
        """Write where indexes are, without passwords."""
        return {name: str(place) for name, place in index.items()}

    def settings(self) -> Settings:
        """Give the part that :mod:`retrieval.service` knows."""
        return Settings(**{name: getattr(self, name) for name in Settings.model_fields})

    def model_of(self, index: str) -> str:
        """Name the model of an index."""
        return self.models.get(index, self.model)


@dataclass(frozen=True)
class Sourced:
    """A configuration, and where each of its values is from.

    Args:
        config: What holds.
        sources: By field: a variable's name, a file's, or the option; ``default`` is left out.
    """

    config: ServeConfig
    sources: Mapping[str, str]

    def lines(self) -> list[str]:
        """Write it as a file that ``--config`` reads, each value with its source."""
        lines = []
        for name in ServeConfig.model_fields:
            value = self.config.model_dump(mode="json")[name]
            said = "# " + name + " =" if value is None else f"{name} = {_toml(value)}"
            lines.append(f"{said}  # {self.sources.get(name, 'default')}")
        return lines


def read_config(options: Mapping[str, object], file: Path | None) -> Sourced:
    """Gather what options, environment and file say, each over the next.

    Args:
        options: What was given on the command line, by field.
        file: TOML; none if None.

    Raises:
        ConfigError: If a source names what there is not, or has a value that cannot be; it says
            which.
    """
    _refuse_unknown(options, "--set", ServeConfig.model_fields)
    layers = [(dict(options), dict.fromkeys(options, "option"))]
    variables = _variables()
    layers.append((variables, {name: _variable_of(name) for name in variables}))
    if file is not None:
        said = _read_file(file)
        layers.append((said, dict.fromkeys(said, str(file))))
    values: dict[str, object] = {}
    sources: dict[str, str] = {}
    for said, where in reversed(layers):
        values |= said
        sources |= where
    try:
        config = ServeConfig(**values)  # type: ignore[arg-type]  # pydantic says what is wrong
    except ValidationError as error:
        raise ConfigError(_told(error, sources)) from error
    strangers = sorted(set(config.models) - set(config.index))
    if strangers:
        raise ConfigError(
            f"expected models of indexes that are served ({', '.join(config.index)}), got one of "
            f"{strangers[0]!r} ({sources['models']}). Name it with index, too."
        )
    return Sourced(config, sources)


def _variables() -> dict[str, Any]:
    # in capitals or not, as pydantic reads them
    own = {name.upper() for name in os.environ if name.upper().startswith(PREFIX)}
    own.discard(CONFIG_VARIABLE)
    known = {f"{PREFIX}{name.upper()}": name for name in ServeConfig.model_fields}
    _refuse_unknown(own, "the environment", known)
    said = EnvSettingsSource(ServeConfig)()
    for name, variable in _SHARED.items():
        if name not in said and os.environ.get(variable):
            said[name] = os.environ[variable]
    return said


def _variable_of(name: str) -> str:
    own = f"{PREFIX}{name.upper()}"
    said = (each for each, value in os.environ.items() if value and each.upper() == own)
    return next(said, None) or _SHARED[name]


def _read_file(file: Path) -> dict[str, Any]:
    try:
        said = TomlConfigSettingsSource(ServeConfig, file)() if file.is_file() else None
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"expected a file in TOML, got {file}, which is none: {error}. Correct it."
        ) from error
    if said is None:
        raise ConfigError(f"expected a file, got {file}, which is none. Name another: --config.")
    _refuse_unknown(said, str(file), ServeConfig.model_fields)
    return {name: _anchored(name, value, file.parent) for name, value in said.items()}


def _anchored(name: str, value: object, folder: Path) -> object:
    """Read paths in a file as from its own folder, wherever the service is started."""
    annotation = str(ServeConfig.model_fields[name].annotation)
    if "Path" not in annotation and name != "index":
        return value
    if name == "index" and isinstance(value, str | list):
        named = ((_NAMED.fullmatch(each), each) for each in _names(value))
        return [
            f"{it[1]}={_below(it[2], folder)}" if it else _below(each, folder) for it, each in named
        ]
    if isinstance(value, str) and _is_many(annotation):
        value = _split(value)
    if isinstance(value, dict):
        return {key: _below(each, folder) for key, each in value.items()}
    return (
        [_below(each, folder) for each in value]
        if isinstance(value, list)
        else _below(value, folder)
    )


def _below(value: object, folder: Path) -> object:
    if not isinstance(value, str) or isinstance(as_location(value), StoreAddress):
        return value
    return str(folder / value)


def _place(value: object) -> Location:
    """Read where an index is."""
    if not isinstance(value, str | Path | StoreAddress):
        raise ValueError("be a folder, or an address on a server")
    return as_location(value)


def _refuse_unknown(said: Any, where: str, known: Mapping[str, object]) -> None:  # noqa: ANN401
    unknown = sorted(set(said) - set(known))
    if unknown:
        raise ConfigError(
            f"expected names that the service knows in {where}, got {unknown[0]}. "
            "clip-text serve --show-config lists them."
        )


def _told(error: ValidationError, sources: Mapping[str, str]) -> str:
    """Say the first of pydantic's findings in a line, and where the value is from."""
    fault = error.errors()[0]
    name = str(fault["loc"][0])
    where = sources.get(name, "default")
    should = re.sub(r"^(Input|Value|\w+) should|^Value error,", "to", fault["msg"])
    return f"expected {name} {should}, got {fault['input']!r} ({where}). Correct it."


def _is_many(annotation: str) -> bool:
    return any(kind in annotation for kind in ("tuple[", "list[", "set[", "dict["))


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _named(value: str | list[Any] | tuple[Any, ...]) -> dict[str, str]:
    """Read ``photos=a.index``, several of them, or the folder of the only one."""
    pairs = list(map(_pair, _names(value)))
    names = [name for name, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError("be of different names, as in photos=a.index cards=b.index")
    return dict(pairs)


def _names(value: str | list[Any] | tuple[Any, ...]) -> list[str]:
    """Take ``photos=a.index,cards=b.index`` apart, or the folder of the only one."""
    if isinstance(value, str):
        return _split(value) if _NAMED.fullmatch(value) else [value]
    return list(map(str, value))


def _pair(text: str) -> tuple[str, str]:
    found = _NAMED.fullmatch(text)
    return (found[1], found[2]) if found else (FIRST_INDEX, text)


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
