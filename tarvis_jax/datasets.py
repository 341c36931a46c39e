"""The datasets by name: which task each serves and how many classes it has.

One table that imports nothing of the network, so that the input pipeline, the model, the losses and inference agree on
names. Configs may override the numbers (the synthetic sets of the quickstart have fewer classes).
"""

import dataclasses
from typing import Annotated

from tarvis_jax.fields import Length, OneOf, Range, check_fields, raise_problems, shown

INSTANCE = "instance"  # Video Instance Segmentation (VIS)
PANOPTIC = "panoptic"  # Video Panoptic Segmentation (VPS)
EXEMPLAR = "exemplar"  # targets given by example: masks (VOS) or points (PET)
TASKS = (INSTANCE, PANOPTIC, EXEMPLAR)
EXEMPLAR_KINDS = ("mask", "point")


@dataclasses.dataclass(frozen=True)
class DatasetSpec:
    """What the network and the losses must know of a dataset.

    Attributes:
      task: one of TASKS.
      num_classes: K; class ids are 1..K in instance targets, 0..K-1 in semantic maps; 0 for exemplar datasets.
      thing_classes: panoptic only: ids (0..K-1, as in semantic maps) of classes with instances.
      exemplar: exemplar only: "mask" or "point", what its benchmark gives for a target.
    """

    task: Annotated[str, OneOf(TASKS)]
    num_classes: Annotated[int, Range(0, 65_535)] = 0
    thing_classes: Annotated[tuple[Annotated[int, Range(0, 65_534)], ...], Length(0, 65_535)] = ()
    exemplar: Annotated[str, OneOf(EXEMPLAR_KINDS)] = "mask"

    def __post_init__(self) -> None:
        check_fields(self)
        problems = []
        if (self.num_classes > 0) == (self.task == EXEMPLAR):
            problems.append(
                f"num_classes: expected 0 for exemplar datasets and at least 1 for others, found {self.num_classes}"
            )
        absent = [c for c in self.thing_classes if c >= self.num_classes]
        if absent:
            problems.append(f"thing_classes: expected ids 0..{self.num_classes - 1}, found {shown(absent)}")
        if len(set(self.thing_classes)) != len(self.thing_classes):
            problems.append(f"thing_classes: each id may occur once, found {shown(self.thing_classes)}")
        raise_problems(problems)


# fmt: off
_VIPSEG_THINGS = (
    2, 4, 8, 10, 41, 43, 44, 46, 47, 48, 49, 50, 51, 52, 54, 55, 56, 60, 61, 62, 63, 64, 65, 72, 74, 76, 77, 78, 79, 82,
    83, 84, 85, 86, 87, 88, 89, 90, 91, 92, 95, 96, 97, 99, 100, 101, 102, 106, 107, 108, 109, 114, 115, 116, 117, 118,
    122, 123,
)
# fmt: on

DATASETS: dict[str, DatasetSpec] = {
    # Images, used as augmented clips for pretraining.
    "ADE20K": DatasetSpec(PANOPTIC, 150),
    "CITYSCAPES": DatasetSpec(PANOPTIC, 34),
    "COCO": DatasetSpec(PANOPTIC, 133),
    "MAPILLARY": DatasetSpec(PANOPTIC, 65),
    # Videos.
    "YOUTUBE_VIS": DatasetSpec(INSTANCE, 40),
    "OVIS": DatasetSpec(INSTANCE, 25),
    "KITTI_STEP": DatasetSpec(PANOPTIC, 19, thing_classes=(11, 13)),
    "CITYSCAPES_VPS": DatasetSpec(PANOPTIC, 19, thing_classes=(11, 12, 13, 14, 15, 16, 17, 18)),
    "VIPSEG": DatasetSpec(PANOPTIC, 124, thing_classes=_VIPSEG_THINGS),
    "DAVIS": DatasetSpec(EXEMPLAR, exemplar="mask"),
    "BURST": DatasetSpec(EXEMPLAR, exemplar="point"),
}
