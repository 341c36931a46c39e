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
# # A first video
#
# One set of weights follows the object that you point at, and finds all objects of the classes that it knows. Here it
# does both on the same clip, in two sessions that share everything that was loaded and compiled.
#
# You need the model that the [quickstart](../quickstart.md) leaves in `runs/quickstart`, or any other checkpoint: put
# its path here.

# %%
import os
import pathlib
import sys

root = next(folder for folder in (pathlib.Path.cwd(), *pathlib.Path.cwd().parents) if (folder / "configs").is_dir())
os.chdir(root)
sys.path.insert(0, str(root))

checkpoint = "runs/quickstart"
output = pathlib.Path("out/first_video")

# %% [markdown]
# ## A clip
#
# The clip is drawn, so that the notebook needs no file: a cross moves over the ground, and a triangle comes in from
# above. A clip is any sequence of uint8 RGB arrays of one size. Sessions also take a folder of images, a video file,
# or the number of a camera.

# %%
import matplotlib.pyplot as plt
import numpy as np

from input_pipeline.synthetic_scenes import draw_video


def show(images, titles=None):
    """Images side by side."""
    figure, axes = plt.subplots(1, len(images), figsize=(2.6 * len(images), 2.2), squeeze=False)
    for axis, image, title in zip(axes[0], images, titles or [""] * len(images), strict=True):
        axis.imshow(image)
        axis.set_title(title, fontsize=9)
        axis.axis("off")
    figure.tight_layout()
    plt.show()


clip = draw_video((9, 1), num_frames=12, height=64, width=96)
frames, ids = clip.frames, clip.id_map  # uint8 [T, H, W, 3], and uint8 [T, H, W]: 1 on the cross, 2 on the triangle
shown = [0, 4, 8, 11]
titles = [f"frame {t}" for t in shown]
show(frames[shown], titles)

# %% [markdown]
# ## Follow what you point at
#
# A session segments one video. For the task `"pet"`, each target is given by a point (y, x) in one frame. The first
# use compiles the network; after that, a clip takes what the network takes.

# %%
import tarvis_jax

model = tarvis_jax.load(checkpoint)
point = tuple(np.argwhere(ids[0] == 1).mean(axis=0))
session = model.session("pet")
session.add_target(frame_index=0, id="cross", point_yx=point)
for result in session.run(frames):
    print(f"frame {result.frame}:", {each.id: int(each.mask.sum()) for each in result.objects}, "pixels")

# %% [markdown]
# The results came frame by frame, each as soon as no later clip could change it. Now the whole track is there. The
# cross is the point that was given, and nothing was said about the later frames.

# %%
from tarvis_jax.results.target import Target
from tarvis_jax.visualize.overlay import draw_result

video = session.result()
given = [Target(frame=0, id="cross", point_yx=point)]
show([draw_result(frames[t], video, t, targets=given, scale=4) for t in shown], titles)

# %% [markdown]
# The clip was drawn, so we know where the cross is. The overlap of found and true pixels, in each frame:


# %%
def overlap(found, true):
    """Intersection over union of two masks."""
    return (found & true).sum() / max((found | true).sum(), 1)


from tarvis_jax.masks import rle

(track,) = video.tracks
masks = [np.zeros(ids[0].shape, bool) if s is None else rle.decode(s) for s in track.segmentations]
print(" ".join(f"{overlap(mask, true == 1):.2f}" for mask, true in zip(masks, ids, strict=True)))

# %% [markdown]
# ## Find all objects of known classes
#
# The same weights, another task: `"vis"` finds the objects of a dataset's classes. Nothing is given. The triangle has
# a track from the frame on in which it comes in.

# %%
session = model.session("vis", "YOUTUBE_VIS", score_threshold=0.5, duplicate_iou=0.5)
for _ in session.run(frames):
    pass  # only the whole tracks are of interest here
found = session.result()
for each in found.tracks:
    print(f"{model.datasets['YOUTUBE_VIS'].class_names[each.class_id - 1]}: score {each.score:.2f}")
names = dict(enumerate(model.datasets["YOUTUBE_VIS"].class_names, start=1))
show([draw_result(frames[t], found, t, class_names=names, scale=4) for t in shown], titles)

# %% [markdown]
# ## Keep the results
#
# `write_tracks` writes masks as run-length encodings in JSON, and `write_video` a video of the overlays. [Result
# files](../results.md) has the formats of benchmarks and labeling tools.

# %%
from tarvis_jax.results.tracks import write_tracks
from tarvis_jax.visualize.video import write_video

output.mkdir(parents=True, exist_ok=True)
write_tracks(output / "tracks.json", video)
write_video(output / "cross.mp4", (draw_result(frame, video, t, scale=4) for t, frame in enumerate(frames)))
print(sorted(path.name for path in output.iterdir()))

# %% [markdown]
# Next: [your own classes](own_classes.py), [inside the network](inside_the_network.py), and [the Python
# interface](../api.md) for streams, targets that come and go, and settings.
