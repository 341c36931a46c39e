"""Dataclasses <-> `ml_collections.ConfigDict` <-> JSON, strictly.

Every part of the system is configured by one frozen dataclass. A config file is a ConfigDict with one section per part,
made from the dataclasses' defaults; `from_mapping` turns a section back into its dataclass and refuses what it does not
know. Nothing below `main.py` sees a ConfigDict.
"""

import dataclasses
import difflib
import json
import pathlib
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import ml_collections
from ml_collections import config_dict

_JSON_INDENT = 2
T = TypeVar("T")


def to_config_dict(instance: Any) -> ml_collections.ConfigDict:
    """A frozen dataclass as a ConfigDict: nested dataclasses become sections, `X | None` fields can be overridden.

    A tuple of dataclasses stays a tuple, of plain dicts, which only a config file (not the command line) can change.
    """
    hints = typing.get_type_hints(type(instance))
    result = ml_collections.ConfigDict()
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        if value is None:
            result[field.name] = _placeholder(hints[field.name])
        elif dataclasses.is_dataclass(value):
            result[field.name] = to_config_dict(value)
        elif isinstance(value, Mapping):
            result[field.name] = ml_collections.ConfigDict(
                {key: to_config_dict(item) if dataclasses.is_dataclass(item) else item for key, item in value.items()}
            )
        elif isinstance(value, tuple):
            result[field.name] = tuple(to_plain(item) if dataclasses.is_dataclass(item) else item for item in value)
        else:
            result[field.name] = value
    return result


def to_plain(value: Any) -> Any:
    """Dataclasses, ConfigDicts and tuples as the dicts and lists that JSON knows."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, ml_collections.ConfigDict):
        return {key: to_plain(value[key]) for key in value}
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    return value


def from_mapping(cls: type[T], mapping: Mapping[str, Any], path: str = "config") -> T:
    """A dataclass from a mapping (a ConfigDict, a dict, what JSON gave); missing keys take the dataclass's defaults.

    Args:
      cls: the dataclass.
      mapping: its fields by name.
      path: where the mapping stands, for error messages ("config.model").
    Raises:
      ValueError: an unknown key (the message names it and the nearest known ones), a missing key without default or a
        value of the wrong type.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for key in mapping:
        if key not in fields:
            raise ValueError(f"{path}.{key}: no such key. {_neighbors(key, fields)}")
    values = {}
    for name, field in fields.items():
        if name in mapping:
            values[name] = _convert(mapping[name], hints[name], f"{path}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{path}.{name}: missing, expected a value of type {_type_name(hints[name])}")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save_json(path: pathlib.Path | str, config: Any) -> None:
    """Writes a dataclass (with every default spelled out) as JSON."""
    pathlib.Path(path).write_text(json.dumps(to_plain(config), indent=_JSON_INDENT) + "\n")


def load_json(cls: type[T], path: pathlib.Path | str) -> T:
    """Reads what `save_json` wrote; ValueError naming the file if it is absent or no such JSON."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected the config that a training run writes into its workdir, found no such file")
    try:
        content = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from error
    return from_mapping(cls, content, path=str(path))


def check_overrides(config: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Checks that command-line arguments `--config.a.b=value` name keys that the config has.

    Raises:
      ValueError: naming the first that does not, and the nearest known keys.
    """
    for argument in arguments:
        if not argument.startswith(("--config.", "-config.")):
            continue
        path, section = "config", config
        for key in argument.lstrip("-").split("=")[0].split(".")[1:]:
            if not isinstance(section, (Mapping, ml_collections.ConfigDict)) or key not in section:
                known = section.keys() if isinstance(section, (Mapping, ml_collections.ConfigDict)) else ()
                raise ValueError(f"{path}.{key}: no such key. {_neighbors(key, dict.fromkeys(known))}")
            path, section = f"{path}.{key}", section[key]


def _neighbors(key: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(key, known, n=3, cutoff=0.5)
    every = ", ".join(sorted(known))
    return f"Did you mean {' or '.join(near)}? Known keys: {every}" if near else f"Known keys: {every}"


def _placeholder(hint: Any) -> config_dict.FieldReference:
    """A None that remembers which type the field takes."""
    plain = [option for option in typing.get_args(hint) if option is not types.NoneType]
    kind = typing.get_origin(plain[0]) or plain[0] if plain else object
    return config_dict.placeholder(kind if isinstance(kind, type) else object)


def _type_name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)


def _convert(value: Any, hint: Any, path: str) -> Any:
    """`value` as the type `hint`, or a ValueError that names both."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    error = ValueError(f"{path}: expected {_type_name(hint)}, found {value!r} of type {type(value).__name__}")
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        options = [option for option in arguments if option is not types.NoneType]
        if len(options) == 1:
            return _convert(value, options[0], path)
        for option in options:
            try:
                return _convert(value, option, path)
            except ValueError:
                continue
        raise error
    if origin is typing.Literal:
        if value not in arguments:
            raise error
        return value
    if dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(value) and isinstance(value, hint):
            return value
        if not isinstance(value, (Mapping, ml_collections.ConfigDict)):
            raise error
        return from_mapping(hint, value, path)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise error
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(item, arguments[0], f"{path}[{i}]") for i, item in enumerate(value))
        if len(value) != len(arguments):
            raise error
        return tuple(
            _convert(item, kind, f"{path}[{i}]") for i, (item, kind) in enumerate(zip(value, arguments, strict=True))
        )
    if origin in (dict, Mapping):
        if not isinstance(value, (Mapping, ml_collections.ConfigDict)):
            raise error
        return {key: _convert(value[key], arguments[1], f"{path}.{key}") for key in value}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type):
        if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
            raise error
        return value
    raise TypeError(f"{path}: fields of type {hint} are not supported in configs")
