"""Helpers of the tests that put malformed files before the readers."""

from collections.abc import Callable
from typing import Any

import pytest

DELETE = object()


def set_value(content: Any, path: tuple, value: Any) -> Any:
    """`content` with another value at a path of keys and indices, or without it (`DELETE`)."""
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    if value is DELETE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return content


def check_refused(call: Callable[[], Any], *messages: str) -> None:
    """The call ends in a ValueError that our own code raises, whose message has one line and these parts."""
    with pytest.raises(ValueError) as caught:
        call()
    text = str(caught.value)
    module = caught.traceback[-1].frame.f_globals["__name__"]
    assert module.startswith(("tarvis_jax", "input_pipeline")), f"raised by {module}: {text}"
    assert "\n" not in text and len(text) < 1000
    for message in messages:
        assert message in text, text
