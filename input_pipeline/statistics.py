"""What the clips of a training mixture look like: sizes, padding, targets, distances of frames.

    python -m input_pipeline.statistics --config=configs/finetune.py --samples=200 --out=clips.json
    python -m input_pipeline.statistics --rows=clips.json --beside=reference.json      # a table of both

The first form reads the data of the workspace (TARVIS_WORKSPACE_DIR) and loads clips as training does, up to padding.
Every clip is a row of the file; `tests/tools/reference_clips.py` writes such rows of the PyTorch original's loaders.
"""

import argparse
import collections
import dataclasses
import json
import os
import pathlib
import runpy
from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from input_pipeline import mixture, samples
from input_pipeline.batches import read_videos
from input_pipeline.config import DataConfig
from input_pipeline.images import VOID
from tarvis_jax import command_line
from tarvis_jax.config import from_mapping

_MOST_CLIPS = 10**6


@dataclasses.dataclass(frozen=True)
class ClipRow:
    """One clip.

    Attributes:
      dataset: its name.
      size: height and width before padding, in pixels.
      padded: the same after padding.
      cropped: whether it is a crop.
      targets: number of instances.
      frames: their indices in the video, the reference frame of an exemplar clip first.
      covered: share of the picture that instances cover.
      ignored: share of the picture that is of no class (panoptic datasets), else None.
    """

    dataset: str
    size: tuple[int, int]
    padded: tuple[int, int]
    cropped: bool
    targets: int
    frames: tuple[int, ...]
    covered: float
    ignored: float | None = None


def clip_rows(config: DataConfig, count: int) -> Iterator[ClipRow]:
    """`count` clips of each dataset with weight, drawn as training draws them.

    Raises:
      ValueError: as `train_batches`.
    """
    videos = read_videos(config)
    for index, dataset in enumerate(config.datasets):
        if not dataset.weight:
            continue
        # Every clip is a chunk of its own, so that few clips show all pools.
        alone = [dataclasses.replace(other, weight=float(other is dataset)) for other in config.datasets]
        single = dataclasses.replace(config, datasets=tuple(alone), batch_size=1, chunk_steps=1)
        plans, loader = mixture.Mixture(single, videos), samples.SampleLoader(single, videos)
        for step in range(count):
            plan = plans.plan(step)
            drawn = loader.draw(plan, 0)
            semantic = drawn.clip.semantic
            yield ClipRow(
                dataset=config.datasets[index].name,
                size=drawn.clip.size,
                padded=plan.bucket,
                cropped=drawn.cropped,
                targets=len(drawn.classes),
                frames=drawn.choice.frames,
                covered=float(drawn.clip.masks.to_bool().any(0).mean()),
                ignored=None if semantic is None else float((semantic == VOID).mean()),
            )


def summaries(rows: Iterable[ClipRow]) -> dict[str, dict[str, float | int | str]]:
    """Dataset -> what its clips are like on average; shares in percent.

    `picture` is the share of the padded clip that is no padding, `step` the mean distance of frames that follow each
    other in a clip and `span` the largest distance of two frames.
    """
    by_dataset: dict[str, list[ClipRow]] = collections.defaultdict(list)
    for row in rows:
        by_dataset[row.dataset].append(row)
    result = {}
    for name, members in by_dataset.items():
        pictures = [np.prod(row.size) / np.prod(row.padded) for row in members]
        gaps = [np.diff(sorted(row.frames)) for row in members]
        ignored = [row.ignored for row in members if row.ignored is not None]
        common = collections.Counter(row.size for row in members).most_common(3)
        result[name] = {
            "clips": len(members),
            "sizes": ", ".join(f"{height}x{width}" for (height, width), _ in common),
            "padded_sizes": len({row.padded for row in members}),
            "picture": 100 * float(np.mean(pictures)),
            "least_picture": 100 * float(np.min(pictures)),
            "cropped": 100 * float(np.mean([row.cropped for row in members])),
            "targets": float(np.mean([row.targets for row in members])),
            "most_targets": max(row.targets for row in members),
            "step": float(np.mean(np.concatenate(gaps))),
            "span": float(max(gap.sum() for gap in gaps)),
            "covered": 100 * float(np.mean([row.covered for row in members])),
            **({"ignored": 100 * float(np.mean(ignored))} if ignored else {}),
        }
    return result


def table(ours: Mapping[str, Mapping], theirs: Mapping[str, Mapping] | None = None) -> str:
    """`summaries` as a Markdown table; with `theirs`, those of the original follow ours in every cell after a slash."""
    keys = ("sizes", "padded_sizes", "picture", "cropped", "targets", "most_targets", "step", "span", "covered")
    keys += ("ignored",)

    def cell(summary: Mapping, key: str) -> str:
        value = summary.get(key, "")
        return f"{value:.1f}" if isinstance(value, float) else str(value)

    lines = ["| dataset | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for name in ours:
        pair = [ours[name], *([theirs[name]] if theirs and name in theirs else [])]
        cells = [" / ".join(cell(summary, key) for summary in pair) for key in keys]
        lines.append(f"| {name} | " + " | ".join(cell.strip(" /") for cell in cells) + " |")
    return "\n".join(lines)


def read_rows(path: str) -> list[ClipRow]:
    """Rows of a file that `main` or `tests/tools/reference_clips.py` wrote; a ValueError for another file."""
    try:
        rows = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        sizes = ("size", "padded", "frames")
        return [ClipRow(**{key: tuple(row[key]) if key in sizes else row[key] for key in row}) for row in rows]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path}: expected rows of clips ({type(error).__name__}: {error})") from None


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="file.py or file.py:argument; its section data is used")
    parser.add_argument("--workspace", help="folder of the data; the config's, or TARVIS_WORKSPACE_DIR, unless given")
    parser.add_argument("--datasets", help="comma-separated names; all of the config unless given")
    parser.add_argument("--samples", type=int, default=200, help="clips of each dataset")
    parser.add_argument("--out", help="JSON file to write the rows to")
    parser.add_argument("--rows", help="such a file to print, instead of --config")
    parser.add_argument("--beside", help="another such file to print beside it")
    options = parser.parse_args(arguments)
    if (options.config is None) == (options.rows is None):
        raise ValueError("expected either --config or --rows")
    if not 1 <= options.samples <= _MOST_CLIPS:
        raise ValueError(f"--samples: expected 1..{_MOST_CLIPS}, found {options.samples}")
    if options.rows:
        rows = read_rows(options.rows)
    else:
        config = _data_config(options.config, options.datasets)
        workspace = options.workspace or config.workspace or os.environ.get("TARVIS_WORKSPACE_DIR", "")
        rows = list(clip_rows(dataclasses.replace(config, workspace=workspace), options.samples))
    if options.out:
        pathlib.Path(options.out).write_text(json.dumps([dataclasses.asdict(row) for row in rows]), encoding="utf-8")
    print(table(summaries(rows), summaries(read_rows(options.beside)) if options.beside else None))


def _data_config(config: str, names: str | None) -> DataConfig:
    file, _, argument = config.partition(":")
    data = from_mapping(DataConfig, runpy.run_path(file)["get_config"](argument)["data"])
    if names is None:
        return data
    wanted, known = names.split(","), [dataset.name for dataset in data.datasets]
    unknown = sorted(set(wanted) - set(known))
    if unknown:
        raise ValueError(f"--datasets: {unknown} are not in the config; it has {known}")
    return dataclasses.replace(data, datasets=tuple(d for d in data.datasets if d.name in wanted))


if __name__ == "__main__":
    command_line.run_and_exit(main)
