"""What the losses weigh and how many points they look at."""

import dataclasses
from typing import Annotated

from tarvis_jax.fields import OneOf, Range, check_fields

PANOPTIC_SEMANTIC = ("sparse", "dense", "dense_full_res")

_Weight = Annotated[float, Range(0, 1e6)]
_NumPoints = Annotated[int, Range(1, 10**8)]
_Share = Annotated[float, Range(0, 1)]


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Weights and sampling of all losses (paper section 3.4; defaults are those of fine-tuning ResNet-50 and Swin-T).

    Attributes:
      class_weight: cross-entropy of instance classes; also the class weight of the matching cost.
      mask_weight: binary cross-entropy of instance masks; also in the matching cost.
      dice_weight: dice loss of instance masks; also in the matching cost.
      background_class_weight: weight of unmatched queries in the class cross-entropy.
      instance_semantic_weight: cross-entropy of the class maps made from instances (VIS).
      panoptic_semantic_weight: cross-entropy of the semantic map (VPS).
      exemplar_mask_weight: binary cross-entropy of object and background masks (VOS, PET).
      exemplar_dice_weight: dice loss of the same masks.
      num_points: P, points per mask and frame in the matching cost, the mask losses and the VIS class maps.
      num_points_semantic: P, points per frame in the sparse VPS semantic loss; 25088 in the released pre-training.
      oversample_ratio: candidates per point among which the uncertain ones are found (PointRend).
      importance_ratio: share of the P points that are the most uncertain candidates; the rest is uniform.
      interpolate_class_ids: False takes the class of the pixel that contains the point (VIS class maps). True is as the
        reference does: class ids are interpolated and truncated, which gives points on borders other classes, and 2 to
        4 % of the points inside the class before theirs (rounding).
      panoptic_semantic: "sparse" (points), "dense" (every cell at stride 4) or "dense_full_res" (every pixel).
      bootstrap_ratio: share of a clip's cells or pixels, the worst ones, that count in the dense losses.
      suppress_absent_classes: set the logits of classes that appear neither in the sampled labels nor among the sampled
        predictions of a clip to -1000 (Swin-L pre-training).
      logit_norm_weight: weight of the mean norm of the sampled class logits; 1e-3 in Swin-L fine-tuning, 0 = off.
    """

    class_weight: _Weight = 2.0
    mask_weight: _Weight = 5.0
    dice_weight: _Weight = 5.0
    background_class_weight: _Weight = 0.1
    instance_semantic_weight: _Weight = 2.0
    panoptic_semantic_weight: _Weight = 2.0
    exemplar_mask_weight: _Weight = 5.0
    exemplar_dice_weight: _Weight = 5.0
    num_points: _NumPoints = 12544
    num_points_semantic: _NumPoints = 50176
    oversample_ratio: Annotated[float, Range(1, 1000)] = 3.0
    importance_ratio: _Share = 0.75
    interpolate_class_ids: bool = False
    panoptic_semantic: Annotated[str, OneOf(PANOPTIC_SEMANTIC)] = "sparse"
    bootstrap_ratio: _Share = 0.25
    suppress_absent_classes: bool = False
    logit_norm_weight: _Weight = 0.0

    def __post_init__(self):
        check_fields(self)
