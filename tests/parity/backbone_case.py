"""The whole network against the reference, stage by stage, on one clip of real frames.

A case folder holds any of instance.npz, panoptic.npz, mask.npz (with vos_masks_input.npz) and point.npz (with
pet_points_input.npz), and what they begin from: input.npz, the frames; or features.npz, what the reference's backbone
made of the frames, for a case that may not hold frames of other people's videos: there the backbone is not compared.

`second_clip/...` in mask.npz is what the reference gives for the clip one frame later (on the features of the first
clip, so that nothing else changes), with the objects taken over from its own masks in the T - 1 frames that the clips
share. `second_clip/all_lost` says that none of them has a pixel there, so that there is no object to decode for.
"""

import functools
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tarvis_jax.inference.targets import BEFORE_FIRST_FRAME, ExemplarInputs, ExemplarMemory
from tarvis_jax.model.backbones import ConvNextConfig
from tarvis_jax.model.config import HARD_MASKED, SOFT_MASKED, ModelConfig
from tarvis_jax.model.decoder import Predictions
from tarvis_jax.model.tarvis import TarViS
from tarvis_jax.model.variables import fill
from tarvis_jax.weights.pytorch.reference import abstract_model, from_reference_state_dict
from tests.parity.common import (
    BACKBONE_TOLERANCE,
    DECODER_TOLERANCE,
    NECK_TOLERANCE,
    OUTPUT_TOLERANCE,
    Row,
    Sampled,
    compare,
    load_npz,
    seeded_state_dict,
)

KINDS = ("instance", "panoptic", "mask", "point")
DATASETS = {"instance": "YOUTUBE_VIS", "panoptic": "KITTI_STEP"}
BACKBONE_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
ALL_LOST = "second_clip/all_lost"
QUERIES_STEP = 4  # the files keep every fourth query's masks

Pyramid = dict[int, jax.Array]  # {stride: [1, T, h, w, C]}


def is_case(case_dir: pathlib.Path) -> bool:
    """Whether the folder holds a case of this kind."""
    begins = any((case_dir / name).is_file() for name in ("input.npz", "features.npz"))
    return begins and any((case_dir / f"{kind}.npz").is_file() for kind in KINDS)


def run(case_dir: pathlib.Path, seed: int, backbone: str, attention: str | None = None) -> list[Row]:
    """Compares every tensor that the case holds; each stage continues from our own result of the one before.

    Args:
      case_dir: the folder.
      seed: of the weights.
      backbone: reference name, such as "ResNet50".
      attention: "hard_masked" or "soft_masked"; None reads it off the names of the weights.

    Raises:
      ValueError: nothing to compare, or an unknown key.
    """
    with jax.default_matmul_precision("highest"):
        model = load_model(case_dir, seed, backbone, attention)
        pyramid, rows = compare_features(model, case_dir)
        for kind in kinds_of(case_dir):
            rows += compare_kind(model, pyramid, case_dir, kind)
    return rows


def kinds_of(case_dir: pathlib.Path) -> list[str]:
    """Which of KINDS the folder has."""
    kinds = [kind for kind in KINDS if (case_dir / f"{kind}.npz").is_file()]
    if not kinds:
        raise ValueError(f"{case_dir}: expected one of {[f'{kind}.npz' for kind in KINDS]}")
    return kinds


def load_model(case_dir: pathlib.Path, seed: int, backbone: str, attention: str | None = None) -> TarViS:
    """The model with the case's weights, through the converter."""
    state_dict = seeded_state_dict(case_dir, seed, backbone)
    if attention is None:
        attention = SOFT_MASKED if any(name.endswith("scaling_factors") for name in state_dict) else HARD_MASKED
    config = ModelConfig(backbone=backbone, cross_attention=attention)
    return fill(abstract_model(config), from_reference_state_dict(state_dict, config))


# One compiled program per architecture and shape, whichever case or kind asks for it.
@functools.partial(jax.jit, static_argnums=0)
def _features(config, state, images):
    model = _merge(config, state)
    backbone = model.backbone_features(images)
    return backbone, model.neck(backbone)


@functools.partial(jax.jit, static_argnums=0)
def _neck(config, state, backbone):
    return _merge(config, state).neck(backbone)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _decode_classes(config, dataset, state, pyramid):
    model = _merge(config, state)
    return model.decode(pyramid, model.class_query_set(dataset, 1), all_layers=True)


@functools.partial(jax.jit, static_argnums=0)
def _decode_objects(config, state, pyramid, objects):
    model = _merge(config, state)
    queries = model.encode_objects(
        pyramid,
        **objects,
        valid_objects=jnp.ones(objects["is_point"].shape, bool),
        queries_per_object=2 * config.num_queries_per_object,
    )
    return model.decode(pyramid, model.exemplar_query_set(queries), all_layers=True)


def _merge(config: ModelConfig, state: nnx.State) -> TarViS:
    return nnx.merge(nnx.graphdef(abstract_model(config)), state)


def compare_features(model: TarViS, case_dir: pathlib.Path) -> tuple[Pyramid, list[Row]]:
    """Backbone and neck; returns our pyramid."""
    state = nnx.state(model)
    if (case_dir / "features.npz").is_file():
        recorded = load_npz(case_dir / "features.npz")
        backbone = {BACKBONE_STRIDES[name]: jnp.asarray(x.transpose(0, 2, 3, 1))[None] for name, x in recorded.items()}
        pyramid = _neck(model.config, state, backbone)
    else:
        images = load_npz(case_dir / "input.npz")["images"][None]
        backbone, pyramid = _features(model.config, state, images)
    rows = []
    for kind in kinds_of(case_dir):
        for key, reference in load_npz(case_dir / f"{kind}.npz").items():
            stage, _, name = key.partition("/")
            if stage == "backbone":
                ours, tolerance = backbone[BACKBONE_STRIDES[name]], BACKBONE_TOLERANCE
                reference = _with_output_norm(model, list(BACKBONE_STRIDES).index(name), reference)
            elif stage == "neck":
                ours, tolerance = pyramid[int(name.removeprefix("stride"))], NECK_TOLERANCE
            else:
                continue
            ours = np.asarray(ours)[0].transpose(0, 3, 1, 2)
            ours = ours.reshape(*reference.shape[:-4], *ours.shape)  # the files may hold a batch axis of 1
            rows.append(compare(f"{kind}/{stage}", name, ours, reference, tolerance))
    return pyramid, rows


def _with_output_norm(model: TarViS, stage: int, reference: np.ndarray) -> np.ndarray:
    """Recorded features [T, C, h, w] as they enter the neck.

    Of ConvNeXt the files hold what lies before the norm of each output; here it is applied, in float64.
    """
    if not isinstance(model.backbone.config, ConvNextConfig):
        return reference
    norm = model.backbone.output_norms[stage]
    x = np.moveaxis(reference.astype(np.float64), -3, -1)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + norm.epsilon)
    return np.moveaxis(x * np.asarray(norm.scale[...]) + np.asarray(norm.bias[...]), -1, -3)


def reference_pyramid(case_dir: pathlib.Path) -> Pyramid:
    """The reference's own neck output, to look at what follows it alone."""
    arrays = load_npz(case_dir / "instance.npz")
    maps = {int(key.removeprefix("neck/stride")): x for key, x in arrays.items() if key.startswith("neck/")}
    return {s: jnp.asarray(x.reshape(-1, *x.shape[-3:]).transpose(0, 2, 3, 1))[None] for s, x in maps.items()}


def compare_kind(model: TarViS, pyramid: Pyramid, case_dir: pathlib.Path, kind: str) -> list[Row]:
    """Object encoder, decoder and outputs of one of KINDS."""
    arrays = load_npz(case_dir / f"{kind}.npz")
    if kind in DATASETS:
        ours = class_tensors(decode_classes(model, pyramid, DATASETS[kind]), kind)
    else:
        ours = exemplar_tensors(model, pyramid, case_dir, kind, with_second_clip=_has_second_clip(arrays))
    return compare_outputs(ours, arrays, case_dir, kind)


def compare_outputs(
    ours: dict[str, np.ndarray], arrays: dict[str, np.ndarray | Sampled], case_dir: pathlib.Path, kind: str
) -> list[Row]:
    """Everything in the file of a kind (`arrays`) that comes after the neck, against `ours` under the same keys."""
    rows = []
    for key, reference in arrays.items():
        stage, _, name = key.partition("/")
        if stage in ("backbone", "neck"):
            continue
        if key == ALL_LOST:
            rows.append(Row(f"{kind}/{stage}", name, float(bool(ours[key]) != bool(np.any(reference))), 0.0))
            continue
        if key not in ours:
            raise ValueError(f"{case_dir / kind}.npz: key {key!r}: expected one of {sorted(ours)}")
        tolerance = DECODER_TOLERANCE if stage == "decoder" else OUTPUT_TOLERANCE
        values = np.asarray(ours[key])
        if stage == "second_clip" and values.shape != reference.shape:
            # Other objects survived than in the reference: a miss, unless both have none.
            error = 0.0 if values.size == 0 and np.size(reference) == 0 else np.inf
            rows.append(Row(f"{kind}/{stage}", name, error, tolerance))
            continue
        if name == "pred_vos_logits" and values.shape == reference.shape:
            # Where an object is not yet given, both hold a large constant that would drown every difference.
            is_filled = (reference == BEFORE_FIRST_FRAME) & (values == BEFORE_FIRST_FRAME)
            values, reference = np.where(is_filled, 0, values), np.where(is_filled, 0, reference)
        rows.append(compare(f"{kind}/{stage}", name, values, reference, tolerance))
    return rows


def _has_second_clip(arrays: dict[str, np.ndarray]) -> bool:
    return any(key.startswith("second_clip/") for key in arrays)


def decode_classes(model: TarViS, pyramid: Pyramid, dataset: str) -> Predictions:
    """All predictions for the classes of a dataset."""
    return _decode_classes(model.config, dataset, nnx.state(model), pyramid)


def class_tensors(predictions: Predictions, kind: str) -> dict[str, np.ndarray]:
    """VIS and VPS predictions under the names and in the layout of the files."""
    masks = np.asarray(predictions.mask_logits[-1, 0])
    semantic = masks[predictions.slice("semantic")]
    if kind == "instance":
        background = masks[predictions.slice("background")].max(0, keepdims=True)
        semantic = np.concatenate([background, semantic])
    return {
        **_decoder_tensors(predictions, np.arange(predictions.queries.shape[2])),
        "decoder/class_logits": predictions.class_logits,
        "output/pred_instance_seg_logits": masks[predictions.slice("instance")][::QUERIES_STEP],
        "output/pred_semantic_seg_logits": semantic,
        "output/pred_instance_class_logits": predictions.class_logits[-1, 0],
    }


def _decoder_tensors(predictions: Predictions, rows: np.ndarray) -> dict[str, np.ndarray]:
    """`rows`: the queries that the reference has, in its order."""
    queries = np.asarray(predictions.queries)[:, :, rows]
    masks = np.asarray(predictions.mask_logits)[:, :, rows[::QUERIES_STEP]]
    return {
        "decoder/queries_first": queries[0],
        "decoder/queries_last": queries[-1],
        "decoder/mask_logits_layer0": masks[0],
        "decoder/mask_logits_last": masks[-1],
    }


def object_decoder(model: TarViS, pyramid: Pyramid) -> Callable[[ExemplarInputs], Predictions]:
    """A compiled function: all predictions for given objects, with twice the queries per object, as in inference."""
    state = nnx.state(model)

    def decode(objects: ExemplarInputs) -> Predictions:
        inputs = {key: value[None] for key, value in vars(objects).items() if key != "ids"}
        return _decode_objects(model.config, state, pyramid, inputs)

    return decode


def exemplar_tensors(
    model: TarViS, pyramid: Pyramid, case_dir: pathlib.Path, kind: str, with_second_clip: bool
) -> dict[str, np.ndarray]:
    """VOS and PET predictions under the names and in the layout of the files."""
    T, h, w = pyramid[4].shape[1:4]
    given = load_npz(case_dir / ("vos_masks_input.npz" if kind == "mask" else "pet_points_input.npz"))
    ids, frames = given["instance_ids"], given["frame_indices"].astype(np.int32)
    N = len(ids)
    objects = ExemplarInputs(
        ids=list(ids),
        masks=np.zeros((N, T, 4 * h, 4 * w), bool),
        points_yx=np.zeros((N, 2), np.float32),
        point_frames=np.zeros(N, np.int32),
        is_point=np.full(N, kind == "point"),
        valid_frames=np.isin(np.arange(T), frames),
    )
    if kind == "mask":
        objects.masks[np.arange(N), frames] = given["masks"]
    else:
        objects.points_yx[:], objects.point_frames[:] = given["point_coords_yx"], frames
    decode = object_decoder(model, pyramid)
    predictions = decode(objects)

    # Of a point object's slots the reference has the first only.
    vos = predictions.slice("vos")
    slots = np.arange(vos.start, vos.stop).reshape(N, -1)
    rows = np.concatenate([np.arange(vos.start), (slots[:, :1] if kind == "point" else slots).ravel()])
    masks, background = _condense(predictions, N)
    masks = np.where(np.arange(T)[:, None, None] < frames[:, None, None, None], BEFORE_FIRST_FRAME, masks)
    tensors = {
        **_decoder_tensors(predictions, rows),
        "output/pred_vos_logits": masks,
        "output/pred_background_logits": background,
        "output/instance_ids": ids,
        "output/lost_instance_ids": np.zeros(0),
    }
    if with_second_clip:
        tensors |= second_clip_tensors(decode, ids, masks)
    return tensors


def second_clip_tensors(
    decode: Callable[[ExemplarInputs], Predictions], ids: Sequence[int], masks: np.ndarray
) -> dict[str, np.ndarray]:
    """The clip one frame after the first one, with the objects as the session carries them over.

    Args:
      decode: see `object_decoder`.
      ids: of the N objects of the first clip.
      masks: [N, T, h, w], their mask logits there.
    """
    N, T, h, w = masks.shape
    ids = np.asarray(ids)
    memory = ExemplarMemory(_upsample)
    memory.remember(0, list(ids), masks)
    objects = memory.inputs(
        memory.carried(1), 1, T, (4 * h, 4 * w), targets=[], prepare_mask=None, normalize_point=None
    )
    if objects is None:
        return {
            ALL_LOST: np.array(True),
            "second_clip/pred_vos_logits": np.zeros((0, T, h, w), np.float32),
            "second_clip/pred_background_logits": np.zeros((0, T, h, w), np.float32),
            "second_clip/instance_ids": ids[:0],
            "second_clip/lost_instance_ids": ids,
        }
    masks, background = _condense(decode(objects), len(objects.ids))
    return {
        ALL_LOST: np.array(False),
        "second_clip/pred_vos_logits": masks,
        "second_clip/pred_background_logits": background,
        "second_clip/instance_ids": np.array(objects.ids),
        "second_clip/lost_instance_ids": ids[~np.isin(ids, objects.ids)],
    }


def _upsample(logits: np.ndarray) -> np.ndarray:
    """Stride-4 logits [N, T, h, w] -> bool masks [N, T, 4h, 4w]."""
    N, T, h, w = logits.shape
    return np.asarray(jax.image.resize(logits, (N, T, 4 * h, 4 * w), "bilinear")) > 0


def _condense(predictions: Predictions, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Last mask logits of the objects [N, T, h, w] (maximum over an object's queries) and of the background queries."""
    masks = np.asarray(predictions.mask_logits[-1, 0])
    of_objects = masks[predictions.slice("vos")]
    of_objects = of_objects.reshape(num_objects, -1, *masks.shape[1:]).max(1)
    return of_objects, masks[predictions.slice("background_vos")]
