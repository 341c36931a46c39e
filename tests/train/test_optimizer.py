"""Parameter groups, schedules, clipping, and AdamW against torch."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tarvis_jax.train.optimizer import (
    OptimizerConfig,
    clip_by_global_norm,
    learning_rate_at,
    make_optimizer,
    match_rules,
    parameter_groups,
    parameter_rules,
)

CONSTANT = {"warmup_steps": 0, "decay_steps": (), "decay_rates": ()}


def _params(rng):
    shapes = {
        "backbone/stages/0/0/conv1/kernel": (3, 3, 4, 5),
        "neck/norm/scale": (7,),
        "queries/semantic": (3, 4),
        "decoder/mlp/kernel": (4, 6),
        "decoder/mlp/bias": (6,),
    }
    return {path: rng.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}


@pytest.mark.parametrize("gradient_scale", [1e-4, 1.0])  # below and above the clipping norm
def test_updates_equal_torch(gradient_scale):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    params = _params(rng)
    config = OptimizerConfig(learning_rate=1e-2, clip_norm=0.05, **CONSTANT)
    groups = parameter_groups(params, config)
    theirs = {path: torch.nn.Parameter(torch.tensor(value)) for path, value in params.items()}
    torch_optimizer = torch.optim.AdamW(
        [{"params": [p], "lr": groups[path][0], "weight_decay": groups[path][1]} for path, p in theirs.items()]
    )
    optimizer = make_optimizer(config, params)
    ours, state = jax.tree.map(jnp.asarray, params), None
    state = optimizer.init(ours)
    update = jax.jit(optimizer.update)
    for _ in range(5):
        gradients = {path: gradient_scale * rng.normal(size=p.shape).astype(np.float32) for path, p in params.items()}
        for path, p in theirs.items():
            p.grad = torch.tensor(gradients[path])
        torch.nn.utils.clip_grad_norm_(list(theirs.values()), config.clip_norm)
        torch_optimizer.step()
        updates, state = update(gradients, state, ours)
        ours = optax.apply_updates(ours, updates)
    for path in params:
        np.testing.assert_allclose(ours[path], theirs[path].detach().numpy(), rtol=1e-5, atol=1e-6, err_msg=path)


def test_clipping_equals_torch_near_the_limit():
    torch = pytest.importorskip("torch")
    gradient = np.array([0.006, 0.008], np.float32)  # norm 0.01: torch's 1e-6 shows
    parameter = torch.nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor(gradient)
    torch.nn.utils.clip_grad_norm_([parameter], 0.01)
    clip = clip_by_global_norm(0.01)
    ours, _ = clip.update({"a": jnp.asarray(gradient)}, clip.init({"a": gradient}))
    np.testing.assert_allclose(ours["a"], parameter.grad.numpy(), rtol=1e-6)
    assert np.linalg.norm(ours["a"]) < 0.01 * (1 - 5e-5)


def test_step_schedule():
    config = OptimizerConfig(
        learning_rate=1e-4, warmup_steps=10, decay_steps=(50, 84), decay_rates=(0.1, 0.5), total_steps=90
    )
    expected = {0: 0.0, 1: 1e-5, 5: 5e-5, 10: 1e-4, 49: 1e-4, 50: 1e-5, 83: 1e-5, 84: 5e-6, 1000: 5e-6}
    for step, rate in expected.items():
        assert float(learning_rate_at(config, step)) == pytest.approx(rate, rel=1e-6), step


def test_cosine_schedule():
    config = OptimizerConfig(learning_rate=2e-4, schedule="cosine", warmup_steps=10, total_steps=110)
    assert float(learning_rate_at(config, 5)) == pytest.approx(1e-4)
    assert float(learning_rate_at(config, 10)) == pytest.approx(2e-4)
    assert float(learning_rate_at(config, 35)) == pytest.approx(1e-4 * (1 + math.cos(math.pi / 4)))
    assert float(learning_rate_at(config, 110)) == pytest.approx(0.0, abs=1e-10)
    assert float(learning_rate_at(config, 500)) == pytest.approx(0.0, abs=1e-10)


def test_first_update_of_a_warm_up_changes_nothing():
    params = _params(np.random.default_rng(0))
    optimizer = make_optimizer(OptimizerConfig(), params)
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert all(np.all(np.asarray(update) == 0) for update in updates.values())


GROUPS = {
    "backbone/stages/0/0/conv1/kernel": (1e-5, 0.05),
    "backbone/stages/0/0/norm1/scale": (1e-5, 0.0),
    "backbone/stages/0/0/attention/position_bias": (1e-5, 0.05),
    "backbone/stages/0/0/linear1/bias": (1e-5, 0.05),
    "backbone/patch_norm/bias": (1e-5, 0.0),
    "backbone/output_norms/2/scale": (1e-5, 0.0),
    "neck/layers/0/linear1/kernel": (1e-4, 0.05),
    "neck/layers/0/linear1/bias": (1e-4, 0.05),
    "neck/layers/0/norm1/scale": (1e-4, 0.0),
    "queries/semantic": (1e-4, 0.0),
    "decoder/layers/3/ffn/norm/bias": (1e-4, 0.0),
    "decoder/scale_embed": (1e-4, 0.0),
    "decoder/mask_embeds/instance/layers/0/kernel": (1e-4, 0.05),
    "object_encoder/mask_embedding": (1e-4, 0.0),
}
CONVNEXT_GROUPS = {
    "backbone/reductions/0/kernel": (1e-5, 0.05),
    "backbone/reduction_norms/0/scale": (1e-5, 0.05),
    "backbone/stages/0/0/norm/scale": (1e-5, 0.05),
    "backbone/stages/0/0/layer_scale": (1e-5, 0.05),
    "backbone/output_norms/2/scale": (1e-4, 0.05),
    "neck/layers/0/norm1/scale": (1e-4, 0.0),
}


@pytest.mark.parametrize("expected", [GROUPS, CONVNEXT_GROUPS], ids=["resnet_swin", "convnext"])
def test_groups_by_path(expected):
    found = parameter_groups(dict.fromkeys(expected, 0.0), OptimizerConfig())
    assert {path: pytest.approx(group) for path, group in expected.items()} == found


def test_nested_params_have_the_same_paths():
    nested = {"decoder": {"norm": {"scale": 0.0}}, "queries": {"vos": 0.0}}
    assert parameter_groups(nested, OptimizerConfig()) == {
        "decoder/norm/scale": (1e-4, 0.0),
        "queries/vos": (1e-4, 0.0),
    }


def test_every_parameter_needs_one_rule():
    paths = ["decoder/mlp/kernel", "head/kernel", "tail/bias"]
    with pytest.raises(ValueError, match=r"(?s)head/kernel: 0 rules.*tail/bias: 0 rules"):
        match_rules(paths, parameter_rules(paths))
    rules = parameter_rules(paths)
    with pytest.raises(ValueError, match="decoder/mlp/kernel: 2 rules"):
        match_rules(paths[:1], (*rules, rules[-1]._replace(pattern=".*")))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"schedule": "linear"}, "schedule"),
        ({"decay_rates": (0.1,)}, "equal length"),
        ({"decay_steps": (84_000, 50_000)}, "ascend"),
        ({"decay_steps": (5_000, 84_000)}, "after warmup_steps"),
        ({"schedule": "cosine", "total_steps": 10}, "total_steps"),
        ({"clip_norm": -1.0}, "clip_norm"),
        ({"ema_decay": 1.0}, "ema_decay"),
    ],
)
def test_wrong_settings_are_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**wrong)
