"""The list of a run's programs is what its batches ask for."""

import dataclasses

import jax
import numpy as np
import pytest

from configs import finetune
from input_pipeline.batches import batch_shapes
from tarvis_jax.compiled import shapes_of
from tarvis_jax.config import from_mapping
from tarvis_jax.parallel.mesh import make_mesh
from tarvis_jax.run_config import Config
from tarvis_jax.train.programs import gradient_programs
from tarvis_jax.train.transfer import to_devices

SIZES = ((512, 960), (384, 704), (960, 512))


@pytest.fixture(scope="module")
def config():
    """The largest mixture: DAVIS and BURST have the same sizes and objective; two VIS datasets have two sizes each."""
    config = from_mapping(Config, finetune.get_config())
    datasets = [dataclasses.replace(d, buckets=SIZES[: 3 - (d.task == "instance")]) for d in config.data.datasets]
    return dataclasses.replace(config, data=dataclasses.replace(config.data, datasets=tuple(datasets)))


def with_dataset(config: Config, name: str, **changes) -> Config:
    datasets = [dataclasses.replace(d, **changes) if d.name == name else d for d in config.data.datasets]
    return dataclasses.replace(config, data=dataclasses.replace(config.data, datasets=tuple(datasets)))


def test_programs_of_the_largest_mixture(config):
    programs = gradient_programs(config, 8)
    buckets = {d.name: len(d.buckets) for d in config.data.datasets}
    assert len(programs) == sum(buckets.values()) - 3  # DAVIS' are BURST's
    assert len({(program.kind, shapes_of(program.batch)) for program in programs}) == len(programs)
    assert all(program.batch["images"].shape[:3] == (8, 4, 3) for program in programs)
    without = gradient_programs(with_dataset(config, "OVIS", weight=0.0), 8)
    assert without == [program for program in programs if program.kind[0] != "OVIS"]
    (only,) = gradient_programs(config, 8, {("OVIS", "instance", SIZES[1])})
    assert only in programs and only.kind == ("OVIS", "instance") and only.batch["images"].shape[3:5] == SIZES[1]
    with pytest.raises(ValueError, match="dataset OVIS: buckets: expected at least one"):
        gradient_programs(with_dataset(config, "OVIS", buckets=()), 8)


@pytest.mark.parametrize("form", ["id_map", "bit_planes"])
def test_batches_have_the_listed_shapes(config, form):
    """In both forms of their masks."""
    data = dataclasses.replace(config.data, batch_size=2, clip_length=1)
    small = dataclasses.replace(config, data=data)
    mesh = make_mesh(jax.devices()[:1])
    for name in ("OVIS", "KITTI_STEP", "DAVIS"):  # VIS, VPS, VOS
        small = with_dataset(small, name, buckets=((64, 64),), max_instances=12)
    listed = {program.kind: program.batch for program in gradient_programs(small, 2)}
    for dataset in small.data.datasets:
        if dataset.buckets == ((64, 64),):
            shapes = batch_shapes(small.data, dataset, (64, 64))
            batch = {name: np.zeros(shape, dtype) for name, (shape, dtype) in shapes.items()}
            if form == "id_map":
                del batch["bit_planes"]
                batch["id_map"] = np.zeros((2, 1, 64, 64), np.uint8)
            assert shapes_of(to_devices(batch, 2, mesh)) == shapes_of(listed[dataset.name, dataset.task])
