"""The quickstart's synthetic sets for VIS, VPS and PET, and real video for VOS: a run of minutes on one GPU.

    python main.py --config=configs/davis240.py:root=../shared/samples/davis240 --workdir=runs/davis240

`root` is a folder in DAVIS' official layout. Its videos are trained on and evaluated: the score shows fit, not
generalization.
"""

import os

import ml_collections

from configs import base, quickstart
from input_pipeline.config import reference_dataset
from tarvis_jax.config import to_config_dict, to_plain
from tarvis_jax.inference.config import InferenceConfig

HEIGHT, WIDTH = 192, 352


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: "root=<folder>,split=<name>,steps=<number>"."""
    options = base.parse_arg(arg, root="../shared/samples/davis240", split="val", steps="6000")
    config = quickstart.get_config(f"steps={options.steps}")
    root = os.path.abspath(options.root)  # relative paths of a dataset are relative to the workspace
    real = reference_dataset(
        "DAVIS",
        format="davis_official",
        train_images=root,
        train_annotations=options.split,
        eval_images=root,
        weight=0.4,
        min_dims=(HEIGHT,),
        max_dim=WIDTH,
        crop=(0.75, 0.75),
        frame_sampling_factor=4.0,
        buckets=((HEIGHT, WIDTH),),
    )
    others = tuple(d for d in config.data.datasets if d["name"] != "DAVIS")
    config.data.datasets = (*others, to_plain(real))
    config.model.temporal_window = 1
    config.train.eval_split = options.split
    config.train.demo_davis = ""
    config.inference.DAVIS = to_config_dict(InferenceConfig(clip_length=8, overlap=4, min_dim=HEIGHT, max_dim=WIDTH))
    return config
