"""A small network on real video for VOS, and on the quickstart's synthetic videos for VIS, VPS and PET.

    python main.py --config=configs/davis240.py:root=DAVIS --workdir=runs/davis240

`root` is a folder in DAVIS's official layout (JPEGImages/480p, Annotations/480p, ImageSets/2017), which you provide.
Its default is a folder of samples beside the repository, which a clone does not contain. `split` is the list of videos
that are taken. They are trained on and evaluated, so the score of DAVIS says how well the network fits them and not how
well it generalizes. Network and recipe are those of configs/quickstart.py, with frames of 192x352 pixels, 6000 steps,
batches of 4 clips of 3 frames, more layers and more queries. It is meant for one GPU; how long it takes has not been
measured.
"""

import os

import ml_collections

from configs import base, quickstart
from input_pipeline.config import dataset_config
from tarvis_jax.config import to_config_dict, to_plain
from tarvis_jax.inference.config import InferenceConfig

HEIGHT, WIDTH = 192, 352


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    """`arg`: "root=<folder>,split=<name>,steps=<number>"."""
    options = base.parse_arg(arg, root="../shared/samples/davis240", split="val", steps="6000")
    config = quickstart.get_config(f"steps={options.steps}")
    root = os.path.abspath(options.root)  # relative paths of a dataset are relative to the workspace
    real = dataset_config(
        "DAVIS",
        reader="davis_official",
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
    config.data.batch_size = 4
    config.data.clip_length = 3
    config.optimizer.learning_rate = 1.2e-3
    config.model.decoder_layers = 3
    config.model.decoder_strides = (16, 8, 8)
    config.model.object_encoder_layers = 2
    config.model.num_queries_per_object = 4
    config.train.eval_split = options.split
    config.inference.DAVIS = to_config_dict(InferenceConfig(clip_length=8, overlap=4, min_dim=HEIGHT, max_dim=WIDTH))
    return config
