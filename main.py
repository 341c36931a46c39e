"""Trains, evaluates, runs or exports TarViS.

python main.py --config=configs/quickstart.py --workdir=runs/quickstart
python main.py --mode=eval --workdir=runs/quickstart
python main.py --mode=infer --checkpoint=runs/quickstart --dataset=YOUTUBE_VIS --input=clip.mp4 --output=out
python main.py --mode=export --checkpoint=runs/quickstart --export_clip=12,64,128 --output=exported
python main.py --mode=record --config=configs/quickstart.py --workdir=runs/record --output=batches.npz
"""

import pathlib
import runpy
import sys
from logging import INFO

from absl import app, flags, logging
from ml_collections import config_flags

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file (file.py:argument).")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, results.")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "infer", "export", "record"], "What to do.")
_FINETUNE_FROM = flags.DEFINE_string(
    "finetune_from", None, "train: folder of a pretraining run: start from its newest weights, with its architecture."
)
_RESTORE_WEIGHTS = flags.DEFINE_string("restore_weights", None, "train: start from these weights (workdir or .pth).")
_RESTORE_SESSION = flags.DEFINE_string(
    "restore_session", None, "train: workdir of an interrupted run to go on with, by its own config."
)
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "infer, export: a workdir, a reference checkpoint (.pth), a shared model or its id on the hub."
)
_INPUT = flags.DEFINE_string("input", None, "infer: a folder of frames or a video file.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for results (infer) or the export; record: the file.")
_RECORD_STEPS = flags.DEFINE_integer(
    "record_steps", None, "record: how many batches (default: config.train.num_steps)."
)
_DATASET = flags.DEFINE_string("dataset", None, "infer: whose classes (or, for given targets, whose settings) to use.")
_TARGETS = flags.DEFINE_string("targets", None, "infer: JSON with masks or points of the targets to follow.")
_EXPORT_CLIP = flags.DEFINE_list("export_clip", ["12", "448", "832"], "export: frames, height and width of a clip.")
_EXPORT_OBJECTS = flags.DEFINE_integer("export_objects", 4, "export: slots for given objects; 0: no VOS and PET.")
_EXPORT_DATASETS = flags.DEFINE_list("export_datasets", [], "export: whose classes; empty: all that the model has.")
_EXPORT_PLATFORMS = flags.DEFINE_list("export_platforms", ["cpu", "cuda", "tpu"], "export: platforms to lower for.")
_EXPORT_BACKEND = flags.DEFINE_string(
    "export_backend", "xla", "export: deformable attention; xla runs everywhere, auto takes each platform's kernels."
)


def main(argv: list[str]) -> None:
    """Dispatches on --mode."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments: {argv[1:]}")
    logging.set_verbosity(logging.INFO)
    # The checkpoint library tells every step it takes; its warnings and errors stay.
    logging.get_absl_logger().addFilter(
        lambda record: record.levelno > INFO or "orbax" not in pathlib.Path(record.pathname).parts
    )
    if _MODE.value == "train":
        _train()
    elif _MODE.value == "eval":
        _require("workdir")
        from tarvis_jax.evaluate import evaluate_workdir

        evaluate_workdir(_WORKDIR.value)
    elif _MODE.value == "record":
        _require("config", "workdir", "output")
        from tarvis_jax.config import from_mapping
        from tarvis_jax.train.config import Config
        from tarvis_jax.train.record import record

        config = from_mapping(Config, _CONFIG.value)
        record(config, _WORKDIR.value, _OUTPUT.value, _RECORD_STEPS.value or config.train.num_steps)
    elif _MODE.value == "export":
        _export()
    else:
        _require("checkpoint", "input", "output", "dataset")
        from tarvis_jax.infer import segment_input

        segment_input(
            checkpoint=_CHECKPOINT.value,
            input_path=_INPUT.value,
            output=_OUTPUT.value,
            dataset=_DATASET.value,
            targets=_TARGETS.value,
        )


def _train() -> None:
    """Trains; the flags say from where."""
    sources = [flag for flag in (_FINETUNE_FROM, _RESTORE_WEIGHTS, _RESTORE_SESSION) if flag.value is not None]
    if len(sources) > 1:
        raise app.UsageError("give one of " + ", ".join(f"--{flag.name}" for flag in sources))
    if _RESTORE_SESSION.value is not None:
        if _CONFIG.value is not None or _WORKDIR.value is not None:
            raise app.UsageError("--restore_session takes config and workdir of the run it names; give neither")
    else:
        _require("config", "workdir")
    from tarvis_jax.config import from_mapping
    from tarvis_jax.train import starting_points
    from tarvis_jax.train.config import Config
    from tarvis_jax.train.loop import train

    if _RESTORE_SESSION.value is not None:
        train(starting_points.saved_session(_RESTORE_SESSION.value), _RESTORE_SESSION.value)
        return
    config = from_mapping(Config, _CONFIG.value)
    if _FINETUNE_FROM.value is not None:
        config = starting_points.finetuning(config, _FINETUNE_FROM.value)
    elif _RESTORE_WEIGHTS.value is not None:
        config = starting_points.with_weights(config, _RESTORE_WEIGHTS.value)
    train(config, _WORKDIR.value)


def _export() -> None:
    _require("output")
    if (_CHECKPOINT.value is None) == (_CONFIG.value is None):
        raise app.UsageError("--mode=export needs --checkpoint, or --config for its architecture with random weights")
    from tarvis_jax import api, export

    try:
        length, height, width = map(int, _EXPORT_CLIP.value)
    except ValueError:
        raise app.UsageError(f"--export_clip: expected frames,height,width, found {_EXPORT_CLIP.value}") from None
    if _CHECKPOINT.value is not None:
        model = api.load(_CHECKPOINT.value)
    else:
        from tarvis_jax.config import from_mapping
        from tarvis_jax.train.config import Config

        config = from_mapping(Config, _CONFIG.value)
        model = api.create(config.model, config.train.seed)
    settings = export.ExportConfig(
        clip_length=length,
        height=height,
        width=width,
        num_objects=_EXPORT_OBJECTS.value,
        datasets=tuple(_EXPORT_DATASETS.value),
        platforms=tuple(_EXPORT_PLATFORMS.value),
        backend=_EXPORT_BACKEND.value,
    )
    export.export_model(model, _OUTPUT.value, settings)


def _parse_flags(argv: list[str]) -> list[str]:
    """As absl does; overriding a key that the config lacks is one clear error, not a stack trace."""
    try:
        return app.parse_flags_with_usage(argv)
    except (AttributeError, KeyError):
        from tarvis_jax.config import check_overrides

        given = [argument.partition("=")[2] for argument in argv if argument.lstrip("-").startswith("config=")]
        file, _, argument = given[-1].partition(":") if given else ("", "", "")
        if file:
            try:
                check_overrides(runpy.run_path(file)["get_config"](argument), argv)
            except ValueError as error:
                sys.exit(f"error: {error}")
        raise


def _require(*names: str) -> None:
    missing = [name for name in names if flags.FLAGS[name].value is None]
    if missing:
        raise app.UsageError(f"--mode={_MODE.value} needs " + ", ".join(f"--{name}" for name in missing))


def run() -> None:
    """The command `tarvis-jax`, and `python main.py`."""
    for flag in flags.FLAGS.get_key_flags_for_module(__name__):
        flags.FLAGS.register_key_flag_for_module(sys.argv[0], flag)  # so that --help of the command shows them
    app.run(main, flags_parser=_parse_flags)


if __name__ == "__main__":
    run()
