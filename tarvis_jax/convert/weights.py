"""Applies the conversion rules strictly: every tensor used once, every variable filled once, one error for all."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from tarvis_jax.convert.rules import Rule
from tarvis_jax.model.variables import flatten


def convert_weights(
    state_dict: Mapping[str, np.ndarray], model: nnx.Module, rules: Sequence[Rule]
) -> dict[str, np.ndarray]:
    """Applies `rules` to every tensor and checks the result against the variables of `model` (it may be abstract).

    Returns:
      {path: array}, exactly the variables of `model`; the arrays are views of the tensors where that is possible.

    Raises:
      ValueError: names, in one message, the tensors without a variable, the variables without a tensor, the wrong
        shapes and dtypes, and the derived tensors with other values than ours.
    """
    expected = flatten(model)
    variables, derived, sources, problems = {}, [], {}, []
    for name, value in state_dict.items():
        matches = [(rule, path) for rule in rules if (path := rule.jax_path(name)) is not None]
        assert len(matches) <= 1, f"{name} fits more than one rule: {matches}"
        if not matches:
            problems.append(f"unexpected tensor {name} {_describe(value)}: no variable of the model corresponds to it")
            continue
        rule, path = matches[0]
        if rule.derive is not None:
            derived.append((rule, name, path))
            continue
        if path not in expected:
            problems.append(f"unexpected tensor {name} {_describe(value)}: the model has no variable {path}")
            continue
        sources[path] = name
        wanted = expected[path]
        try:
            converted = rule.layout.to_jax(value)
        except (ValueError, IndexError):  # too few or too many axes for this layout
            converted = value
        if converted.shape != tuple(wanted.shape) or converted.dtype != wanted.dtype:
            problems.append(
                f"tensor {name} {_describe(value)} does not fit variable {path}: "
                f"expected {_describe(wanted)} in our layout, found {_describe(converted)}"
            )
            continue
        variables[path] = converted
    for path in expected:
        if path not in sources:
            names = {rule.torch_name(path) for rule in rules if rule.derive is None} - {None}
            problems.append(f"missing tensor {' or '.join(names) or '(no rule)'} for variable {path}")
    for rule, name, path in derived:
        if path in variables and not np.array_equal(state_dict[name], rule.derive(variables[path])):
            problems.append(f"tensor {name}: its values differ from those that we derive for {path}")
    problems += _missing_derived(state_dict, variables, rules)
    if problems:
        raise ValueError("The checkpoint does not fit the model:\n  " + "\n  ".join(problems))
    return variables


def export_weights(variables: Mapping[str, np.ndarray], rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """Applies `rules` backwards: {path: array} to a state dict of the reference, derived tensors included."""
    state_dict = {}
    for path, value in variables.items():
        matches = [(rule, name) for rule in rules if (name := rule.torch_name(path)) is not None]
        if sum(rule.derive is None for rule, _ in matches) != 1:
            raise ValueError(f"variable {path} {_describe(value)}: the reference has no single tensor for it")
        value = np.asarray(value)
        for rule, name in matches:
            converted = rule.layout.to_torch(value) if rule.derive is None else rule.derive(value)
            state_dict[name] = np.ascontiguousarray(converted)
    return state_dict


def _missing_derived(state_dict: Mapping, variables: Mapping, rules: Sequence[Rule]) -> list[str]:
    names = {rule.torch_name(path) for rule in rules if rule.derive is not None for path in variables} - {None}
    return [f"missing tensor {name}" for name in sorted(names - set(state_dict))]


def _describe(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}"
