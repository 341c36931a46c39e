"""Reads a pickle as data: an interpreter of the pickle language that can build values but cannot run code.

Python's own `pickle` calls whatever function a file names. Here a name is looked up in a table that the caller gives,
and only what stands there is ever called; any other name refuses the whole file. Opcodes are split by the standard
library's `pickletools`, which only parses.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

_MARK = object()
_KEY_TYPES = (str, bytes, int, float, type(None))  # hashing a deeply nested tuple could overflow the stack

_VALUES = frozenset(
    "INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES "
    "BINBYTES8 BYTEARRAY8 BINUNICODE SHORT_BINUNICODE BINUNICODE8".split()
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Constructor:
    """What a name of the table stands for; calling it is all that a pickle can do."""

    def __init__(self, function: Callable[..., Any]):
        self.function = function


class Buildable:
    """A value that the pickle completes after it was made (opcode BUILD)."""

    def build(self, state: Any) -> None:
        """Takes the rest of the value."""
        raise ValueError(f"{type(self).__name__} takes no state")


class OrderedDict(dict, Buildable):
    """Stands for `collections.OrderedDict`; the attributes that torch hangs onto it (`_metadata`) are not needed."""

    def __init__(self, items: Any = ()):
        super().__init__()
        for key, value in items:
            _set_item(self, key, value)

    def build(self, state: Any) -> None:
        """Drops the attributes."""


def load(file: BinaryIO, names: Mapping[str, Any], persistent_load: Callable[[Any], Any] | None = None) -> Any:
    """The value of the pickle that starts at the file's position; leaves the position behind it.

    Args:
      file: seekable, binary.
      names: "module.name" -> `Constructor` or any value, for every global name that the pickle may use.
      persistent_load: gives the value for a persistent id; None: there may be none.

    Raises:
      ValueError: it names something else, uses another opcode, or is damaged.
    """
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    position = file.tell()
    opcode_name = "first opcode"

    def pop_to_mark() -> list[Any]:
        items = []
        while (item := stack.pop()) is not _MARK:
            items.append(item)
        return items[::-1]

    try:
        for opcode, arg, place in pickletools.genops(file):
            position, opcode_name = place, opcode.name
            match opcode_name:
                case name if name in _VALUES:
                    stack.append(arg)
                case "BINGET" | "LONG_BINGET" | "GET":
                    stack.append(memo[arg])
                case "BINPUT" | "LONG_BINPUT" | "PUT":
                    memo[arg] = stack[-1]
                case "MEMOIZE":
                    memo[len(memo)] = stack[-1]
                case name if name in _CONSTANTS:
                    stack.append(_CONSTANTS[name])
                case "PROTO" | "FRAME":
                    pass
                case "STOP":
                    if len(stack) != 1:
                        raise IndexError(f"{len(stack)} values are left")
                    return stack.pop()
                case "MARK":
                    stack.append(_MARK)
                case "POP":
                    stack.pop()
                case "POP_MARK":
                    pop_to_mark()
                case "DUP":
                    stack.append(stack[-1])
                case name if name in _TUPLES:
                    size = _TUPLES[name]
                    items = [stack.pop() for _ in range(size)][::-1]
                    stack.append(tuple(items))
                case "TUPLE":
                    stack.append(tuple(pop_to_mark()))
                case "EMPTY_LIST":
                    stack.append([])
                case "LIST":
                    stack.append(pop_to_mark())
                case "APPEND":
                    value = stack.pop()
                    _of_type(stack[-1], list).append(value)
                case "APPENDS":
                    values = pop_to_mark()
                    _of_type(stack[-1], list).extend(values)
                case "EMPTY_DICT":
                    stack.append({})
                case "DICT" | "SETITEMS":
                    items = pop_to_mark()
                    if opcode_name == "DICT":
                        stack.append({})
                    for key, value in zip(items[::2], items[1::2], strict=True):
                        _set_item(stack[-1], key, value)
                case "SETITEM":
                    value, key = stack.pop(), stack.pop()
                    _set_item(stack[-1], key, value)
                case "GLOBAL":
                    stack.append(_find(names, *arg.split(" ", 1)))
                case "STACK_GLOBAL":
                    name, module = stack.pop(), stack.pop()
                    stack.append(_find(names, module, name))
                case "REDUCE" | "NEWOBJ":
                    args, called = _of_type(stack.pop(), tuple), stack.pop()
                    stack.append(_of_type(called, Constructor).function(*args))
                case "BUILD":
                    state = stack.pop()
                    _of_type(stack[-1], Buildable).build(state)
                case "BINPERSID" if persistent_load is not None:
                    stack.append(persistent_load(stack.pop()))
                case _:
                    raise ValueError(f"refused: its pickle uses {opcode_name}, which no file of tensors needs")
    except ValueError as error:
        if str(error).startswith("refused"):
            raise
        raise ValueError(f"damaged pickle at byte {position} ({opcode_name}): {error}") from None
    except (LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError) as error:
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ValueError(f"damaged pickle at byte {position} ({opcode_name}): {reason}") from None
    raise ValueError("damaged pickle: it has no end")


def _find(names: Mapping[str, Any], module: Any, name: Any) -> Any:
    full_name = f"{_of_type(module, str)}.{_of_type(name, str)}"
    if full_name not in names:
        raise ValueError(f"refused, nothing of it was run: expected tensors only, found a use of {full_name[:100]!r}")
    return names[full_name]


def _of_type(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _set_item(target: Any, key: Any, value: Any) -> None:
    if not isinstance(key, _KEY_TYPES):
        raise TypeError(f"expected a string as key, found {type(key).__name__}")
    _of_type(target, dict)[key] = value
