"""What the losses weigh and how many points they look at."""

import dataclasses

PANOPTIC_SEMANTIC = ("sparse", "dense", "dense_full_res")


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
      interpolate_class_ids: VIS class maps are sampled as the reference does: class ids are interpolated and truncated,
        which gives points on borders other classes, and 2 to 4 % of the points inside the class before theirs
        (rounding). False takes the class of the pixel that contains the point.
      panoptic_semantic: "sparse" (points), "dense" (every cell at stride 4) or "dense_full_res" (every pixel).
      bootstrap_ratio: share of the worst cells or pixels that count in the dense losses.
      suppress_absent_classes: set the logits of classes that appear neither in the sampled labels nor among the sampled
        predictions to -1000 (Swin-L pre-training).
      logit_norm_weight: weight of the mean norm of the sampled class logits; 1e-3 in Swin-L fine-tuning, 0 = off.
    """

    class_weight: float = 2.0
    mask_weight: float = 5.0
    dice_weight: float = 5.0
    background_class_weight: float = 0.1
    instance_semantic_weight: float = 2.0
    panoptic_semantic_weight: float = 2.0
    exemplar_mask_weight: float = 5.0
    exemplar_dice_weight: float = 5.0
    num_points: int = 12544
    num_points_semantic: int = 50176
    oversample_ratio: float = 3.0
    importance_ratio: float = 0.75
    interpolate_class_ids: bool = True
    panoptic_semantic: str = "sparse"
    bootstrap_ratio: float = 0.25
    suppress_absent_classes: bool = False
    logit_norm_weight: float = 0.0

    def __post_init__(self):
        problems = []
        if self.panoptic_semantic not in PANOPTIC_SEMANTIC:
            problems.append(f"panoptic_semantic is one of {PANOPTIC_SEMANTIC}, found {self.panoptic_semantic!r}")
        if self.num_points < 1 or self.num_points_semantic < 1:
            problems.append(
                f"num_points and num_points_semantic are >= 1, found {self.num_points} and {self.num_points_semantic}"
            )
        if self.oversample_ratio < 1:
            problems.append(f"oversample_ratio is >= 1, found {self.oversample_ratio}")
        for name in ("importance_ratio", "bootstrap_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} lies in 0..1, found {getattr(self, name)}")
        if problems:
            raise ValueError("LossConfig: " + "; ".join(problems))
