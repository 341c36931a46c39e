"""The card of a shared model: README.md with what the Hugging Face hub and a reader want to know, and the run's report.

What the card says comes from the model itself and from the folder of its run. What neither tells is called so. Paths of
this machine do not get into it.
"""

import dataclasses
import html
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from tarvis_jax.config import to_plain
from tarvis_jax.dataset_info import DatasetInfo
from tarvis_jax.datasets import EXEMPLAR, INSTANCE, PANOPTIC
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.run_config import RANDOM_WEIGHTS, Config

CARD_FILE = "README.md"
REPORT_FILE = "report.html"
UNKNOWN_LICENSE = "unknown"
_EVALUATION = pathlib.PurePath("eval", "final")
_TASK_NAMES = {
    INSTANCE: "video instance segmentation (VIS)",
    PANOPTIC: "video panoptic segmentation (VPS)",
    EXEMPLAR: "objects given by a mask or a point (VOS, PET)",
}
_PATH = re.compile(r"""(?<=[\s"'(=>`])~?(/[^\s"'<>()/]+)+""")
_MOST_NAMES = 200  # classes of a dataset that the card lists


@dataclasses.dataclass(frozen=True)
class Run:
    """The training run that weights come from.

    Attributes:
      workdir: its folder.
      config: that of the checkpoint.
      step: of the checkpoint.
    """

    workdir: pathlib.Path
    config: Config
    step: int


def write_card(
    folder: str | pathlib.Path,
    config: ModelConfig,
    datasets: Mapping[str, DatasetInfo],
    *,
    run: Run | None = None,
    weights: str = "",
    license: str = UNKNOWN_LICENSE,
) -> pathlib.Path:
    """Writes README.md to the folder of a shared model, and `report.html` of its run.

    Args:
      folder: of the model; its last part is the name in the card.
      config: the architecture.
      datasets: what the model says of the datasets.
      run: where the weights come from; None: not from a run.
      weights: their fingerprint; scores of other weights do not get into the card.
      license: an identifier of the hub, such as "apache-2.0" or "cc-by-nc-4.0".

    Returns:
      The path of the card.

    Raises:
      ValueError: see `check_license`.
    """
    check_license(license)
    folder = pathlib.Path(folder)
    name = folder.absolute().name
    scores = {} if run is None else _scores(run, weights)
    has_report = run is not None and (run.workdir / REPORT_FILE).is_file()
    sections = [
        _introduction(name),
        _classes(config, datasets),
        _training_data(run),
        _how_measured(run, scores, has_report),
        _settings(config, datasets, run),
        _license(license),
    ]
    front = yaml.safe_dump(_front_matter(name, datasets, run, scores, license), sort_keys=False, allow_unicode=True)
    path = folder / CARD_FILE
    path.write_text(f"---\n{front}---\n\n" + "\n\n".join(sections) + "\n", encoding="utf-8")
    (folder / REPORT_FILE).unlink(missing_ok=True)  # of a model that was here before
    if has_report:
        text = (run.workdir / REPORT_FILE).read_text(encoding="utf-8")
        (folder / REPORT_FILE).write_text(_without_paths(text, run), encoding="utf-8")
    return path


def check_license(license: str) -> None:
    """Raises ValueError for what cannot be an identifier of a license."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{0,60}", license):
        raise ValueError(f"license: expected an identifier such as 'apache-2.0' or 'cc-by-4.0', found {license!r:.80}")


def _scores(run: Run, weights: str) -> dict[str, dict[str, Any]]:
    """By dataset what the run's evaluation says of these very weights: scores, numbers of videos, settings."""
    folder = run.workdir / _EVALUATION
    if not (folder / "scores.json").is_file():
        return {}
    found = {}
    for name, scores in json.loads((folder / "scores.json").read_text()).items():
        settings = folder / name / "settings.json"
        if "summary" not in scores or not settings.is_file():
            continue
        settings = json.loads(settings.read_text())
        if settings["weights"] == weights:
            found[name] = {key: scores[key] for key in ("summary", "num_videos", "num_frames")} | settings
    return found


def _front_matter(
    name: str, datasets: Mapping[str, DatasetInfo], run: Run | None, scores: Mapping[str, Any], license: str
) -> dict[str, Any]:
    """What the hub reads."""
    tags = ["tarvis", "jax", "flax", "video-segmentation"]
    tasks = {info.spec.task for info in datasets.values()}
    tags += [f"video-{task}-segmentation" for task in (INSTANCE, PANOPTIC) if task in tasks]
    tags += ["video-object-segmentation"] if EXEMPLAR in tasks else []
    front: dict[str, Any] = {
        "license": license,
        "library_name": "tarvis_jax",
        "pipeline_tag": "image-segmentation",
        "tags": tags,
    }
    made_up = run is not None and bool(run.config.synthetic.num_train)
    if run is not None and not made_up:
        front["datasets"] = [dataset.name for dataset in run.config.data.datasets]
    results = []
    for dataset, found in scores.items():
        task = datasets[dataset].spec.task
        results.append(
            {
                "task": {"type": "image-segmentation", "name": _TASK_NAMES[task]},
                "dataset": {
                    "name": f"made-up videos in the format of {dataset}" if made_up else dataset,
                    "type": "synthetic" if made_up else dataset,
                    "split": found["split"],
                },
                "metrics": [
                    {"name": metric, "type": metric, "value": round(100 * value, 2)}
                    for metric, value in _defined(found["summary"])
                ],
            }
        )
    if results:
        front["model-index"] = [{"name": name, "results": results}]
    return front


def _introduction(name: str) -> str:
    return f"""# {_text(name)}

A TarViS network ([Athar et al., CVPR 2023](https://arxiv.org/abs/2301.02657)) for `tarvis_jax`, in JAX. One set of
weights segments all objects of known classes in video, or objects that are given by masks or points.

```python
import tarvis_jax

model = tarvis_jax.from_pretrained({json.dumps(name)})  # this folder, or its id on the hub
session = model.session("vos")
session.add_target(frame_index=0, id="object", point_yx=(30, 40))
for result in session.run("frames/"):
    print(result.frame, [(each.id, each.mask.sum()) for each in result.objects])
```"""


def _classes(config: ModelConfig, datasets: Mapping[str, DatasetInfo]) -> str:
    lines = ["## Tasks and classes", "", "| dataset | task | classes |", "|---|---|---|"]
    for name, info in sorted(datasets.items()):
        lines.append(f"| {_text(name)} | {_TASK_NAMES[info.spec.task]} | {_class_names(info)} |")
    return "\n".join(lines)


def _class_names(info: DatasetInfo) -> str:
    spec = info.spec
    if spec.task == EXEMPLAR:
        return f"none: objects are given by a {spec.exemplar}"
    if not info.class_names:
        return f"{spec.num_classes}, names not known"

    def joined(indices: Iterator[int] | range) -> str:
        names = [_text(info.class_names[index]) for index in indices]
        more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
        return ", ".join(names[:_MOST_NAMES]) + more

    if spec.task == INSTANCE:
        return f"{spec.num_classes}: {joined(range(spec.num_classes))}"
    stuff = (index for index in range(spec.num_classes) if index not in spec.thing_classes)
    return f"{spec.num_classes}; things: {joined(iter(spec.thing_classes))}; stuff: {joined(stuff)}"


def _training_data(run: Run | None) -> str:
    if run is None:
        return "## Training data\n\nNot known: the model was not saved from the folder of a training run."
    lines = ["## Training data", ""]
    if run.config.synthetic.num_train:
        lines += [
            "Made-up videos of moving shapes, in the formats of the datasets below. None of the datasets' own videos "
            "were used.",
            "",
        ]
    total = sum(dataset.weight for dataset in run.config.data.datasets)
    lines += ["| dataset | task | share of the batches |", "|---|---|---|"]
    for dataset in run.config.data.datasets:
        share = 100 * dataset.weight / total if total else 0.0
        lines.append(f"| {_text(dataset.name)} | {_TASK_NAMES[dataset.spec.task]} | {share:.0f} % |")
    start = run.config.train.init_from
    origin = "random weights" if start in ("", RANDOM_WEIGHTS) else f"`{pathlib.PurePath(start).name}`"
    lines += ["", f"The training started from {origin}."]
    return "\n".join(lines)


def _how_measured(run: Run | None, scores: Mapping[str, Any], has_report: bool) -> str:
    lines = ["## Scores", ""]
    if not scores:
        reason = "the model was not saved from the folder of a training run"
        if run is not None:
            reason = "the folder of the run has no evaluation of these weights"
        return "\n".join([*lines, f"Not measured: {reason}."])
    lines += [f"In percent, on held-out videos, by the weights of step {run.step} of the run.", ""]
    for dataset, found in scores.items():
        metrics = _defined(found["summary"])
        lines += [
            f"**{_text(dataset)}**: split `{_text(found['split'])}`, {found['num_videos']} videos with "
            f"{found['num_frames']} frames, activations in {found['dtype']}, clips of "
            f"{found['inference']['clip_length']} frames that share {found['inference']['overlap']}.",
            "",
            "| " + " | ".join(metric for metric, _ in metrics) + " |",
            "|" + "---|" * len(metrics),
            "| " + " | ".join(f"{100 * value:.2f}" for _, value in metrics) + " |",
            "",
        ]
    missing = [dataset.name for dataset in run.config.data.datasets if dataset.name not in scores]
    if missing:
        lines += [f"Not measured: {', '.join(map(_text, missing))}.", ""]
    lines.append(
        "The measures are those of `tarvis_jax.evaluation`, whose numbers agree with the official toolkits; here they "
        "are applied to the frames that the network has seen."
    )
    if has_report:
        lines.append(f"[{REPORT_FILE}]({REPORT_FILE}) has the scores of each class and video, curves and pictures.")
    return "\n".join(lines)


def _settings(config: ModelConfig, datasets: Mapping[str, DatasetInfo], run: Run | None) -> str:
    lines = [
        "## Settings",
        "",
        f"Backbone {config.backbone}, {config.neck_layers} layers in the temporal neck, {config.decoder_layers} in the "
        f"decoder, {config.hidden_size} channels, {config.num_instance_queries} instance queries, activations in "
        f"{config.compute_dtype}. `config.json` has all of it.",
        "",
        "| dataset | clip | overlap | smaller side | largest side |",
        "|---|---|---|---|---|",
    ]
    for name, info in sorted(datasets.items()):
        each = info.inference
        side = "as it is" if each.min_dim is None else each.min_dim
        lines.append(f"| {_text(name)} | {each.clip_length} | {each.overlap} | {side} | {each.max_dim} |")
    if run is not None:
        data, optimizer = run.config.data, run.config.optimizer
        ema = f"moving average of the weights ({optimizer.ema_decay})" if optimizer.ema_decay else "no moving average"
        lines += [
            "",
            f"Trained for {run.step} of {run.config.train.num_steps} steps with batches of {data.batch_size} clips of "
            f"{data.clip_length} frames, AdamW with a learning rate of {optimizer.learning_rate:g} "
            f"({optimizer.schedule}) and a weight decay of {optimizer.weight_decay:g}, {ema}, seed "
            f"{run.config.train.seed}.",
        ]
    return "\n".join(lines)


def _license(license: str) -> str:
    said = f"The license of the weights is `{license}`."
    if license == UNKNOWN_LICENSE:
        said = "Who shared these weights has not stated a license for them."
    return f"## License\n\n{said} The code of `tarvis_jax` is under Apache-2.0. The training data has terms of its own."


def _defined(summary: Mapping[str, float]) -> list[tuple[str, float]]:
    """Scores that have a value, fractions; -1 says that there was nothing to score."""
    return [(metric, value) for metric, value in summary.items() if value != -1]


def _without_paths(text: str, run: Run) -> str:
    """A report that has of every absolute path, of the run's config and in messages, the last part alone."""
    paths = {value for value in _strings(to_plain(run.config)) if value.startswith(("/", "~")) or "://" in value}
    for path in sorted({str(run.workdir.absolute()), *paths}, key=len, reverse=True):
        text = text.replace(html.escape(path), html.escape(pathlib.PurePath(path).name))
    parts = re.split(r'("data:[^"]*")', text)  # pictures, in which anything may look like a path
    parts[::2] = [_PATH.sub(lambda found: pathlib.PurePath(found[0]).name, part) for part in parts[::2]]
    return "".join(parts)


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _strings(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _strings(each)


def _text(value: str) -> str:
    """A user's name as text of a Markdown table: nothing in it is markup or ends the cell."""
    return re.sub(r"([\\`*_{}\[\]()<>#|~])", r"\\\1", re.sub(r"\s+", " ", value)) if not value.isidentifier() else value
