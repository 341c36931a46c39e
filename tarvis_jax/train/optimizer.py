"""AdamW with parameter groups, learning-rate schedules and a clipped gradient norm.

Numbers of the published runs (paper, implementation details, and the reference's configs). The update equals
`torch.optim.AdamW` after `torch.nn.utils.clip_grad_norm_`: decay is decoupled and scaled by the learning rate.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("step", "cosine")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimiser settings; the defaults are those of fine-tuning. Steps are optimiser steps.

    Attributes:
      learning_rate: of everything but the backbone, after warm-up.
      weight_decay: of weights and their biases; norms, query tables and learned embeddings have none.
      backbone_multiplier: the backbone's learning rate over `learning_rate`.
      clip_norm: largest norm of the gradient of all parameters together; 0 = no clipping.
      warmup_steps: the learning rate rises linearly from 0 over so many steps; 0 = no warm-up.
      schedule: "step" (multiply by decay_rates at decay_steps) or "cosine" (half a cosine from the end of warm-up down
        to 0 at total_steps).
      decay_steps: "step": ascending steps.
      decay_rates: "step": a factor for each of them.
      total_steps: "cosine": where the learning rate reaches 0.
      beta1: decay of the mean of gradients.
      beta2: decay of the mean of squared gradients.
      eps: added to the root of the mean square.
      ema_decay: of the moving average of the parameters that the training state keeps; 0 = keep none.
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.05
    backbone_multiplier: float = 0.1
    clip_norm: float = 0.01
    warmup_steps: int = 10_000
    schedule: str = "step"
    decay_steps: tuple[int, ...] = (50_000, 84_000)
    decay_rates: tuple[float, ...] = (0.1, 0.1)
    total_steps: int = 90_000
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    ema_decay: float = 0.0

    def __post_init__(self):
        problems = []
        if self.schedule not in SCHEDULES:
            problems.append(f"schedule is one of {SCHEDULES}, found {self.schedule!r}")
        if len(self.decay_steps) != len(self.decay_rates):
            problems.append(
                f"decay_steps and decay_rates are of equal length, found {self.decay_steps} and {self.decay_rates}"
            )
        if list(self.decay_steps) != sorted(set(self.decay_steps)):
            problems.append(f"decay_steps ascend, found {self.decay_steps}")
        if self.schedule == "step" and self.decay_steps and self.decay_steps[0] <= self.warmup_steps:
            problems.append(f"decay_steps lie after warmup_steps = {self.warmup_steps}, found {self.decay_steps}")
        if self.schedule == "cosine" and self.total_steps <= self.warmup_steps:
            problems.append(f"total_steps lies after warmup_steps = {self.warmup_steps}, found {self.total_steps}")
        for name in ("learning_rate", "weight_decay", "backbone_multiplier", "clip_norm", "warmup_steps"):
            if getattr(self, name) < 0:
                problems.append(f"{name} is >= 0, found {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            problems.append(f"ema_decay lies in 0..1 (1 excluded), found {self.ema_decay}")
        if problems:
            raise ValueError("OptimizerConfig: " + "; ".join(problems))


class Rule(NamedTuple):
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
    Rule(rf"{_HEADS}/{_NORM}", False, False),
    Rule(rf"{_HEADS}/{_EMBEDDING}", False, False),
    Rule(r"queries/.*", False, False),
    Rule(rf"{_HEADS}/(?!{_NORM}$)(?!{_EMBEDDING}$).*", False, True),
)
_RESNET_AND_SWIN_RULES = (
    Rule(rf"backbone/{_NORM}", True, False),
    Rule(rf"backbone/(?!{_NORM}$).*", True, True),
)
# The reference tells norms by their PyTorch class. ConvNeXt brings a class of its own, so its norms are decayed; those
# on its outputs lie outside of the module whose learning rate is lowered. The released models were trained like this.
_CONVNEXT_RULES = (
    Rule(r"backbone/output_norms/.*", False, True),
    Rule(r"backbone/(?!output_norms/).*", True, True),
)


def parameter_rules(paths: Iterable[str]) -> tuple[Rule, ...]:
    """The rules for a model with parameters at these paths; they differ between the backbones."""
    is_convnext = any(path.startswith("backbone/reductions/") for path in paths)
    return _COMMON_RULES + (_CONVNEXT_RULES if is_convnext else _RESNET_AND_SWIN_RULES)


def paths_of(params: Any) -> dict[str, Any]:
    """Leaves of a tree of dicts (flat or nested) by slash-separated path, in the tree's order."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def match_rules(paths: Iterable[str], rules: Iterable[Rule]) -> dict[str, Rule]:
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


def _scale_by_constants(multipliers: Any) -> optax.GradientTransformation:
    """Multiplies each leaf by its own constant."""

    def update(updates, state, params=None):
        del params
        return jax.tree.map(lambda u, m: u * m, updates, multipliers), state

    return optax.GradientTransformation(optax.init_empty_state, update)


def make_optimizer(config: OptimizerConfig, params: Any) -> optax.GradientTransformation:
    """Clipping and AdamW with the groups of `parameter_groups` and the schedule of `learning_rate_at`.

    Args:
      config: settings.
      params: the trained parameters or their shapes: a flat dict by path, or nested dicts.

    Raises:
      ValueError: a parameter that no rule or more than one rule covers.
    """
    by_path: Mapping[str, Any] = paths_of(params)
    rules = list(match_rules(by_path, parameter_rules(by_path)).values())
    treedef = jax.tree.structure(params)
    is_decayed = treedef.unflatten([rule.is_decayed for rule in rules])
    multipliers = treedef.unflatten([config.backbone_multiplier if rule.is_backbone else 1.0 for rule in rules])
    clip = [clip_by_global_norm(config.clip_norm)] if config.clip_norm else []
    return optax.chain(
        *clip,
        optax.scale_by_adam(config.beta1, config.beta2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=is_decayed),
        _scale_by_constants(multipliers),
        optax.scale_by_learning_rate(lambda step: learning_rate_at(config, step)),
    )
