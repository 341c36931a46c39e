# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own classes
#
# The model of the [quickstart](../quickstart.md) knows circles, squares, triangles and crosses. Your lab sorts things
# differently: some are *round*, the others are *angular*. This notebook writes labeled videos, trains the model on
# them, scores it on videos that it has not seen, and saves it with its card.
#
# You need the model in `runs/quickstart`, or any other checkpoint. With the number of steps below, the training takes
# a few minutes on two CPU cores.

# %%
import os
import pathlib
import sys

root = next(folder for folder in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents) if (folder / "configs").is_dir())
os.chdir(root)
sys.path.insert(0, str(root))

checkpoint, num_steps = "runs/quickstart", 200
folder = pathlib.Path("out/own_classes")  # must not hold an earlier run

# %% [markdown]
# ## Labeled videos
#
# Put your own videos into a folder, in one of the [formats](../own_data.md#formats) that labeling tools export. Here
# they are drawn. The format is the simplest one: frames, PNGs of the same names in which a pixel has the id of its
# object, and `classes.json`, which says the class of each object.

# %%
import json

import cv2
import matplotlib.pyplot as plt

from input_pipeline.synthetic_scenes import THINGS, draw_video

videos = folder / "videos"
objects = {}
for seed in range(40):
    name = f"clip{seed:02d}"
    video = draw_video((11, seed), num_frames=8, height=64, width=96)
    for kind in ("frames", "masks"):
        (videos / kind / name).mkdir(parents=True)
    for t, (frame, ids) in enumerate(zip(video.frames, video.id_map, strict=True)):
        cv2.imwrite(str(videos / "frames" / name / f"{t:05d}.png"), frame[..., ::-1])  # OpenCV's order is BGR
        cv2.imwrite(str(videos / "masks" / name / f"{t:05d}.png"), ids)
    kinds = [THINGS[class_id - 1] for class_id in video.classes]
    objects[name] = {str(i): "round" if kind == "circle" else "angular" for i, kind in enumerate(kinds, start=1)}
(videos / "classes.json").write_text(json.dumps({"classes": ["round", "angular"], "objects": objects}))
print(f"{len(objects)} videos; the first one has {objects['clip00']}")

# %% [markdown]
# ## Train
#
# `configs/own.py` recognizes the format, keeps a fifth of the videos for validation, and takes the network of the
# checkpoint. Its classes are replaced by yours, and everything else goes on from what was learned. This is the same
# as the command
#
# `python main.py --config=configs/own.py:root=VIDEOS,steps=200,batch=4 --finetune_from=CHECKPOINT --workdir=RUN`

# %%
import main

run = folder / "run"
main.main(
    [
        f"--config=configs/own.py:root={videos},steps={num_steps},batch=4",
        "--config.optimizer.learning_rate=3e-4",
        "--config.train.tensorboard=False",
        f"--finetune_from={checkpoint}",
        f"--workdir={run}",
    ]
)

# %% [markdown]
# ## What was learned
#
# The loss of each step lies in `metrics.jsonl`, and the scores on the held-out videos in `scores.txt`. `report.html`
# shows both with pictures of the worst videos.

# %%
entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
curve = [(entry["step"], entry["loss"]) for entry in entries if "loss" in entry]
plt.figure(figsize=(6, 2.5))
plt.plot(*zip(*curve, strict=True))
plt.xlabel("step")
plt.ylabel("loss")
plt.tight_layout()
plt.show()
print((run / "scores.txt").read_text())

# %% [markdown]
# ## Use it
#
# The run is a checkpoint like any other. This clip was never part of the data.

# %%
import tarvis_jax
from tarvis_jax.visualize.overlay import draw_result

model = tarvis_jax.load(run)
clip = draw_video((12, 1), num_frames=8, height=64, width=96)
session = model.session(dataset="MINE", score_threshold=0.5, duplicate_iou=0.5)
for _ in session.run(clip.frames):
    pass
result = session.result()
names = dict(enumerate(model.datasets["MINE"].class_names, start=1))
figure, axes = plt.subplots(1, 4, figsize=(10.4, 2.2))
for axis, t in zip(axes, (0, 2, 5, 7), strict=True):
    axis.imshow(draw_result(clip.frames[t], result, t, class_names=names, scale=4))
    axis.set_title(f"frame {t}", fontsize=9)
    axis.axis("off")
figure.tight_layout()
plt.show()

# %% [markdown]
# ## Share it
#
# The folder has the weights, the architecture with the names of the classes, the report of the run, and a card:
# `README.md` says what the model is, on what it was trained and what was measured, for people and for the Hugging
# Face hub.

# %%
model.save_pretrained(folder / "round_or_angular", license="apache-2.0")
card = (folder / "round_or_angular/README.md").read_text()
print(card[card.index("## Tasks and classes") : card.index("## Settings")])

# %% [markdown]
# Next: correct what the model gets wrong in your labeling tool and train again ([your own videos](../own_data.md)),
# or let it follow objects while you label ([serving](../serving.md)).
