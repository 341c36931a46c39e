"""The whole network against the reference, stage by stage, on one clip of real frames.

A case folder holds input.npz and any of instance.npz, panoptic.npz, mask.npz (with vos_masks_input.npz) and point.npz
(with pet_points_input.npz).
"""

import dataclasses
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tarvis_jax.model.backbones import ConvNextConfig
from tarvis_jax.model.config import HARD_MASKED, SOFT_MASKED, ModelConfig
from tarvis_jax.model.decoder import Predictions
from tarvis_jax.model.frozen import Frozen
from tarvis_jax.model.tarvis import TarViS
from tarvis_jax.model.variables import fill
from tarvis_jax.weights.pytorch.reference import abstract_model, from_reference_state_dict
from tests.parity.common import (
    BACKBONE_TOLERANCE,
    DECODER_TOLERANCE,
    NECK_TOLERANCE,
    OUTPUT_TOLERANCE,
    Row,
    compare,
    load_npz,
    seeded_state_dict,
)

KINDS = ("instance", "panoptic", "mask", "point")
DATASETS = {"instance": "YOUTUBE_VIS", "panoptic": "KITTI_STEP"}
BACKBONE_STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
QUERIES_STEP = 4  # the files keep every fourth query's masks
NOT_YET_GIVEN_LOGIT = -1e3  # what the reference returns before the frame in which an object is given

Pyramid = dict[int, jax.Array]  # {stride: [1, T, h, w, C]}


def is_case(case_dir: pathlib.Path) -> bool:
    """Whether the folder holds a case of this kind."""
    return (case_dir / "input.npz").is_file() and any((case_dir / f"{kind}.npz").is_file() for kind in KINDS)


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


def compare_features(model: TarViS, case_dir: pathlib.Path) -> tuple[Pyramid, list[Row]]:
    """Backbone and neck; returns our pyramid."""
    images = load_npz(case_dir / "input.npz")["images"][None]
    graphdef, params, frozen = nnx.split(model, nnx.Param, Frozen)

    @jax.jit
    def features(params, frozen, images):
        model = nnx.merge(graphdef, params, frozen)
        backbone = model.backbone_features(images)
        return backbone, model.neck(backbone)

    backbone, pyramid = features(params, frozen, images)
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
            rows.append(compare(f"{kind}/{stage}", name, ours, reference.reshape(-1, *reference.shape[-3:]), tolerance))
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
    rows = []
    for key, reference in arrays.items():
        stage, _, name = key.partition("/")
        if stage in ("backbone", "neck"):
            continue
        if key not in ours:
            raise ValueError(f"{case_dir / kind}.npz: key {key!r}: expected one of {sorted(ours)}")
        tolerance = DECODER_TOLERANCE if stage == "decoder" else OUTPUT_TOLERANCE
        values = np.asarray(ours[key])
        if name == "pred_vos_logits" and values.shape == reference.shape:
            # Where an object is not yet given, both hold a large constant that would drown every difference.
            is_filled = (reference == NOT_YET_GIVEN_LOGIT) & (values == NOT_YET_GIVEN_LOGIT)
            values, reference = np.where(is_filled, 0, values), np.where(is_filled, 0, reference)
        rows.append(compare(f"{kind}/{stage}", name, values, reference, tolerance))
    return rows


def _has_second_clip(arrays: dict[str, np.ndarray]) -> bool:
    return any(key.startswith("second_clip/") for key in arrays)


def decode_classes(model: TarViS, pyramid: Pyramid, dataset: str) -> Predictions:
    """All predictions for the classes of a dataset."""
    graphdef, params, frozen = nnx.split(model, nnx.Param, Frozen)

    @jax.jit
    def decode(params, frozen, pyramid):
        model = nnx.merge(graphdef, params, frozen)
        return model.decode(pyramid, model.class_query_set(dataset, 1), all_layers=True)

    return decode(params, frozen, pyramid)


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


@dataclasses.dataclass
class Objects:
    """Inputs of the object encoder, with a batch axis of 1; see `ObjectEncoder.__call__`."""

    masks: np.ndarray
    points_yx: np.ndarray
    point_frames: np.ndarray
    is_point: np.ndarray
    valid_frames: np.ndarray


def object_decoder(model: TarViS, pyramid: Pyramid) -> Callable[[Objects], Predictions]:
    """A compiled function: all predictions for given objects, with twice the queries per object, as in inference."""
    graphdef, params, frozen = nnx.split(model, nnx.Param, Frozen)

    @jax.jit
    def decode(params, frozen, pyramid, objects):
        model = nnx.merge(graphdef, params, frozen)
        queries = model.encode_objects(
            pyramid,
            **objects,
            valid_objects=jnp.ones(objects["is_point"].shape, bool),
            queries_per_object=2 * model.config.num_queries_per_object,
        )
        return model.decode(pyramid, model.exemplar_query_set(queries), all_layers=True)

    return lambda objects: decode(params, frozen, pyramid, dataclasses.asdict(objects))


def exemplar_tensors(
    model: TarViS, pyramid: Pyramid, case_dir: pathlib.Path, kind: str, with_second_clip: bool
) -> dict[str, np.ndarray]:
    """VOS and PET predictions under the names and in the layout of the files."""
    T, h, w = pyramid[4].shape[1:4]
    given = load_npz(case_dir / ("vos_masks_input.npz" if kind == "mask" else "pet_points_input.npz"))
    ids, frames = given["instance_ids"], given["frame_indices"].astype(np.int32)
    N = len(ids)
    objects = Objects(
        masks=np.zeros((1, N, T, 4 * h, 4 * w), bool),
        points_yx=np.zeros((1, N, 2), np.float32),
        point_frames=np.zeros((1, N), np.int32),
        is_point=np.full((1, N), kind == "point"),
        valid_frames=np.isin(np.arange(T), frames)[None],
    )
    if kind == "mask":
        objects.masks[0, np.arange(N), frames] = given["masks"]
    else:
        objects.points_yx[0], objects.point_frames[0] = given["point_coords_yx"], frames
    decode = object_decoder(model, pyramid)
    predictions = decode(objects)

    # Of a point object's slots the reference has the first only.
    vos = predictions.slice("vos")
    slots = np.arange(vos.start, vos.stop).reshape(N, -1)
    rows = np.concatenate([np.arange(vos.start), (slots[:, :1] if kind == "point" else slots).ravel()])
    masks, background = _condense(predictions, N)
    masks = np.where(np.arange(T)[:, None, None] < frames[:, None, None, None], NOT_YET_GIVEN_LOGIT, masks)
    tensors = {
        **_decoder_tensors(predictions, rows),
        "output/pred_vos_logits": masks,
        "output/pred_background_logits": background,
        "output/instance_ids": ids,
        "output/lost_instance_ids": np.zeros(0),
    }
    if with_second_clip:
        # The reference saw the same frames again, counted from 1: its first frame is the last of the first clip, from
        # which the objects come.
        previous = np.asarray(jax.image.resize(masks[:, -1], (N, 4 * h, 4 * w), "bilinear")) > 0
        is_lost = ~previous.any((1, 2))
        second = Objects(
            masks=np.zeros((1, (~is_lost).sum(), T, 4 * h, 4 * w), bool),
            points_yx=objects.points_yx[:, ~is_lost],
            point_frames=objects.point_frames[:, ~is_lost],
            is_point=np.zeros((1, (~is_lost).sum()), bool),
            valid_frames=np.arange(T)[None] == 0,
        )
        second.masks[0, :, 0] = previous[~is_lost]
        masks, background = _condense(decode(second), len(second.masks[0]))
        tensors |= {
            "second_clip/pred_vos_logits": masks,
            "second_clip/pred_background_logits": background,
            "second_clip/instance_ids": ids[~is_lost],
            "second_clip/lost_instance_ids": ids[is_lost],
        }
    return tensors


def _condense(predictions: Predictions, num_objects: int) -> tuple[np.ndarray, np.ndarray]:
    """Last mask logits of the objects [N, T, h, w] (maximum over an object's queries) and of the background queries."""
    masks = np.asarray(predictions.mask_logits[-1, 0])
    of_objects = masks[predictions.slice("vos")]
    of_objects = of_objects.reshape(num_objects, -1, *masks.shape[1:]).max(1)
    return of_objects, masks[predictions.slice("background_vos")]
