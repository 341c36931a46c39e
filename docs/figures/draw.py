"""Draws docs/figures/network and docs/figures/data_flow, each as .svg and .png; needs matplotlib.

python docs/figures/draw.py
"""

import pathlib

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.patches import FancyBboxPatch  # noqa: E402

FOLDER = pathlib.Path(__file__).parent
UNITS_PER_INCH = 10
LINE = 1.75  # height of a line of text, in units

INK, FAINT = "#1d2733", "#5b6875"
DATA, NETWORK, QUERIES, RESULT = "#e8eef5", "#fde8cf", "#dff0df", "#f3e3f2"

Point = tuple[float, float]


def canvas(width: float, height: float) -> tuple[plt.Figure, Axes]:
    """An empty picture of `width` x `height` units, the origin at the lower left."""
    figure = plt.figure(figsize=(width / UNITS_PER_INCH, height / UNITS_PER_INCH), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, width)
    axes.set_ylim(0, height)
    axes.axis("off")
    return figure, axes


def box(axes: Axes, left: float, bottom: float, width: float, height: float, title: str, text: str, color: str) -> None:
    """A box with a bold title and lines of text below it, centered as one block."""
    axes.add_patch(
        FancyBboxPatch(
            (left, bottom),
            width,
            height,
            boxstyle="round,pad=0,rounding_size=0.8",
            facecolor=color,
            edgecolor=INK,
            lw=0.9,
        )
    )
    lines = text.split("\n") if text else []
    middle = left + width / 2
    top = bottom + height / 2 + LINE * len(lines) / 2
    axes.text(middle, top, title, ha="center", va="center", fontsize=9.5, fontweight="bold", color=INK)
    for number, line in enumerate(lines, start=1):
        axes.text(middle, top - LINE * number, line, ha="center", va="center", fontsize=8, color=INK)


def arrow(axes: Axes, *corners: Point, dashed: bool = False) -> None:
    """A line along `corners` with an arrow head at the last one."""
    style = {"color": INK, "lw": 1.3, "linestyle": "--" if dashed else "-"}
    x, y = zip(*corners[:-1], strict=True)
    axes.plot(x, y, solid_joinstyle="miter", **style)
    head = {"arrowstyle": "-|>", "shrinkA": 0, "shrinkB": 0, "mutation_scale": 11, **style}
    axes.annotate("", xy=corners[-1], xytext=corners[-2], arrowprops=head)


def label(
    axes: Axes, x: float, y: float, text: str, align: str = "center", size: float = 7.5, color: str = INK
) -> None:
    """Text beside an arrow; `x` is its middle, or its left or right edge by `align`."""
    axes.text(x, y, text, ha=align, va="center", fontsize=size, color=color, linespacing=1.25)


def heading(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(x, y, text, ha="left", va="center", fontsize=9.5, color=FAINT, style="italic")


def draw_network() -> plt.Figure:
    """From pixels and a query set to masks and classes: tarvis_jax/model/."""
    figure, axes = canvas(126, 74)

    heading(axes, 1, 72, "The video, the same for every task")
    box(axes, 1, 52, 15, 14, "Clip", "T frames,\nRGB 0..255", DATA)
    box(axes, 28, 52, 18, 14, "Backbone", "ResNet, Swin or\nConvNeXt;\neach frame alone", NETWORK)
    box(axes, 60, 47, 28, 23, "", "", NETWORK)
    axes.text(74, 67.8, "Temporal neck", ha="center", va="center", fontsize=9.5, fontweight="bold", color=INK)
    box(axes, 62, 60, 24, 5.6, "Deformable attention", "one frame: all its scales", "white")
    box(axes, 62, 53, 24, 5.6, "Temporal attention", "one patch: frames and scales", "white")
    label(axes, 74, 51.4, "6 times over strides 32, 16 and 8;")
    label(axes, 74, 49.4, "then one step up to stride 4")
    box(
        axes,
        101,
        50,
        24,
        18,
        "Feature pyramid",
        "\n".join(f"stride {stride}  [B,T,H/{stride},W/{stride},C]" for stride in (32, 16, 8, 4)),
        DATA,
    )
    arrow(axes, (16, 59), (28, 59))
    label(axes, 22, 61.2, "[B,T,H,W,3]")
    arrow(axes, (46, 59), (60, 59))
    label(axes, 53, 62.2, "strides 4, 8,\n16 and 32")
    label(axes, 53, 56.8, "[B,T,h,w,D]")
    arrow(axes, (88, 59), (101, 59))
    label(axes, 94.5, 61.2, "C channels")

    heading(axes, 1, 43.5, "What to segment, different for every task")
    box(axes, 1, 27, 21, 12, "Given targets", "VOS: masks [B,N,T,H,W]\nPET: points [B,N,2]", DATA)
    box(axes, 31, 27, 21, 12, "Object encoder", "4 layers; each query looks\nat its own object's features", NETWORK)
    box(axes, 1, 7.5, 21, 13, "Learned tables", "VIS, VPS: instance,\nbackground and\nthe dataset's K classes", NETWORK)
    box(
        axes,
        62,
        9,
        21,
        25,
        "Query set",
        "[B,Q,C], in groups:\n\nVIS and VPS\ninstance, background,\nsemantic (a class each)\n\n"
        "VOS and PET\nbackground_vos,\nvos (q for each object)",
        QUERIES,
    )
    arrow(axes, (22, 33), (31, 33))
    arrow(axes, (52, 30.5), (62, 30.5))
    label(axes, 57, 33.6, "[B,G,C] and\n[B,N,q,C]")
    arrow(axes, (22, 13), (62, 13))
    label(axes, 42, 14.8, "class queries [B,Q,C]")
    arrow(axes, (107, 50), (107, 44), (41.5, 44), (41.5, 39))
    label(axes, 72, 45.4, "features of the frames in which the targets are given")

    box(axes, 95, 15, 30, 23, "", "", NETWORK)
    axes.text(110, 35.8, "Query decoder", ha="center", va="center", fontsize=9.5, fontweight="bold", color=INK)
    box(axes, 97, 28.2, 26, 5.4, "Masked cross-attention", "to stride 32, 16, 8 in turn", "white")
    box(axes, 97, 22.2, 26, 5.4, "Self-attention, then FFN", "among the queries", "white")
    label(axes, 110, 20.2, "9 times; heads before each and after the last:")
    label(axes, 110, 18.2, "masks = queries times the stride-4 map")
    arrow(axes, (83, 26.5), (95, 26.5))
    label(axes, 89, 28.5, "[B,Q,C]")
    arrow(axes, (118, 50), (118, 38))
    label(axes, 117.4, 41, "all strides", "right")

    box(axes, 62, 1, 63, 5.6, "", "", RESULT)
    arrow(axes, (110, 15), (110, 6.6))
    label(axes, 111, 11.9, "mask_logits", "left")
    label(axes, 111, 9.2, "class_logits", "left")
    label(axes, 109, 11.9, "[L,B,Q,T,H/4,W/4]", "right")
    label(axes, 109, 9.2, "[L,B,Q_instance,1+K]", "right")
    axes.text(
        93.5,
        4.7,
        "VIS: masks and classes of the instance queries.  VPS: and a class for every pixel.",
        ha="center",
        va="center",
        fontsize=7.5,
        color=INK,
    )
    axes.text(
        93.5,
        2.8,
        "VOS, PET: an object's mask is the maximum over its queries; ids are the caller's.",
        ha="center",
        va="center",
        fontsize=7.5,
        color=INK,
    )
    label(
        axes,
        1,
        2.9,
        "B batch, T frames, H W pixels, C channels (D: the backbone's),\n"
        "Q queries, G of the background grid, N targets with q each,\n"
        "K classes, L predictions (1 in inference);\nnumbers of layers: the released models",
        "left",
        7,
        FAINT,
    )
    return figure


def draw_data_flow() -> plt.Figure:
    """From files to a training step, and from a video to results: input_pipeline/, train/, inference/, results/."""
    figure, axes = canvas(126, 98)

    heading(axes, 1, 94, "Training: from files to a step")
    box(
        axes, 53.5, 88.5, 46, 8, "Mixture", "(seed, step): which dataset, size and videos; the same on every host", DATA
    )
    box(axes, 1, 70, 20, 13, "Dataset files", "official formats:\nJSON, JPEG, PNG", DATA)
    box(axes, 27.25, 70, 20, 13, "Records", "VideoRecord: paths, sizes,\ninstances, encoded masks", DATA)
    box(axes, 53.5, 70, 20, 13, "Clips", "T frames with masks,\nresized, flipped,\ncropped, recolored", DATA)
    box(axes, 79.75, 70, 20, 13, "Samples", "padded to a bucket:\nimages [T,H,W,3]\nmasks [N,T,H,W]", DATA)
    box(axes, 105, 70, 20, 13, "Batches", "images [B,T,H,W,3]\nmasks [B,N,T,H,W]\nclasses [B,N], ...", DATA)
    for left, text in ((21, "read"), (47.25, "load"), (73.5, "pad"), (99.75, "stack")):
        right = left + (5.25 if text == "stack" else 6.25)
        arrow(axes, (left, 76.5), (right, 76.5))
        label(axes, (left + right) / 2, 78, text)
    arrow(axes, (63.5, 88.5), (63.5, 83))

    box(
        axes,
        85,
        52,
        40,
        12,
        "Gradients",
        "[A,B/A,...]: A microbatches in turn, each split over\nthe devices; one compiled program for every\n"
        "objective and batch shape",
        NETWORK,
    )
    box(
        axes, 53.5, 52, 20, 12, "Update", "AdamW and the moving\naverage of the weights;\none compiled program", NETWORK
    )
    box(axes, 27.25, 52, 20, 12, "Training state", "parameters, frozen\nvariables, optimizer,\naverage, step", NETWORK)
    box(axes, 1, 52, 20, 12, "Workdir", "checkpoints/, config.json,\nmetrics.jsonl, pictures", RESULT)
    arrow(axes, (115, 70), (115, 64))
    label(axes, 114, 67, "put_batch", "right")
    arrow(axes, (85, 58), (73.5, 58))
    label(axes, 79.25, 59.5, "gradients, loss")
    arrow(axes, (53.5, 58), (47.25, 58))
    arrow(axes, (27.25, 58), (21, 58))
    label(axes, 24.1, 59.5, "save")
    arrow(axes, (37.25, 52), (37.25, 48.5), (105, 48.5), (105, 52))
    label(axes, 71, 49.8, "parameters for the next step")

    heading(axes, 1, 41.5, "Inference: from a video")
    heading(axes, 1, 39.3, "to results and scores")
    box(axes, 27.25, 16, 72.5, 28, "", "", "#f6f7f9")
    label(axes, 29, 41.9, "Session", "left", 9.5)
    box(axes, 1, 27, 20, 10, "Video", "folder, video file, arrays;\nread as it is needed", DATA)
    box(axes, 1, 17, 20, 7, "Given targets", "masks, points (VOS, PET)", DATA)
    box(axes, 29, 27, 18, 10, "Clips", "frames that overlap,\nresized and padded", DATA)
    box(axes, 54, 27, 20, 10, "Predictor", "compiled: features of a\nclip, then the decoder", NETWORK)
    box(axes, 81, 27, 17, 10, "Stitcher", "joins tracks; mean\nlogits in the overlap", DATA)
    box(axes, 54, 17, 20, 5.6, "Targets of a clip", "", QUERIES)
    box(axes, 105, 27, 20, 10, "FrameResult", "ids, masks (RLE), classes;\nas soon as it is final", RESULT)
    arrow(axes, (21, 32), (29, 32))
    arrow(axes, (47, 32), (54, 32))
    label(axes, 50.5, 34.2, "[T,H,W,3]", size=6.5)
    arrow(axes, (74, 32), (81, 32))
    label(axes, 77.5, 33.5, "logits", size=7)
    arrow(axes, (98, 32), (105, 32))
    arrow(axes, (21, 19.8), (54, 19.8))
    arrow(axes, (60, 22.6), (60, 27))
    label(axes, 59.3, 24.8, "masks, points", "right")
    arrow(axes, (68, 27), (68, 22.6), dashed=True)
    label(axes, 68.7, 24.8, "masks of the overlap,\nfor the next clip", "left")
    arrow(axes, (11, 52), (11, 46.2), (64, 46.2), (64, 37))
    label(axes, 20, 47.4, "tarvis_jax.load")

    box(axes, 27.25, 1, 20, 10, "Ground truth", "the records of\nheld-out videos", DATA)
    box(axes, 54, 1, 20, 10, "Evaluation", "J&F, AP, PQ, STQ:\nscores.txt", RESULT)
    box(axes, 81, 1, 17, 10, "VideoResult", "whole tracks", RESULT)
    box(axes, 105, 1, 20, 10, "Result files", "tracks.json, benchmark\nformats, overlay videos", RESULT)
    arrow(axes, (115, 27), (115, 13.5), (89.5, 13.5), (89.5, 11))
    label(axes, 114, 21.5, "session.result()", "right")
    arrow(axes, (98, 6), (105, 6))
    arrow(axes, (81, 6), (74, 6))
    arrow(axes, (47.25, 6), (54, 6))
    label(
        axes,
        1,
        6,
        "B batch, T frames, H W pixels,\nN target slots, A microbatches,\nRLE run-length encoding",
        "left",
        7,
        FAINT,
    )
    return figure


def main() -> None:
    """Writes all pictures; the same matplotlib writes the same bytes."""
    matplotlib.rcParams["svg.hashsalt"] = "tarvis_jax"
    for name, draw in (("network", draw_network), ("data_flow", draw_data_flow)):
        figure = draw()
        figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
        figure.savefig(FOLDER / f"{name}.png", dpi=110)
        plt.close(figure)


if __name__ == "__main__":
    main()
