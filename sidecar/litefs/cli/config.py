"""Finds litefs.yml, reads it, and says where in the file something is wrong.

Strategy: the YAML is composed into nodes, which know their lines, and turned into plain values in which every scalar is
the text of the file. The models of `config_models.py` do the rest; what they complain about is located by its path.

Guarantees: nothing is created, and nothing but the configuration file is opened.
"""

import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ValidationError

from litefs.cli.config_models import Config, keys_not_built_yet
from litefs.cli.expand_env import expand_env
from litefs.errors import ConfigError

KeyPath = tuple[str | int, ...]
PlainValue = str | list["PlainValue"] | dict[str, "PlainValue"] | None

_NULL_TAG = "tag:yaml.org,2002:null"
_MERGE_TAG = "tag:yaml.org,2002:merge"
_SHAPE_MESSAGES = {
    "model_type": "expected a mapping of keys to values",
    "list_type": "expected a list",
    "string_type": "expected text",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """The plain values of a YAML file.

    Attributes:
        value: mappings, lists and the text of scalars; nulls are left out, so that defaults hold.
        lines: line (1-based) of each key and list item.
    """

    value: dict[str, PlainValue]
    lines: Mapping[KeyPath, int]


def search_path() -> list[Path]:
    """The places where litefs.yml is looked for when no `-config` is given, in order."""
    return [Path("litefs.yml"), Path.home() / "litefs.yml", Path("/etc/litefs.yml")]


def find_config() -> Path:
    """Returns the first litefs.yml of the search path.

    Raises:
        ConfigError: there is none.
    """
    for path in search_path():
        if path.exists():
            return path
    places = ", ".join(str(path) for path in search_path())
    raise ConfigError(f"config file not found: looked for {places}; name it with -config PATH")


def load_config(path: Path, *, environment: Mapping[str, str] | None = None, expand: bool = True) -> Config:
    """Reads the configuration file at `path`.

    Args:
        path: the file.
        environment: the variables that the file may refer to; by default those of this process, with HOSTNAME, which
            LiteFS makes known where a container or a shell does not.
        expand: replace references to variables in the text.

    Raises:
        ConfigError: the file cannot be read, is no litefs.yml, or asks for what is not built yet. The message has one
            line per fault, each with file, line and key.
    """
    variables = {"HOSTNAME": socket.gethostname(), **os.environ} if environment is None else environment
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigError(f"{path}: cannot be read: {reason}") from error
    document = parse_document(expand_env(text, variables) if expand else text, str(path))
    try:
        config = Config.model_validate(document.value)
    except ValidationError as error:
        raise ConfigError("\n".join(_described_faults(error, document, str(path)))) from error
    _refuse_what_is_not_built(config, document, str(path), variables)
    _check_directories(config, document, str(path))
    return config


def parse_document(text: str, source: str) -> Document:
    """Turns YAML text into plain values and their lines.

    Args:
        text: the YAML.
        source: the name of the file, for messages.

    Raises:
        ConfigError: the text is no YAML, not a mapping, or has a key twice.
    """
    lines: dict[KeyPath, int] = {}
    try:
        loader = yaml.SafeLoader(text)
        try:
            root = loader.get_single_node()
            value = {} if root is None else _plain_value(loader, root, (), lines)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{source}{line}: {error.problem or error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{source}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{source}:1: expected a mapping of keys to values")
    return Document(value=value, lines=lines)


def _plain_value(loader: yaml.SafeLoader, node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int]) -> PlainValue:
    if isinstance(node, yaml.MappingNode):
        return _plain_mapping(loader, node, path, lines)
    if isinstance(node, yaml.SequenceNode):
        items: list[PlainValue] = []
        for index, item in enumerate(node.value):
            lines[(*path, index)] = item.start_mark.line + 1
            items.append(_plain_value(loader, item, (*path, index), lines))
        return items
    return None if node.tag == _NULL_TAG else str(node.value)


def _plain_mapping(
    loader: yaml.SafeLoader, node: yaml.MappingNode, path: KeyPath, lines: dict[KeyPath, int]
) -> dict[str, PlainValue]:
    _refuse_repeated_keys(node)
    loader.flatten_mapping(node)
    mapping: dict[str, PlainValue] = {}
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.MarkedYAMLError(problem="a key must be a plain name", problem_mark=key_node.start_mark)
        key = str(key_node.value)
        lines[(*path, key)] = key_node.start_mark.line + 1
        value = _plain_value(loader, value_node, (*path, key), lines)
        if value is not None:
            mapping[key] = value
    return mapping


def _refuse_repeated_keys(node: yaml.MappingNode) -> None:
    seen: set[str] = set()
    for key_node, _ in node.value:
        if key_node.tag == _MERGE_TAG or not isinstance(key_node, yaml.ScalarNode):
            continue
        if key_node.value in seen:
            raise yaml.MarkedYAMLError(problem=f"{key_node.value} is set twice", problem_mark=key_node.start_mark)
        seen.add(key_node.value)


def _described_faults(error: ValidationError, document: Document, source: str) -> Iterator[str]:
    for fault in error.errors():
        path = tuple(fault["loc"])
        kind = fault["type"]
        place = _place(document, source, path)
        if kind == "extra_forbidden":
            yield f"{place}: unknown key {_dotted(path)}; {_known_keys(path)}"
        elif kind == "missing":
            yield f"{place}: {'lease.type' if path == ('lease',) else _dotted(path)} is required"
        else:
            label = f"{_dotted(path)}: " if path else ""
            message = _SHAPE_MESSAGES.get(kind, fault["msg"].removeprefix("Value error, "))
            yield f"{place}: {label}{message[:1].lower()}{message[1:]}"


def _place(document: Document, source: str, path: KeyPath) -> str:
    """File and line of `path`, or of the nearest section around it that the file has."""
    for length in range(len(path), 0, -1):
        line = document.lines.get(path[:length])
        if line is not None:
            return f"{source}:{line}"
    return source


def _dotted(path: KeyPath) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def _section_model(path: KeyPath) -> type[BaseModel]:
    """The model of the section that holds the key at `path`."""
    model: type[BaseModel] = Config
    for part in path[:-1]:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part.replace("-", "_")].annotation
        inner = getattr(annotation, "__args__", (annotation,))[0]
        assert isinstance(inner, type)
        assert issubclass(inner, BaseModel)
        model = inner
    return model


def _known_keys(path: KeyPath) -> str:
    keys = ", ".join(sorted(name.replace("_", "-") for name in _section_model(path).model_fields))
    where = _dotted(path[:-1])
    return f"{where} knows {keys}" if where else f"known are {keys}"


def _refuse_what_is_not_built(config: Config, document: Document, source: str, environment: Mapping[str, str]) -> None:
    faults = []
    for key in keys_not_built_yet(config):
        path = tuple(key.split(" ")[0].split("."))
        faults.append(f"{_place(document, source, path)}: not supported yet: {key}")
    if environment.get("LITEFS_CLOUD_TOKEN"):
        faults.append("environment: not supported yet: LITEFS_CLOUD_TOKEN (it means backup.type litefs-cloud)")
    if faults:
        raise ConfigError("\n".join(faults))


def _check_directories(config: Config, document: Document, source: str) -> None:
    fuse_place = _place(document, source, ("fuse", "dir"))
    data_place = _place(document, source, ("data", "dir"))
    if not config.fuse.dir:
        raise ConfigError(f"{fuse_place}: fuse.dir: fuse directory required")
    if not config.data.dir:
        raise ConfigError(f"{data_place}: data.dir: data directory required")
    # abspath and not resolve(): a path that leads into a dead mount must not be followed.
    fuse_dir, data_dir = Path(os.path.abspath(config.fuse.dir)), Path(os.path.abspath(config.data.dir))
    if fuse_dir == data_dir:
        raise ConfigError(f"{fuse_place}: fuse.dir: fuse directory and data directory cannot be the same path")
    if data_dir.is_relative_to(fuse_dir):
        raise ConfigError(f"{data_place}: data.dir: the data directory cannot be inside the mount at {fuse_dir}")
