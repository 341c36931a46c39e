"""Dataclasses <-> `ml_collections.ConfigDict` <-> JSON, strictly.

Every part of the system is configured by one frozen dataclass. A config file is a ConfigDict with one section per part,
made from the dataclasses' defaults; `from_mapping` turns a section back into its dataclass and refuses what it does not
know. Nothing below `main.py` sees a ConfigDict.
"""

import ast
import dataclasses
import difflib
import json
import pathlib
import runpy
import traceback
import types
import typing
from collections.abc import Mapping, Sequence, Sized
from typing import Any, TypeVar

import ml_collections
from ml_collections import config_dict

from tarvis_jax.fields import Length, field_hints, shown

MAX_JSON_BYTES = 4 * 2**20  # of a config; ours have some 10 kB
_JSON_INDENT = 2
_MOST_UNKNOWN = 10  # keys that one message names
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
      ValueError: lists every unknown key (with the nearest known ones), every missing key without default and every
        value of the wrong type or out of its range.
    """
    hints = field_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    unknown = [key for key in mapping if key not in fields]
    problems = [f"{path}.{_name(key)}: no such key. {_neighbors(key, fields)}" for key in unknown[:_MOST_UNKNOWN]]
    values = {}
    for name, field in fields.items():
        if name in mapping:
            try:
                values[name] = _convert(mapping[name], hints[name], f"{path}.{name}")
            except ValueError as error:
                problems.append(str(error))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            problems.append(f"{path}.{name}: missing, expected a value of type {_type_name(hints[name])}")
    if problems:
        raise ValueError("\n".join(problems))
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def save_json(path: pathlib.Path | str, config: Any) -> None:
    """Writes a dataclass (with every default spelled out) as JSON."""
    path = pathlib.Path(path)
    whole = path.with_name(f"{path.name}.part")  # a kill leaves the old file or the new one
    whole.write_text(json.dumps(to_plain(config), indent=_JSON_INDENT, allow_nan=False) + "\n")
    whole.replace(path)


def load_json(cls: type[T], path: pathlib.Path | str) -> T:
    """Reads what `save_json` wrote; ValueError naming the file if it is absent or no such JSON."""
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: expected the config that a training run writes into its workdir, found no such file")
    return from_mapping(cls, read_json(path), path=str(path))


def read_json(path: pathlib.Path | str) -> dict[str, Any]:
    """The JSON object in a file that may come from anyone: bounded in size, each name once, no NaN.

    Raises:
      ValueError: not such a file; names it.
    """
    path = pathlib.Path(path)
    if not path.is_file():  # also a device or a pipe, which might never end
        raise ValueError(f"{path}: expected a JSON file, found {'none' if not path.exists() else 'something else'}")
    with path.open("rb") as file:
        text = file.read(MAX_JSON_BYTES + 1)
    if len(text) > MAX_JSON_BYTES:
        raise ValueError(f"{path}: expected at most {MAX_JSON_BYTES} bytes of JSON, found more")
    try:
        content = json.loads(text, object_pairs_hook=unique_names, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # also bytes that are not UTF-8
        raise ValueError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def unique_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.loads`: an object in which no name occurs twice, else ValueError."""
    result: dict[str, Any] = {}
    for name, value in pairs:
        if name in result:
            raise ValueError(f"the name {shown(name)} occurs twice in one object")
        result[name] = value
    return result


def _refuse_constant(name: str) -> None:
    raise ValueError(f"expected finite numbers, found {name}")


def load_config_file(given: str, overrides: Sequence[str] = ()) -> ml_collections.ConfigDict:
    """What `get_config` of a config file returns, with some settings replaced.

    Args:
      given: "file.py", or "file.py:argument" to call `get_config(argument)`. The file is Python and is run.
      overrides: "config.section.key=value", in the order in which they apply. A value has the type that the setting
        has: text as it is, true or false, a number, a tuple as "1,2" or "(1, 2)"; "None" is None.

    Raises:
      ValueError: no such file, no `get_config` in it, any exception that it raises, a key that the config lacks (with
        the nearest known ones) or a value of another type.
    """
    file, separator, argument = given.partition(":")
    if not pathlib.Path(file).is_file():
        raise ValueError(f"--config={given}: no such file")
    try:
        get_config = runpy.run_path(file).get("get_config")
        if not callable(get_config):
            raise ValueError("expected a function get_config in the file, found none")
        config = get_config(argument) if separator else get_config()
    except ValueError as error:
        raise ValueError(f"--config={given}: {error}") from error
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        place = f"line {lines[-1]}: " if lines else ""
        raise ValueError(f"--config={given}: {place}{type(error).__name__}: {error}") from error
    if not isinstance(config, ml_collections.ConfigDict):
        raise ValueError(f"--config={given}: expected a ConfigDict from get_config, found {type(config).__name__}")
    for override in overrides:
        _override(config, override)
    return config


def describe(config: Any) -> list[str]:
    """Every setting of a config (a dataclass) as "config.section.key=value"; of datasets only their names."""
    return _lines(to_plain(config), "config")


def _lines(value: Any, path: str) -> list[str]:
    if isinstance(value, dict) and value:
        return [line for key, item in value.items() for line in _lines(item, f"{path}.{key}")]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return [f"{path}: {', '.join(item['name'] for item in value)} (to be changed in a config file)"]
    return [f"{path}={tuple(value) if isinstance(value, list) else value}"]


def _override(config: ml_collections.ConfigDict, override: str) -> None:
    """Sets "config.section.key=value" in `config`."""
    path, separator, text = override.partition("=")
    if not separator:
        raise ValueError(f"--{path}: expected --{path}=value")
    section, place = config, "config"
    *sections, key = path.split(".")[1:]
    for name in (*sections, key):
        known = section if isinstance(section, ml_collections.ConfigDict) else {}
        if name not in known:
            raise ValueError(f"{place}.{name}: no such key. {_neighbors(name, dict.fromkeys(known))}")
        if name is not key:
            section, place = section[name], f"{place}.{name}"
    if isinstance(section[key], ml_collections.ConfigDict):
        raise ValueError(f"--{override}: expected a setting, found a section with keys {', '.join(section[key])}")
    section[key] = _parse(text, section.get_type(key), path)


def _parse(text: str, kind: type, path: str) -> Any:
    """A value of type `kind` (or None) from the command line."""
    if text == "None":
        return None
    if kind is str:
        return text
    try:
        value = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = text  # a word
    if kind is tuple and not isinstance(value, tuple):
        words = tuple(filter(None, value.split(","))) if isinstance(value, str) else (value,)
        value = tuple(value) if isinstance(value, list) else words
    if kind is float and type(value) is int:
        value = float(value)
    if kind not in (object, types.NoneType) and type(value) is not kind:
        raise ValueError(f"--{path}={text}: expected {kind.__name__}, found {value!r} of type {type(value).__name__}")
    return value


def _neighbors(key: Any, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(str(key)[:100], known, n=3, cutoff=0.5)
    every = ", ".join(sorted(known))
    return f"Did you mean {' or '.join(near)}? Known keys: {every}" if near else f"Known keys: {every}"


def _name(key: Any) -> str:
    """A key as messages show it: plain if it is a short line, else quoted and cut."""
    text = str(key)
    return text if len(text) <= 60 and text.isprintable() else shown(text)


def _placeholder(hint: Any) -> config_dict.FieldReference:
    """A None that remembers which type the field takes."""
    plain = [option for option in typing.get_args(hint) if option is not types.NoneType]
    kind = typing.get_origin(plain[0]) or plain[0] if plain else object
    return config_dict.placeholder(kind if isinstance(kind, type) else object)


def _type_name(hint: Any) -> str:
    """A type as Python writes it, without the ranges of its annotation."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _type_name(arguments[0])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(map(_type_name, arguments))
    if arguments and isinstance(origin, type):
        return f"{origin.__name__}[{', '.join('...' if a is Ellipsis else _type_name(a) for a in arguments)}]"
    return hint.__name__ if isinstance(hint, type) else str(hint)


def _convert(value: Any, hint: Any, path: str) -> Any:
    """`value` as the type `hint`, or a ValueError that names both."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)

    def refuse() -> typing.NoReturn:
        raise ValueError(f"{path}: expected {_type_name(hint)}, found {shown(value)} of type {type(value).__name__}")

    if hint is Any:
        return value
    if origin is typing.Annotated:
        for rule in arguments[1:]:  # before a million entries are looked at; `check_fields` does the other rules
            if isinstance(rule, Length) and isinstance(value, Sized) and not rule.accepts(value):
                raise ValueError(f"{path}: expected {rule}, found {len(value)}")
        return _convert(value, arguments[0], path)
    if origin in (typing.Union, types.UnionType):
        if value is None and types.NoneType in arguments:
            return None
        (option,) = (option for option in arguments if option is not types.NoneType)
        return _convert(value, option, path)
    if dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(value) and isinstance(value, hint):
            return value
        if not isinstance(value, (Mapping, ml_collections.ConfigDict)):
            refuse()
        return from_mapping(hint, value, path)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            refuse()
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(item, arguments[0], f"{path}[{i}]") for i, item in enumerate(value))
        if len(value) != len(arguments):
            refuse()
        return tuple(
            _convert(item, kind, f"{path}[{i}]") for i, (item, kind) in enumerate(zip(value, arguments, strict=True))
        )
    if origin is dict:
        if not isinstance(value, (Mapping, ml_collections.ConfigDict)):
            refuse()
        return {key: _convert(value[key], arguments[1], f"{path}.{_name(key)}") for key in value}
    if hint is float and type(value) is int and abs(value) < 2**1000:
        return float(value)
    if isinstance(hint, type):
        if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
            refuse()
        return value
    raise TypeError(f"{path}: fields of type {hint} are not supported in configs")
