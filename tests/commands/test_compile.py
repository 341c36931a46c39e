"""Which settings `--mode=compile` tries; tests/train/test_compiled_ahead.py runs the command itself."""

import dataclasses
import types

import jax
import pytest

from kernels.aot.chips import CHIPS
from tarvis_jax.commands.compile import _candidates, _line, _row, compile_steps
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
    last = [(1, "blocks", "none"), (1, "blocks", "optimizer"), (1, "blocks", "parameters")]
    assert tried(2) == [(6, "none", "none"), (3, "none", "none"), (2, "none", "none"), (1, "none", "none"), *last]
    assert tried(1)[-1] == (1, "blocks", "none")  # there is nothing to split over
    assert tried(2, max_samples_per_device=3, shard="parameters", pack_state=False) == [
        (3, "none", "parameters"),
        (3, "blocks", "parameters"),
    ]


def test_number_of_programs():
    with pytest.raises(ValueError, match="--programs=-1: expected how many of the largest"):
        compile_steps(from_mapping(Config, tiny_config.get_config("1")), programs=-1)


def test_a_program_whose_text_cannot_be_read():
    """Its memory is known, its exchanges are not, and the line says so."""

    def as_text():
        raise jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK failure")

    compiled = types.SimpleNamespace(as_text=as_text, cost_analysis=lambda: {"bytes accessed": 1.6e9})
    row = _row("update", None, 2**30, compiled, flops=8, passes=2, num_devices=8)
    assert row.collectives is None and row.sent_bytes is None and row.cycles is None
    assert _line(row, CHIPS["v6e"], 2 * 2**30) == (
        "update, total 1.00 GiB, headroom 1.00 GiB, 1e-12 TFLOP, 3.2 GB accessed, exchanges not known (jaxlib cannot "
        "read the text of the program), at least 2 ms (memory)"
    )
