"""Records what we ourselves compute, for the two kinds of cases that need frames: training step and whole pipeline.

    python tests/tools/record_own_cases.py PARITY_DIR

The reference's numbers for these were computed on other people's videos, which may not be copied here. In their place
a bare clone has numbers of our own on drawn frames and a small network, laid out like the reference's cases
(tests/parity/reference/own_*). They say that nothing changed since they were recorded, not that it is right. So they
are recorded only by a working tree whose training step and pipeline agree with the reference's cases in PARITY_DIR.
"""

import json
import os
import pathlib
import shutil
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import cv2  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from tarvis_jax.inference.predictor import Predictor  # noqa: E402
from tarvis_jax.model.config import ModelConfig  # noqa: E402
from tarvis_jax.results.tracks import decode_mask, encode_mask  # noqa: E402
from tarvis_jax.train.optimizer import OptimizerConfig, make_optimizer, parameter_groups  # noqa: E402
from tarvis_jax.train.state import ModelStructure  # noqa: E402
from tests.parity import e2e_case, train_step_case  # noqa: E402
from tests.parity.common import OWN_E2E_SEED, REFERENCE, format_table, model_config, save_npz, seeded_variables  # noqa: E402

MODEL = {
    "backbone": "ResNetTiny",
    "hidden_size": 32,
    "num_heads": 4,
    "neck_layers": 1,
    "neck_ffn_size": 32,
    "neck_groups": 4,
    "decoder_layers": 3,
    "decoder_ffn_size": 32,
    "object_encoder_layers": 1,
    "object_encoder_ffn_size": 32,
    "num_instance_queries": 16,
}
BATCH, FRAMES, OBJECTS, SIZE = 2, 2, 2, (64, 64)
NUM_POINTS = 64
VIDEO = {"n": 8, "image_size": [66, 96], "clip_length": 4, "overlap": 2, "resize": {"MODE": "min_dim", "MIN_DIMS": 64}}
GIVEN = {"1": 0, "2": 0, "3": 3}  # object -> frame in which it is given
MAX_TRACKS = 4


def discs(frame: int, count: int, size: tuple[int, int]) -> np.ndarray:
    """bool [N, H, W]: discs that move to the right and down."""
    y, x = np.mgrid[: size[0], : size[1]]
    centers = [(14 + 17 * i + frame, 16 + 23 * i + 3 * frame) for i in range(count)]
    return np.stack([(y - cy) ** 2 + (x - cx) ** 2 < (7 + 2 * i) ** 2 for i, (cy, cx) in enumerate(centers)])


def draw_frame(frame: int, count: int, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3]: the discs on a waved background."""
    y, x = np.mgrid[: size[0], : size[1]]
    image = np.stack([(3 * x + y) % 200, (x * y // 16 + 5 * frame) % 180, (2 * y + 40) % 256], axis=-1)
    for i, disc in enumerate(discs(frame, count, size)):
        image[disc] = (image[disc] // 4 + np.array([190, 60 * i, 150 - 60 * i])) % 256
    return image.astype(np.uint8)


def start_case(case_dir: pathlib.Path) -> ModelConfig:
    """An empty folder with the architecture."""
    shutil.rmtree(case_dir, ignore_errors=True)
    case_dir.mkdir(parents=True)
    write_json(case_dir / "model.json", MODEL)
    return model_config(case_dir, MODEL["backbone"])


def write_json(path: pathlib.Path, content: dict) -> None:
    path.write_text(json.dumps(content, indent=0) + "\n")


def train_inputs(task: str, num_layers: int) -> dict[str, np.ndarray]:
    """A batch and the uniform numbers of one step, under the reference's keys."""
    rng = np.random.RandomState(0)  # its stream is the same in every version of numpy

    def uniform(*shape: int) -> np.ndarray:
        return rng.random_sample(shape).astype(np.float32)

    clips = [[8 * clip + frame for frame in range(FRAMES)] for clip in range(BATCH)]
    masks = [np.stack([discs(f, OBJECTS, SIZE) for f in frames], axis=1) for frames in clips]
    images = np.stack([[draw_frame(f, OBJECTS, SIZE) for f in frames] for frames in clips])
    inputs = {
        "images": images,
        "gt_semantic": (images[..., 0] // 14).astype(np.int64),  # classes 0..18
        "ignore": images[..., 1] < 40,
    }
    for i, sample in enumerate(masks):
        inputs[f"gt_masks_{i}"], inputs[f"gt_classes_{i}"] = sample, np.arange(OBJECTS) + 1 + i
    pairs = BATCH * OBJECTS * FRAMES
    if task == "vos":
        draws = [uniform(OBJECTS)]
        pairs = BATCH * (1 + OBJECTS) * FRAMES
        for _ in range(num_layers):
            draws += [uniform(pairs, 3 * NUM_POINTS, 2), uniform(pairs, NUM_POINTS // 4, 2)]
    else:
        draws = []
        for _ in range(num_layers):
            draws += [uniform(1, NUM_POINTS, 2) for _ in range(BATCH)]
            draws += [uniform(pairs, 3 * NUM_POINTS, 2), uniform(pairs, NUM_POINTS // 4, 2)]
        for _ in range(num_layers):
            draws += [uniform(BATCH * FRAMES, 3 * NUM_POINTS, 2), uniform(BATCH * FRAMES, NUM_POINTS // 4, 2)]
    return inputs | {f"step0_rand_{i:03d}": draw for i, draw in enumerate(draws)}


def record_train_step(case_dir: pathlib.Path) -> None:
    """One step of each task: losses, gradients, groups and parameters after it."""
    config = start_case(case_dir)
    variables = seeded_variables(case_dir, 0, config)
    structure = ModelStructure(config)
    params = {path: jnp.asarray(variables[path]) for path in structure.params}
    frozen = {path: jnp.asarray(variables[path]) for path in structure.frozen}
    optimizer_config = OptimizerConfig(warmup_steps=0, decay_steps=(), decay_rates=())
    optimizer = make_optimizer(optimizer_config, params)
    groups = parameter_groups(params, optimizer_config)
    for task, terms_of_task in train_step_case.TERMS.items():
        num_layers = 1 + config.decoder_layers
        losses = {f"loss/{theirs}": np.zeros(num_layers, np.float32) for theirs in terms_of_task.values()}
        golden = train_inputs(task, num_layers) | losses
        step = train_step_case.make_step(task, structure, frozen, optimizer, golden)
        draws = train_step_case.step_draws(task, golden, "step0_rand_")
        after, _, total, terms, norms = step(params, optimizer.init(params), draws)
        for ours, theirs in terms_of_task.items():
            golden[f"loss/{theirs}"] = np.asarray(terms[ours])
        save_npz(case_dir / f"{task}.npz", golden)
        report = {
            "groups": {path: dict(zip(("lr", "weight_decay"), groups[path], strict=True)) for path in params},
            "grad_norm_step0": {path: float(f"{norms[path]:.8g}") for path in params},
            "grad_norm_total": float(np.linalg.norm([float(norm) for norm in norms.values()])),
            "total_loss": [float(total)],
            "param_norm_after": {path: float(f"{jnp.linalg.norm(after[path].ravel()):.8g}") for path in params},
        }
        write_json(case_dir / f"{task}.json", report)


def record_pipeline(case_dir: pathlib.Path) -> None:
    """Tracks, class logits and class maps of a drawn video, all four tasks."""
    config = start_case(case_dir)
    size = tuple(VIDEO["image_size"])
    (case_dir / "frames").mkdir()
    for frame in range(VIDEO["n"]):
        path = case_dir / "frames" / f"{frame:05d}.png"
        assert cv2.imwrite(str(path), draw_frame(frame, len(GIVEN), size)[..., ::-1])
    given = [discs(frame, len(GIVEN), size)[i] for i, frame in enumerate(GIVEN.values())]
    points = [np.argwhere(mask).mean(0) + 0.5 for mask in given]
    points_yx = {name: (point / size).tolist() for name, point in zip(GIVEN, points, strict=True)}
    write_json(case_dir / "meta.json", VIDEO | {"points_yx": points_yx, "point_frames": GIVEN, "mask_frames": GIVEN})
    save_npz(case_dir / "masks_input.npz", {"masks": np.stack(given)})

    predictor = Predictor(config, seeded_variables(case_dir, OWN_E2E_SEED, config), matmul_precision="highest")
    empty = encode_mask(np.zeros(size, bool))
    for name in e2e_case.DATASETS:
        semantic, result = e2e_case.segment(case_dir, name, predictor, MAX_TRACKS)
        filled = [np.mean([decode_mask(rle).mean() for rle in t.segmentations if rle] or [0]) for t in result.tracks]
        assert len(filled) > 2 and 0.05 < min(filled) and max(filled) < 0.95, (name, filled)  # something to compare
        # As in the reference's files, the first frame tells how many tracks a clip may have.
        masks = [
            {str(track.id): track.segmentations[frame] for track in result.tracks if track.segmentations[frame]}
            for frame in range(VIDEO["n"])
        ]
        for track in result.tracks[:MAX_TRACKS]:
            masks[0].setdefault(str(track.id), empty)
        content = {"track_masks": masks}
        if name in ("instance", "panoptic"):
            assert len(masks[0]) == MAX_TRACKS
            content["track_class_logits"] = {str(track.id): track.class_logits for track in result.tracks}
        write_json(case_dir / f"{name}.json", content)
        if name == "panoptic":
            maps = {f"frame_{i:03d}": np.asarray(x, np.int64) for i, x in enumerate(semantic)}
            save_npz(case_dir / "panoptic_semantic.npz", maps)


def main(parity: pathlib.Path) -> None:
    rows = train_step_case.run(parity / "golden/train_step_ResNet50", 0, "ResNet50", num_steps=1)
    rows += e2e_case.run(parity / "golden/e2e_ResNet50", 0, "ResNet50")
    missed = [row for row in rows if not row.ok]
    if missed:
        sys.exit("not recorded, this working tree differs from the reference:\n" + format_table(missed))
    record_train_step(REFERENCE / "own_train_step")
    record_pipeline(REFERENCE / "own_e2e")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(pathlib.Path(sys.argv[1]))
