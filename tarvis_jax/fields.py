"""What the fields of a config may hold: the ranges stand in the annotations of its dataclass, and one function checks.

    @dataclasses.dataclass(frozen=True)
    class Example:
        num_steps: Annotated[int, Range(1, 10**9)] = 90_000
        schedule: Annotated[str, OneOf(("step", "cosine"))] = "step"
        sizes: Annotated[tuple[Annotated[int, Range(1, 65536)], ...], Length(1, 16)] = (512,)
        name: Annotated[str, Text(100)] | None = None

        def __post_init__(self):
            check_fields(self)

The standard library alone is imported, so that every part of the system can use it.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Collection, Iterator, Mapping
from typing import Annotated, Any

_SHOWN = 80  # characters of a value in a message


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless said otherwise; never NaN.

    Attributes:
      low, high: the bounds.
      above_low: leaves out `low` itself.
      below_high: leaves out `high` itself.
    """

    low: float
    high: float
    above_low: bool = False
    below_high: bool = False

    def accepts(self, value: float) -> bool:
        return self.low <= value <= self.high and not (
            (self.above_low and value == self.low) or (self.below_high and value == self.high)
        )

    def __str__(self) -> str:
        excluded = [str(b) for b, is_out in ((self.low, self.above_low), (self.high, self.below_high)) if is_out]
        return f"{self.low}..{self.high}" + (f" ({' and '.join(excluded)} excluded)" if excluded else "")


@dataclasses.dataclass(frozen=True, eq=False)  # hashed by identity: `choices` may be a dict
class OneOf:
    """One of some values. A table may be given: what is added to it later is accepted, too."""

    choices: Collection

    def accepts(self, value: Any) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return f"one of {', '.join(map(repr, self.choices))}"


@dataclasses.dataclass(frozen=True)
class Text:
    """One line of `least` to `most` printable characters."""

    most: int
    least: int = 0

    def accepts(self, value: str) -> bool:
        return self.least <= len(value) <= self.most and value.isprintable()

    def __str__(self) -> str:
        return f"one line of {self.least}..{self.most} printable characters"


@dataclasses.dataclass(frozen=True)
class Length:
    """Tuples and mappings of `low` to `high` entries."""

    low: int
    high: int

    def accepts(self, value: Collection) -> bool:
        return self.low <= len(value) <= self.high

    def __str__(self) -> str:
        return f"{self.low}..{self.high} entries"


def check_fields(instance: Any) -> None:
    """Checks the fields of a dataclass against their annotations: types first, then ranges.

    Raises:
      ValueError: lists, in one message, every field that holds something else, what it may hold and what was found.
    """
    hints = field_hints(type(instance))
    problems = [next(_problems(getattr(instance, name), hint, name), None) for name, hint in hints.items()]
    raise_problems([problem for problem in problems if problem])


def raise_problems(problems: list[str]) -> None:
    """Raises ValueError with all problems in one message, if there are any."""
    if problems:
        raise ValueError("; ".join(problems))


def shown(value: Any) -> str:
    """`repr` of a value, cut to what fits in a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"


@functools.cache
def field_hints(cls: type) -> dict[str, Any]:
    """The annotations of the fields of a dataclass by name, with their ranges."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _problems(value: Any, hint: Any, where: str) -> Iterator[str]:
    """What is wrong with a value, lazily: callers show the first."""
    rules: tuple = ()
    if typing.get_origin(hint) is Annotated:
        hint, *rules = typing.get_args(hint)
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    if types.NoneType in options and value is None:
        return
    (hint,) = (option for option in options if option is not types.NoneType)
    if typing.get_origin(hint) is Annotated:
        hint, *rules = typing.get_args(hint)
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if not _is_instance(value, origin):
        yield f"{where}: expected {origin.__name__}, found {shown(value)}"
        return
    for rule in rules:
        if not rule.accepts(value):
            found = f"{len(value)}" if isinstance(rule, Length) else shown(value)
            yield f"{where}: expected {rule}, found {found}"
            return
    if origin is float and not math.isfinite(value):
        yield f"{where}: expected a finite number, found {value}"
    elif origin is tuple:
        kinds = (arguments[0],) * len(value) if arguments[1:] == (Ellipsis,) else arguments
        if len(kinds) != len(value):
            yield f"{where}: expected {len(kinds)} entries, found {len(value)}"
            return
        for i, (item, kind) in enumerate(zip(value, kinds, strict=True)):
            yield from _problems(item, kind, f"{where}[{i}]")
    elif origin is dict:
        for key, item in value.items():
            yield from _problems(key, arguments[0], f"{where}, name")
            yield from _problems(item, arguments[1], f"{where}.{shown(key).strip(chr(39))}")


def _is_instance(value: Any, kind: type) -> bool:
    if kind is float:
        kind = (float, int)
    elif kind is dict:
        kind = Mapping
    return isinstance(value, kind) and (not isinstance(value, bool) or kind is bool)
