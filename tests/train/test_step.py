"""The training step on a small least-squares problem: updates, guard, randomness, programs."""

import itertools
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tarvis_jax.parallel.mesh import make_mesh, put_batch
from tarvis_jax.tasks.objective import Objective
from tarvis_jax.train.packing import Packing
from tarvis_jax.train.programs import GradientProgram
from tarvis_jax.train.state import new_state
from tarvis_jax.train.step import TrainStepper

LEARNING_RATE = 0.1
KIND = ("A", "instance")


class FakeStructure:
    """Stands in for ModelStructure: the module is the dict of parameters itself."""

    params = {"w": jax.ShapeDtypeStruct((2,), jnp.float32), "bias": jax.ShapeDtypeStruct((), jnp.float32)}
    frozen = {"scale": jax.ShapeDtypeStruct((), jnp.float32)}

    def build(self, params, frozen):
        return types.SimpleNamespace(w=params["w"], bias=params["bias"], scale=frozen["scale"])


def squares(model, batch, loss_keys, model_keys, num_targets):
    """Mean square of a linear map, over the number of targets of the whole batch."""
    del loss_keys, model_keys
    errors = model.scale * (batch["images"] @ model.w + model.bias) - batch["labels"]
    loss = (errors**2).sum() / num_targets
    return loss, {"square": jnp.stack([2 * loss, loss])}


def noise(model, batch, loss_keys, model_keys, num_targets):
    """A loss whose gradient is the random draws themselves: each clip's, times a number that only this clip has."""
    del num_targets
    draws = jnp.stack([jax.vmap(jax.random.normal)(keys) for keys in (loss_keys, model_keys)])  # [2, B]
    return (model.w * (draws * batch["labels"]).mean(1)).sum() + 0.0 * model.bias, {}


def kinked(model, batch, loss_keys, model_keys, num_targets):
    """Finite loss with an infinite slope at bias = 0."""
    loss, terms = squares(model, batch, loss_keys, model_keys, num_targets)
    return loss + jnp.sqrt(jnp.abs(model.bias)), terms


PACKING = Packing(FakeStructure.params, {"w": "all", "bias": "all"})


def make_stepper(loss, ema_decay=0.0, seed=0, origin=None, microbatches_at_once=1, packing=None):
    optimizer = optax.sgd(LEARNING_RATE)
    stepper = TrainStepper(
        FakeStructure(),
        optimizer,
        learning_rate=lambda step: LEARNING_RATE,
        ema_decay=ema_decay,
        objectives={KIND: Objective(loss, lambda batch: batch["labels"].size / batch["labels"].shape[0])},
        seed=seed,
        mesh=make_mesh(jax.devices()[:1]),
        microbatches_at_once=microbatches_at_once,
        packing=packing,
        origin=origin,
    )
    return stepper, optimizer


def make_state(optimizer, w=(1.0, -2.0), bias=0.5, keep_ema=False):
    # Copies: the step donates its state.
    params = {"w": jnp.array(w, jnp.float32), "bias": jnp.array(bias, jnp.float32)}
    return new_state(params, {"scale": jnp.array(1.0)}, optimizer, keep_ema)


def make_batch(microbatches=1):
    rng = np.random.default_rng(0)
    batch = {"images": rng.normal(size=(8, 2)).astype(np.float32), "labels": rng.normal(size=8).astype(np.float32)}
    return put_batch(batch, microbatches, make_mesh(jax.devices()[:1])), batch


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("microbatches", [1, 2, 8])
def test_update_equals_numpy_however_the_batch_is_split(microbatches, at_once):
    stepper, optimizer = make_stepper(squares, microbatches_at_once=at_once)
    batch, arrays = make_batch(microbatches)
    state, metrics = stepper(KIND, make_state(optimizer), batch)
    errors = arrays["images"] @ [1.0, -2.0] + 0.5 - arrays["labels"]
    gradient = 2 * arrays["images"].T @ errors / 8
    np.testing.assert_allclose(metrics["loss"], (errors**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["aux/square"], 2 * (errors**2).mean(), rtol=1e-5)
    np.testing.assert_allclose(state.params["w"], [1.0, -2.0] - LEARNING_RATE * gradient, rtol=1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt((gradient**2).sum() + (2 * errors.mean()) ** 2), rtol=1e-5)
    assert int(state.step) == 1 and bool(state.is_healthy)


def test_average_of_parameters_ramps_up():
    stepper, optimizer = make_stepper(squares, ema_decay=0.9)
    batch, _ = make_batch()
    state = make_state(optimizer, keep_ema=True)
    expected = np.asarray(state.params["w"])
    for step in range(3):
        state, _ = stepper(KIND, state, batch)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * np.asarray(state.params["w"])
    np.testing.assert_allclose(state.ema["w"], expected, rtol=1e-6)


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_packed_state_takes_the_same_steps(at_once):
    batch, _ = make_batch(2)
    results = []
    for packing in (None, PACKING):
        stepper, optimizer = make_stepper(squares, ema_decay=0.9, microbatches_at_once=at_once, packing=packing)
        state = stepper.pack(make_state(optimizer, keep_ema=True))
        for _ in range(3):
            kept = stepper.unpack(state)
            before = jax.device_get(kept)
            state, metrics = stepper(KIND, state, batch)
            jax.tree.map(np.testing.assert_array_equal, before, jax.device_get(kept))  # not a view of what is gone
        results.append((stepper.unpack(state), metrics))
    assert list(state.params) == ["all"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), *results)


def test_a_split_state_is_not_packed():
    mesh = make_mesh(jax.devices()[:1])
    with pytest.raises(ValueError, match="split .shard 'optimizer'. cannot be packed"):
        TrainStepper(
            FakeStructure(), optax.sgd(1.0), lambda step: 1.0, 0.0, {}, 0, mesh, shard="optimizer", packing=PACKING
        )


def test_random_draws_depend_on_seed_step_purpose_and_clip_only():
    def gradients(seed, microbatches=1, at_once=1):
        stepper, optimizer = make_stepper(noise, seed=seed, microbatches_at_once=at_once)
        batch, _ = make_batch(microbatches)
        state, found = make_state(optimizer, w=(0.0, 0.0)), []
        for _ in range(2):
            before = np.asarray(state.params["w"])
            state, _ = stepper(KIND, state, batch)
            found.append((before - np.asarray(state.params["w"])) / LEARNING_RATE)
        return np.stack(found)

    first = gradients(0)
    np.testing.assert_array_equal(first, gradients(0))
    values = np.concatenate([first.ravel(), gradients(1).ravel()])
    assert len(np.unique(values.round(4))) == values.size  # no two of (seed, step, purpose) share a draw
    for microbatches, at_once in itertools.product((2, 8), (1, 2, 8)):
        np.testing.assert_allclose(gradients(0, microbatches, at_once), first, rtol=1e-5)


def test_microbatches_at_once_are_programs_that_run_together():
    """Each waits in its loss until the other one is there, too."""
    meeting = threading.Barrier(2, timeout=60)

    def meets(model, batch, loss_keys, model_keys, num_targets):
        loss, terms = squares(model, batch, loss_keys, model_keys, num_targets)
        return loss + jax.pure_callback(
            lambda: np.float32(0 * meeting.wait()), jax.ShapeDtypeStruct((), jnp.float32)
        ), terms

    stepper, optimizer = make_stepper(meets, microbatches_at_once=2)
    batch, _ = make_batch(microbatches=2)
    _, metrics = stepper(KIND, make_state(optimizer), batch)
    expected, optimizer = make_stepper(squares)
    np.testing.assert_allclose(metrics["loss"], expected(KIND, make_state(optimizer), batch)[1]["loss"], rtol=1e-6)


def test_microbatches_at_once_compile_nothing_in_a_step():
    stepper, optimizer = make_stepper(squares, microbatches_at_once=2)
    batch, _ = make_batch(microbatches=4)
    shapes = jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), batch)
    stepper.compile_ahead([GradientProgram(KIND, shapes)])
    state, compiled = make_state(optimizer), []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **about: compiled.append(name) if "backend_compile" in name else None
    )
    try:
        for _ in range(2):
            state, _ = stepper(KIND, state, batch)
        assert not compiled
        jax.jit(lambda x: x + 17)(1)
        assert compiled  # the listener hears
    finally:
        jax.monitoring.clear_event_listeners()


def test_one_program_per_dataset_and_shape():
    stepper, optimizer = make_stepper(squares)
    batch, _ = make_batch()
    state = make_state(optimizer)
    for _ in range(3):
        state, _ = stepper(KIND, state, batch)
    assert stepper.programs.num_compilations == 2  # gradients and update
    state, _ = stepper(KIND, state, {name: array[:, :4] for name, array in batch.items()})
    assert stepper.programs.num_compilations == 3


def test_a_program_of_an_earlier_process_takes_the_same_step(programs_folder):
    """The step with random draws, whose key is an argument; nothing is traced where the program is kept."""
    num_traces = 0

    def traced_noise(*arguments):
        nonlocal num_traces
        num_traces += 1
        return noise(*arguments)

    batch, _ = make_batch()
    results = []
    for origin in (None, "origin", "origin"):
        stepper, optimizer = make_stepper(traced_noise, ema_decay=0.9, origin=origin)
        before = make_state(optimizer, keep_ema=True)
        state, metrics = stepper(KIND, before, batch)
        assert before.params["w"].is_deleted()  # its memory is the new state's
        results.append((state, metrics))
    assert num_traces == 2 and len(list(programs_folder.glob("lowered-*"))) == 2
    for result in results[1:]:
        assert jax.tree.structure(result) == jax.tree.structure(results[0])
        jax.tree.map(np.testing.assert_array_equal, result, results[0])


def test_programs_of_other_objectives_are_others(programs_folder):
    """Also where the arrays are the same: the datasets of two programs may differ in what is learned alone."""
    batch, _ = make_batch()
    losses = []
    optimizer = optax.sgd(LEARNING_RATE)
    for kind in (KIND, ("B", "instance")):
        scaled = Objective(lambda *a: jax.tree.map(lambda x: 2 * x, squares(*a)), lambda batch: 8)
        stepper = TrainStepper(
            FakeStructure(),
            optimizer,
            learning_rate=lambda step: LEARNING_RATE,
            ema_decay=0.0,
            objectives={KIND: Objective(squares, lambda batch: 8), ("B", "instance"): scaled},
            seed=0,
            mesh=make_mesh(jax.devices()[:1]),
            origin="origin",
        )
        losses.append(float(stepper(kind, make_state(optimizer), batch)[1]["loss"]))
    assert losses[1] == pytest.approx(2 * losses[0])


@pytest.mark.parametrize(
    ("loss", "state_values", "images", "message"),
    [
        (squares, {"w": (np.nan, 1.0)}, None, "parameter w"),
        (squares, {}, np.inf, "loss term square"),
        (kinked, {"bias": 0.0}, None, "gradient of bias"),
    ],
)
@pytest.mark.parametrize("packing", [None, PACKING])
def test_guard_keeps_the_state_and_names_the_tensor(loss, state_values, images, message, packing):
    stepper, optimizer = make_stepper(loss, packing=packing)
    batch, _ = make_batch()
    if images is not None:
        batch["images"] = jnp.full_like(batch["images"], images)
    state = make_state(optimizer, **state_values)
    before = jax.device_get(state)
    good, _ = make_batch()
    after, metrics = stepper(KIND, stepper.pack(state), batch)
    assert not bool(metrics["is_finite"]) and not bool(after.is_healthy)
    after, _ = stepper(KIND, after, good)  # a later, good batch changes nothing either
    np.testing.assert_array_equal(stepper.unpack(after).params["w"], before.params["w"])
    assert int(after.step) == 0
    assert stepper.first_bad_tensor(KIND, after, batch) == message
