"""Applies the conversion rules strictly: every tensor used once, every variable filled once, one error for all."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tarvis_jax.weights.deferred import Deferred, deferred
from tarvis_jax.weights.pytorch.rules import TensorRule
from tarvis_jax.weights.report import Report, entry, fits


def plan_weights(
    state_dict: Mapping[str, Any],
    expected: Mapping[str, Any],
    rules: Sequence[TensorRule],
    *,
    new: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    derived_may_lack: bool = False,
    shown_names: Mapping[str, str] | None = None,
    source: str = "",
) -> tuple[dict[str, Deferred], Report]:
    """Applies `rules` to every tensor and checks the result against the variables of a model; reads no values.

    (The exception are derived tensors, which are small integers: their values are compared with ours.)

    Args:
      state_dict: name -> array, or anything with shape and dtype that `np.asarray` reads.
      expected: path -> variable of the model, or its ShapeDtypeStruct.
      rules: of this model.
      new: shell patterns of variables that may stay without a tensor.
      leave_out: shell patterns of tensors that are not used, whatever the rules say.
      derived_may_lack: tensors that we derive need not be there.
      shown_names: what to call tensors in messages and in the report where that is not their key in `state_dict`.
      source: the file, for the report and for messages.

    Returns:
      {path: array to be read}, and the report.

    Raises:
      ValueError: names, in one message, the tensors without a variable, the variables without a tensor, the wrong
        shapes and dtypes, and the derived tensors with other values than ours.
    """
    planned: dict[str, Deferred] = {}
    derived, sources, problems, loaded, left_out = [], {}, [], [], []
    shown_names = shown_names or {}
    for name, value in state_dict.items():
        shown = shown_names.get(name, name)
        if fits(shown, leave_out):
            left_out.append(entry(shown, value))
            continue
        matches = [(rule, path) for rule in rules if (path := rule.jax_path(name)) is not None]
        assert len(matches) <= 1, f"{name} fits more than one rule: {matches}"
        if not matches:
            problems.append(f"unexpected tensor {shown} {_describe(value)}: no variable of the model corresponds to it")
            continue
        rule, path = matches[0]
        if rule.derive is not None:
            derived.append((rule, shown, value, path))
            continue
        if path not in expected:
            problems.append(f"unexpected tensor {shown} {_describe(value)}: the model has no variable {path}")
            continue
        sources[path] = name
        wanted = expected[path]
        probe = np.broadcast_to(np.zeros((), value.dtype), value.shape)  # takes no memory
        try:
            probe = rule.layout.to_jax(probe)
        except (ValueError, IndexError):  # too few or too many axes for this layout
            pass
        if probe.shape != tuple(wanted.shape) or probe.dtype != wanted.dtype:
            problems.append(
                f"tensor {shown} {_describe(value)} does not fit variable {path}: "
                f"expected {_describe(wanted)} in our layout, found {_describe(probe)}"
            )
            continue
        planned[path] = deferred(f"{source}: tensor {shown}".removeprefix(": "), probe, _reader(value, rule))
        loaded.append(entry(shown, value))
    fresh = []
    for path, variable in expected.items():
        if path in sources:
            continue
        if fits(path, new):
            fresh.append(entry(path, variable))
            continue
        names = {rule.torch_name(path) for rule in rules if rule.derive is None} - {None}
        problems.append(f"missing tensor {' or '.join(names) or '(no rule)'} for variable {path}")
    for rule, name, value, path in derived:
        if path in planned:
            wanted = rule.derive(np.broadcast_to(np.zeros((), planned[path].dtype), planned[path].shape))
            if (value.shape, value.dtype) != (wanted.shape, wanted.dtype) or not np.array_equal(value, wanted):
                problems.append(
                    f"tensor {name} {_describe(value)}: its values differ from those that we derive for {path}, "
                    f"{_describe(wanted)}"
                )
        loaded.append(entry(name, value))
    if not derived_may_lack:
        problems += _missing_derived(state_dict, planned, rules)
    if problems:
        raise ValueError("The checkpoint does not fit the model:\n  " + "\n  ".join(problems))
    return planned, Report(source, tuple(loaded), tuple(fresh), tuple(left_out))


def convert_weights(
    state_dict: Mapping[str, Any], expected: Mapping[str, Any], rules: Sequence[TensorRule]
) -> dict[str, np.ndarray]:
    """`plan_weights`, strictly, with the values read: {path: array}, exactly the variables of the model."""
    planned, _ = plan_weights(state_dict, expected, rules)
    return {path: np.asarray(value) for path, value in planned.items()}


def export_weights(variables: Mapping[str, Any], rules: Sequence[TensorRule]) -> dict[str, Deferred]:
    """Applies `rules` backwards: {path: array} to a state dict of the reference, derived tensors included.

    The values are made when asked for, so that a file can be written with one tensor in memory.
    """
    state_dict = {}
    for path, value in variables.items():
        matches = [(rule, name) for rule in rules if (name := rule.torch_name(path)) is not None]
        if sum(rule.derive is None for rule, _ in matches) != 1:
            raise ValueError(f"variable {path} {_describe(value)}: the reference has no single tensor for it")
        probe = np.broadcast_to(np.zeros((), np.dtype(value.dtype)), tuple(value.shape))
        for rule, name in matches:
            like = rule.layout.to_torch(probe) if rule.derive is None else rule.derive(probe)
            state_dict[name] = deferred(f"variable {path}", like, _writer(value, rule, like))
    return state_dict


def _reader(value: Any, rule: TensorRule) -> Callable[[], np.ndarray]:
    return lambda: rule.layout.to_jax(np.asarray(value))


def _writer(value: Any, rule: TensorRule, like: np.ndarray) -> Callable[[], np.ndarray]:
    if rule.derive is not None:
        return lambda: like
    return lambda: np.ascontiguousarray(rule.layout.to_torch(np.asarray(value))).reshape(like.shape)


def _missing_derived(state_dict: Mapping, variables: Mapping, rules: Sequence[TensorRule]) -> list[str]:
    names = {rule.torch_name(path) for rule in rules if rule.derive is not None for path in variables} - {None}
    return [f"missing tensor {name}" for name in sorted(names - set(state_dict))]


def _describe(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}"
