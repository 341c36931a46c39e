"""Which settings `--mode=compile` tries; tests/train/test_compiled_ahead.py runs the command itself."""

import dataclasses

import pytest

from tarvis_jax.commands.compile import _candidates, compile_steps
from tarvis_jax.config import from_mapping
from tarvis_jax.run_config import Config
from tests.train import tiny_config


def tried(num_devices: int, **train) -> list[tuple[int, str, str]]:
    config = from_mapping(Config, tiny_config.get_config("1"))
    data = dataclasses.replace(config.data, batch_size=12)
    config = dataclasses.replace(config, data=data, train=dataclasses.replace(config.train, **train))
    return [
        (each.train.max_samples_per_device, each.model.remat, each.train.shard)
        for each in _candidates(config, num_devices)
    ]


def test_each_setting_needs_less_memory_than_the_one_before():
    last = [(1, "products", "none"), (1, "blocks", "none"), (1, "blocks", "optimizer"), (1, "blocks", "parameters")]
    assert tried(2) == [(6, "none", "none"), (3, "none", "none"), (2, "none", "none"), (1, "none", "none"), *last]
    assert tried(1)[-1] == (1, "blocks", "none")  # there is nothing to split over
    assert tried(2, max_samples_per_device=3, shard="parameters") == [
        (3, "none", "parameters"),
        (3, "products", "parameters"),
        (3, "blocks", "parameters"),
    ]


def test_number_of_programs():
    with pytest.raises(ValueError, match="--programs=-1: expected how many of the largest"):
        compile_steps(from_mapping(Config, tiny_config.get_config("1")), programs=-1)
