"""AdamW with parameter groups, learning-rate schedules and a clipped gradient norm.

Numbers of the published runs (paper, implementation details, and the reference's configs). The update equals
`torch.optim.AdamW` after `torch.nn.utils.clip_grad_norm_`: decay is decoupled and scaled by the learning rate.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tarvis_jax.run_config import OptimizerConfig
from tarvis_jax.train.packing import Packing


class ParameterGroupRule(NamedTuple):
    """Parameters whose whole path matches `pattern` form a group.

    Attributes:
      pattern: regular expression of slash-separated paths.
      is_backbone: their learning rate is multiplied by `backbone_multiplier`.
      is_decayed: they have weight decay.
    """

    pattern: str
    is_backbone: bool
    is_decayed: bool


_NORM = r"(.*/)?\w*norm\w*(/\d+)?/(scale|bias)"
_EMBEDDING = r"(.*/)?\w*embed\w*"  # the last component names it: decoder/scale_embed, not mask_embeds/vos/kernel
_HEADS = r"(neck|decoder|object_encoder)"

_COMMON_RULES = (
    ParameterGroupRule(rf"{_HEADS}/{_NORM}", False, False),
    ParameterGroupRule(rf"{_HEADS}/{_EMBEDDING}", False, False),
    ParameterGroupRule(r"queries/.*", False, False),
    ParameterGroupRule(rf"{_HEADS}/(?!{_NORM}$)(?!{_EMBEDDING}$).*", False, True),
)
_RESNET_AND_SWIN_RULES = (
    ParameterGroupRule(rf"backbone/{_NORM}", True, False),
    ParameterGroupRule(rf"backbone/(?!{_NORM}$).*", True, True),
)
# The reference tells norms by their PyTorch class. ConvNeXt brings a class of its own, so its norms are decayed; those
# on its outputs lie outside of the module whose learning rate is lowered. The released models were trained like this.
_CONVNEXT_RULES = (
    ParameterGroupRule(r"backbone/output_norms/.*", False, True),
    ParameterGroupRule(r"backbone/(?!output_norms/).*", True, True),
)


def parameter_rules(paths: Iterable[str]) -> tuple[ParameterGroupRule, ...]:
    """The rules for a model with parameters at these paths; they differ between the backbones."""
    is_convnext = any(path.startswith("backbone/reductions/") for path in paths)
    return _COMMON_RULES + (_CONVNEXT_RULES if is_convnext else _RESNET_AND_SWIN_RULES)


def paths_of(params: Any) -> dict[str, Any]:
    """Leaves of a tree of dicts (flat or nested) by slash-separated path, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def match_rules(paths: Iterable[str], rules: Iterable[ParameterGroupRule]) -> dict[str, ParameterGroupRule]:
    """The rule of each path.

    Raises:
      ValueError: paths that no rule or more than one rule covers; all of them are listed.
    """
    matches = {path: [rule for rule in rules if re.fullmatch(rule.pattern, path)] for path in paths}
    problems = [
        f"{path}: {len(found)} rules match {[rule.pattern for rule in found]}"
        for path, found in matches.items()
        if len(found) != 1
    ]
    if problems:
        raise ValueError("parameter groups: expected exactly one rule for each parameter\n  " + "\n  ".join(problems))
    return {path: found[0] for path, found in matches.items()}


def parameter_groups(params: Any, config: OptimizerConfig) -> dict[str, tuple[float, float]]:
    """(peak learning rate, weight decay) of every parameter by its path; ValueError as in `match_rules`."""
    paths = list(paths_of(params))
    groups = {}
    for path, rule in match_rules(paths, parameter_rules(paths)).items():
        multiplier = config.backbone_multiplier if rule.is_backbone else 1.0
        groups[path] = (config.learning_rate * multiplier, config.weight_decay if rule.is_decayed else 0.0)
    return groups


def learning_rate_at(config: OptimizerConfig, step: jax.Array | int) -> jax.Array:
    """Learning rate of the update that follows `step` finished steps (backbone excluded), float32 []."""
    step = jnp.asarray(step, jnp.float32)
    if config.schedule == "step":
        factor = jnp.float32(1.0)
        for decay_step, rate in zip(config.decay_steps, config.decay_rates, strict=True):
            factor = factor * jnp.where(step >= decay_step, rate, 1.0)
    else:
        progress = (step - config.warmup_steps) / (config.total_steps - config.warmup_steps)
        factor = 0.5 * (1.0 + jnp.cos(math.pi * jnp.clip(progress, 0.0, 1.0)))
    if config.warmup_steps:
        factor = jnp.where(step <= config.warmup_steps, step / config.warmup_steps, factor)
    return config.learning_rate * factor


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales gradients down to a joint norm of `max_norm`; as in torch, 1e-6 is added to the norm that divides."""

    def update(updates, state, params=None):
        del params
        factor = jnp.minimum(max_norm / (optax.global_norm(updates) + 1e-6), 1.0)
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def _scale_by_constants(multipliers_of: Callable[[Any], Any]) -> optax.GradientTransformation:
    """Multiplies each leaf by its own constant."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda u, m: u * m, updates, multipliers_of(updates)), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def packing_of(params: Mapping[str, jax.ShapeDtypeStruct]) -> Packing:
    """Parameters by path as one vector per group: all that has the same learning rate and the same decay."""
    rules = match_rules(params, parameter_rules(params))
    groups = {
        path: f"{'backbone' if rule.is_backbone else 'heads'} {'decayed' if rule.is_decayed else 'undecayed'}"
        for path, rule in rules.items()
    }
    return Packing(params, groups)


def make_optimizer(
    config: OptimizerConfig, params: Any, packing: Packing | None = None
) -> optax.GradientTransformation:
    """Clipping and AdamW with the groups of `parameter_groups` and the schedule of `learning_rate_at`.

    Args:
      config: settings.
      params: the trained parameters or their shapes: a flat dict by path, or nested dicts.
      packing: that of `packing_of`, if the optimizer shall take its vectors as well as parameters.

    Raises:
      ValueError: a parameter that no rule or more than one rule covers.
    """
    by_path: Mapping[str, Any] = paths_of(params)
    rules = match_rules(by_path, parameter_rules(by_path))
    if packing is not None:
        rules |= {vector: rules[paths[0]] for vector, paths in packing.vectors.items()}

    def by_rule(value: Callable[[ParameterGroupRule], Any]) -> Callable[[Any], Any]:
        def of_tree(tree: Any) -> Any:
            return jax.tree.structure(tree).unflatten([value(rules[path]) for path in paths_of(tree)])

        return of_tree

    clip = [clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(
        *clip,
        optax.scale_by_adam(config.beta1, config.beta2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=by_rule(lambda rule: rule.is_decayed)),
        _scale_by_constants(by_rule(lambda rule: config.backbone_multiplier if rule.is_backbone else 1.0)),
        optax.scale_by_learning_rate(lambda step: learning_rate_at(config, step)),
    )
