"""How many clips a device takes at once: found from what programs need and what a device has."""

import dataclasses
import types

import jax
import pytest

from tarvis_jax.config import from_mapping
from tarvis_jax.parallel.mesh import make_mesh
from tarvis_jax.parallel.sharding import shardings_of
from tarvis_jax.run_config import Config
from tarvis_jax.train import memory
from tests.train import tiny_config

MIB = 2**20


class FakeStepper:
    """Its programs need 3 MiB, two batches, and 2 MiB for each sample; the compiler refuses more than 8 at once."""

    mesh = make_mesh(jax.devices()[:1])

    def __init__(self, microbatches_at_once=1):
        self.microbatches_at_once = microbatches_at_once

    def abstract_state(self):
        leaf = jax.ShapeDtypeStruct((MIB // 4,), "float32")
        leaf = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings_of({"a": leaf}, "none", self.mesh)["a"])
        return types.SimpleNamespace(params={"a": leaf}, frozen={}, opt_state=(leaf, leaf), ema={})

    def gradients_request(self, kind, batch):
        return types.SimpleNamespace(key=None, lower=batch["images"].shape[1], description="gradients")

    @property
    def programs(self):
        return types.SimpleNamespace(get=self._compiled)

    def _compiled(self, key, samples, description):
        if samples > 8:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: E1000: Ran out of memory")
        found = types.SimpleNamespace(output_size_in_bytes=0, temp_size_in_bytes=2 * samples * MIB)
        return types.SimpleNamespace(memory_analysis=lambda: found)


# Of 16 clips: 2 frames of 64 x 96 pixels with 3 bytes of colors and 1 of bits; 4 targets with class, validity, point;
# reference frame and place.
TWO_BATCHES = 2 * 16 * (2 * 64 * 96 * (3 + 1) + 4 * (4 + 1 + 8) + 4 + 4)


def config_of(batch_size, most):
    config = from_mapping(Config, tiny_config.get_config("1"))
    data = dataclasses.replace(config.data, batch_size=batch_size)
    train = dataclasses.replace(config.train, max_samples_per_device=most)
    return dataclasses.replace(config, data=data, train=train)


@pytest.mark.parametrize(
    ("limit", "most", "microbatches"),
    [
        (100 * MIB, 0, 2),  # 16 at once are too many for the compiler: 8
        (TWO_BATCHES + 19 * MIB, 0, 2),  # 3 + 2 * 8
        (TWO_BATCHES + 19 * MIB - 1, 0, 4),
        (TWO_BATCHES + 5 * MIB, 0, 16),
        (5 * MIB, 2, 8),  # given: nothing is asked
        (None, 0, 1),
    ],
)
def test_the_most_that_fit(monkeypatch, limit, most, microbatches):
    monkeypatch.setattr(memory, "memory_of", lambda device: limit)
    assert memory.choose_microbatches(config_of(16, most), FakeStepper()) == microbatches


@pytest.mark.parametrize(
    ("at_once", "most", "microbatches"), [(2, 0, 2), (3, 0, 4), (16, 0, 16), (2, 4, 4), (2, 16, 2)]
)
def test_at_least_as_many_as_are_computed_at_once(monkeypatch, at_once, most, microbatches):
    monkeypatch.setattr(memory, "memory_of", lambda device: None)
    assert memory.choose_microbatches(config_of(16, most), FakeStepper(at_once)) == microbatches


def test_none_fits(monkeypatch):
    monkeypatch.setattr(memory, "memory_of", lambda device: TWO_BATCHES + 5 * MIB - 1)
    with pytest.raises(memory.DoesNotFitError, match="one sample on each device needs more memory than it has"):
        memory.choose_microbatches(config_of(16, 0), FakeStepper())


def test_memory_of_a_cpu_is_not_known():
    assert memory.memory_of(jax.devices("cpu")[0]) is None
