"""Run by test_local_devices.py in a process of its own with two CPU devices: an evaluation on one of them, and on both.

Prints JSON: of each evaluation the scores, the tracks of every video, and how many videos each device has segmented;
and of each device, whether the network is the arrays of the training state that lay there.
"""

import collections
import json
import pathlib
import sys
import threading
import types

import jax
import jax.numpy as jnp

from configs import quickstart
from input_pipeline.synthetic import prepare_data
from tarvis_jax.config import from_mapping
from tarvis_jax.evaluation import segment
from tarvis_jax.evaluation.held_out import evaluate_predictor
from tarvis_jax.inference import network
from tarvis_jax.model.config import PYRAMID_STRIDES
from tarvis_jax.parallel.mesh import make_mesh, replicated
from tarvis_jax.run_config import Config
from tarvis_jax.train.loop import _Evaluator
from tests import tiny

COLORS = "colors"


def small_config() -> Config:
    config = quickstart.get_config()
    config.data.datasets = tuple(d for d in config.data.datasets if d["name"] == "DAVIS")
    config.model.update(tiny.MODEL.__dict__ | {"semantic_classes": ()})
    config.synthetic.num_train, config.synthetic.num_val, config.synthetic.num_frames = 1, 4, 4
    config.inference.DAVIS.clip_length, config.inference.DAVIS.overlap = 3, 1
    return from_mapping(Config, config)


def colors_as_features(model, images, shared, num_shared, extent):
    """In place of `network.next_clips_features`, of one clip."""
    red = images[None, ..., :1] / 255
    maps = {
        s: jnp.broadcast_to(
            red[:, :, s // 2 :: s, s // 2 :: s],
            (1, len(images), images.shape[1] // s, images.shape[2] // s, shared[s].shape[-1]),
        )
        for s in PYRAMID_STRIDES
    }
    return maps, {s: maps[s][:, len(images) - shared[s].shape[1] :] for s in PYRAMID_STRIDES}


def objects_by_color(model, pyramid, masks, *_):
    """In place of `network.decode_objects`: pixels that look like the mean of those under the object's mask."""
    looks, under = pyramid[4][0, ..., 0], masks[..., ::4, ::4]
    mean = (looks * under).sum((1, 2, 3), keepdims=True) / jnp.maximum(under.sum((1, 2, 3), keepdims=True), 1)
    return 0.1 - jnp.abs(looks - mean)


def main(folder: pathlib.Path, kind: str) -> None:
    """`kind`: COLORS, for a stand-in that compiles quickly, or else for the network."""
    assert jax.local_device_count() == 2
    if kind == COLORS:
        network.next_clips_features, network.decode_objects = colors_as_features, objects_by_color
    config = small_config()
    data = prepare_data(config.data, config.synthetic, folder)
    variables = jax.device_put(tiny.variables(config.model, seed=11), replicated(make_mesh()))
    state = types.SimpleNamespace(params=variables, frozen={}, ema=None)
    predictors, weights = _Evaluator(config, data, folder, None, None)._predictors_of(state)

    segment_video, num_videos = segment.segment_video, collections.Counter()
    both_work = threading.Barrier(2, timeout=240)

    def counted(predictor, *arguments):
        """On two devices, each waits in its first video until the other one has one, too."""
        num_videos[predictor.device.id] += 1
        if len(used) == 2 and num_videos[predictor.device.id] == 1:
            both_work.wait()
        return segment_video(predictor, *arguments)

    segment.segment_video = counted
    evaluations = []
    for used in (predictors[:1], predictors):
        num_videos.clear()
        out = folder / str(len(used))
        scores = evaluate_predictor(config, data, used, out, weights=weights)
        tracks = {path.name: path.read_text() for path in out.glob("*/tracks/*.json")}
        evaluations.append({"scores": scores, "tracks": tracks, "videos": dict(num_videos)})

    lay_there = {
        (name, s.device): _address(s.data) for name, value in variables.items() for s in value.addressable_shards
    }
    is_state = [
        all(_address(value) == lay_there[name, each.device] for name, value in each.variables.items())
        for each in predictors
    ]
    print(json.dumps({"evaluations": evaluations, "is_state": is_state}))


def _address(array: jax.Array) -> int:
    return array.unsafe_buffer_pointer()


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]), sys.argv[2])
