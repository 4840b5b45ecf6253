"""Dataclasses as structural schemas, and objects of the API as dataclasses: one source for both.

Strategy: a field of a dataclass is declared with `described`, which keeps its description and its limits in the
field's metadata. `schema_of` writes the OpenAPI schema of a dataclass, `parse` reads what the API server stores.
Names are camelCase there and snake_case here.

    str, int, bool    the plain type
    StrEnum           a string of these values
    X | None          absent unless given
    dict[str, str]    a map
    int | str         a number or a name, as targetPort of a Service
    tuple[X, ...]     a list
    a dataclass       an object; its default is written out, so that `kubectl get -o yaml` shows what counts
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, TypeVar, cast

from litefs_operator.errors import SpecError

Schema = dict[str, Any]
Record = TypeVar("Record")
_INT_OR_STRING = int | str
_SCALARS: dict[object, str] = {str: "string", int: "integer", bool: "boolean"}


def described(description: str, *, default: object = dataclasses.MISSING, **limits: object) -> Any:
    """Declares a field.

    Args:
        description: what `kubectl explain` says.
        default: written into the schema too, unless it is None; without one the field is required.
        limits: keywords of OpenAPI (`pattern`, `minimum`, `maxLength`), added to the field's schema.
    """
    metadata = {"description": description, "limits": limits}
    if dataclasses.is_dataclass(default) and isinstance(default, type):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=cast("Any", default), metadata=metadata)


def api_name(name: str) -> str:
    """Returns the camelCase of a field's name."""
    first, *others = name.split("_")
    return first + "".join(part.capitalize() for part in others)


def schema_of(record: type, description: str = "") -> Schema:
    """Returns the structural schema of a dataclass; its rules are in the class variable `RULES`, rule → message."""
    hints = _hints(record)
    properties: Schema = {}
    required = []
    for field in dataclasses.fields(record):
        name = api_name(field.name)
        properties[name] = _field_schema(field, hints[field.name])
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.append(name)
    schema: Schema = {"type": "object"}
    if description:
        schema["description"] = description
    schema["properties"] = properties
    if required:
        schema["required"] = required
    rules: Mapping[str, str] = getattr(record, "RULES", {})
    if rules:
        schema["x-kubernetes-validations"] = [{"rule": rule, "message": text} for rule, text in rules.items()]
    return schema


def _field_schema(field: "dataclasses.Field[Any]", hint: object) -> Schema:
    schema = _type_schema(_without_none(hint), field.metadata["description"])
    schema.update(field.metadata["limits"])
    if field.default not in (dataclasses.MISSING, None):
        schema["default"] = _plain(field.default)
    elif field.default_factory is not dataclasses.MISSING:
        # Written out: the API server holds a default against the rules before it fills in those of the fields below.
        schema["default"] = {
            name: inner["default"] for name, inner in schema["properties"].items() if "default" in inner
        }
    return schema


def _type_schema(hint: object, description: str) -> Schema:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return schema_of(hint, description)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return {"type": "string", "description": description, "enum": [str(value) for value in hint]}
    if typing.get_origin(hint) is dict:
        return {"type": "object", "description": description, "additionalProperties": {"type": "string"}}
    if typing.get_origin(hint) is tuple:
        items = _type_schema(typing.get_args(hint)[0], "")
        return {"type": "array", "description": description, "items": items}
    if hint == _INT_OR_STRING:
        return {"x-kubernetes-int-or-string": True, "description": description}
    return {"type": _SCALARS[hint], "description": description}


def _plain(default: object) -> object:
    """Returns a default as it is written in YAML."""
    if isinstance(default, StrEnum):
        return str(default)
    return list(default) if isinstance(default, tuple) else default


def _without_none(hint: object) -> object:
    if isinstance(hint, types.UnionType):
        inner = [part for part in typing.get_args(hint) if part is not types.NoneType]
        return inner[0] if len(inner) == 1 else _INT_OR_STRING
    return hint


@functools.cache
def _hints(record: type) -> dict[str, Any]:
    """Returns the types of a record's fields: to evaluate them takes longer than all else that is done with a spec."""
    return typing.get_type_hints(record)


def parse(record: type[Record], value: Mapping[str, Any], path: str = "spec") -> Record:
    """Reads an object of the API server, defaults filled in. Unknown fields are those of a later version: ignored.

    Raises:
        SpecError: a required field is missing, or one is of another type.
    """
    hints = _hints(cast("Any", record))
    arguments = {}
    for field in dataclasses.fields(cast("Any", record)):
        name = api_name(field.name)
        where = f"{path}.{name}"
        if value.get(name) is not None:
            arguments[field.name] = _parse_value(_without_none(hints[field.name]), value[name], where)
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise SpecError(f"{where} is required")
    return record(**arguments)


def _parse_value(hint: object, value: object, path: str) -> object:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise SpecError(f"{path}: expected an object")
        return parse(hint, value, path)
    if typing.get_origin(hint) is dict:
        if not isinstance(value, Mapping):
            raise SpecError(f"{path}: expected a map")
        return {str(key): str(text) for key, text in value.items()}
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise SpecError(f"{path}: expected a list")
        inner = typing.get_args(hint)[0]
        return tuple(_parse_value(inner, item, f"{path}[{index}]") for index, item in enumerate(value))
    if hint == _INT_OR_STRING:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise SpecError(f"{path}: expected a number or a name")
        return value
    assert isinstance(hint, type)
    if issubclass(hint, StrEnum):
        if value not in list(hint):
            raise SpecError(f"{path}: expected one of {', '.join(hint)}")
        return hint(str(value))
    if type(value) is not hint:
        raise SpecError(f"{path}: expected a value of type {_SCALARS[hint]}")
    return value
