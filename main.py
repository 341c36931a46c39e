"""Trains, evaluates, runs or exports TarViS.

python main.py --config=configs/quickstart.py --workdir=runs/quickstart
python main.py --mode=eval --workdir=runs/quickstart
python main.py --mode=infer --checkpoint=runs/quickstart --dataset=YOUTUBE_VIS --input=clip.mp4 --output=out
python main.py --mode=infer --checkpoint=checkpoint.pth --dataset=DAVIS --split=val --output=out
python main.py --mode=export --checkpoint=runs/quickstart --export_clip=12,64,128 --output=exported
python main.py --mode=compile --config=configs/finetune.py --topology=v5e:4x4
"""

import argparse
import sys

from tarvis_jax import command_line

# Flags that each mode needs, and flags that it may be given. Libraries are imported by the mode that uses them.
_MODES = {
    "train": (
        [],
        "config workdir profile finetune_from restore_weights restore_session "
        "coordinator_address num_processes process_id".split(),
    ),
    "eval": (["workdir"], ["datasets", "data_root"]),
    "infer": (
        ["checkpoint", "dataset", "output"],
        "input targets split clips data_root videos share exemplar frame_step format overlays min_score polygons "
        "clip_length overlap min_dim max_dim dtype clip_batch".split(),
    ),
    "export": (
        ["output"],
        "checkpoint config export_clip export_objects export_datasets export_platforms export_backend".split(),
    ),
    "compile": (["config"], ["topology", "programs", "output"]),
}


def run() -> None:
    """The console script `tarvis-jax`."""
    command_line.run_and_exit(main, _finish)


def _finish(status: int) -> bool:
    """Parts from the other processes of a training, if there are any; see `command_line.run_and_exit`."""
    distributed = sys.modules.get("tarvis_jax.parallel.distributed")
    return distributed is None or distributed.finish(status)


def main(arguments: list[str]) -> None:
    """Dispatches on --mode.

    Raises:
      ValueError: flags that do not exist, do not fit the mode or have a wrong value.
    """
    overrides = [argument.lstrip("-") for argument in arguments if _is_override(argument)]
    parser = _parser()
    flags = parser.parse_args([argument for argument in arguments if not _is_override(argument)])
    if flags.profile is not None:
        overrides.append(f"config.train.profile={flags.profile}")
    if overrides and flags.config is None:
        raise ValueError(f"--{overrides[0]}: expected --config=FILE too, whose setting it changes")
    config = None
    if flags.config is not None:
        from tarvis_jax.run_config import load_config

        config = load_config(flags.config, overrides)
    if flags.help:
        parser.print_help()
        if config is not None:
            from tarvis_jax.config import describe

            print(f"\nsettings of {flags.config}:\n" + "\n".join(f"  --{line}" for line in describe(config)))
        return
    given = _check_flags(flags)
    command_line.start_logging(flags.verbosity)
    if flags.mode == "train":
        from tarvis_jax.commands.train import run_training

        given.pop("profile", None)  # the config has it
        run_training(**given | {"config": config})
    elif flags.mode == "eval":
        from tarvis_jax.commands.evaluate import evaluate_workdir

        evaluate_workdir(**given)
    elif flags.mode == "infer":
        from tarvis_jax.commands.infer import run_inference

        run_inference(**given)
    elif flags.mode == "export":
        from tarvis_jax.commands.export import run_export

        settings = {name.removeprefix("export_"): given[name] for name in given if name.startswith("export_")}
        run_export(flags.output, flags.checkpoint, config, **settings)
    else:
        from tarvis_jax.commands.compile import compile_steps

        compile_steps(config, flags.topology, flags.programs or 0, flags.output)


def _parser() -> command_line.Parser:
    parser = command_line.Parser(
        prog="main.py",
        usage=argparse.SUPPRESS,
        description=__doc__,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(prog, max_help_position=28, width=120),
        add_help=False,
    )
    flags = parser.add_argument_group("every mode")
    flags.add_argument("--mode", choices=list(_MODES), default="train", help="what to do (default: train)")
    flags.add_argument("--help", "-h", action="store_true", help="show this; with --config also all of its settings")
    flags.add_argument("--debug", action="store_true", help="show the traceback of errors")
    flags.add_argument("--verbosity", type=int, default=0, help="0: progress (default); -1: warnings; -2: errors")

    flags = parser.add_argument_group("train, eval")
    flags.add_argument("--workdir", help="folder of the run: checkpoints, metrics, results")

    flags = parser.add_argument_group("train, export, compile")
    flags.add_argument("--config", metavar="FILE", help="config file, with an argument where it takes one: file.py:arg")
    flags.add_argument("--config.a.b", metavar="VALUE", help="a setting of the config, in place of the file's")

    flags = parser.add_argument_group("train: where it starts, if not from the config")
    flags.add_argument("--finetune_from", metavar="RUN", help="weights and architecture of a run or another model")
    flags.add_argument("--restore_weights", metavar="WEIGHTS", help="weights of a workdir or .pth file")
    flags.add_argument("--restore_session", metavar="RUN", help="an interrupted run, by its own config and workdir")

    flags = parser.add_argument_group("train: what it does beside")
    steps = "write a trace of these steps for XProf to the workdir: 20:25 is the 21st to the 25th"
    flags.add_argument("--profile", metavar="FIRST:END", help=steps)

    flags = parser.add_argument_group("train: several processes without a launcher (docs/multihost.md)")
    flags.add_argument("--coordinator_address", metavar="HOST:PORT", help="where process 0 runs, the same for all")
    flags.add_argument("--num_processes", metavar="N", type=int, help="how many processes train together")
    flags.add_argument("--process_id", metavar="I", type=int, help="number of this process, from 0 on")

    flags = parser.add_argument_group("infer, export")
    model = "a workdir, a checkpoint of the reference (.pth), a folder of save_pretrained or an id on the hub"
    flags.add_argument("--checkpoint", metavar="MODEL", help=model)

    flags = parser.add_argument_group("infer, export, compile")
    flags.add_argument("--output", help="folder of the results or of the export; compile: a JSON file")

    sizes, names = "T,HEIGHT,WIDTH", "A,B,..."
    flags = parser.add_argument_group("eval, infer")
    flags.add_argument("--datasets", metavar=names, type=_names, help="eval: score these alone (default: all)")
    root = "the workspace, or for infer also the dataset's own download (default: the run's, or TARVIS_WORKSPACE_DIR)"
    flags.add_argument("--data_root", metavar="FOLDER", help=root)

    flags = parser.add_argument_group("infer")
    flags.add_argument("--dataset", help="whose classes to look for; for given targets: whose settings to use")
    flags.add_argument("--input", help="one video: a folder of frames or a video file")
    flags.add_argument("--targets", metavar="FILE", help="one video: JSON with masks or points of what to follow")
    flags.add_argument("--split", help="the videos of a benchmark: val, test, ... of the dataset (docs/inference.md)")
    flags.add_argument(
        "--clips", metavar="FOLDER", help="your videos: folders of frames and video files (label_loop.md)"
    )
    flags.add_argument(
        "--videos", metavar=names, help="of the split or the clips, these alone; or a file with one name a line"
    )
    flags.add_argument("--share", metavar="K/N", help="of the videos, the K-th of N shares: one for each machine")
    flags.add_argument("--exemplar", choices=["mask", "point"], help="by what the split's objects are given")
    flags.add_argument("--frame_step", metavar="N", type=int, help="CITYSCAPES_VPS: take every N-th frame of the split")
    flags.add_argument("--format", help="of the split's result files (default: the benchmark's); none: tracks alone")
    flags.add_argument("--overlays", action="store_const", const=True, help="draw the split's videos; one video always")
    score = "tracks below are left out of the result files, which makes sense for labeling tools (default: 0)"
    flags.add_argument("--min_score", metavar="SCORE", type=float, help=score)
    flags.add_argument(
        "--polygons", action="store_const", const=True, help="result files for CVAT: outlines, not masks"
    )
    flags.add_argument("--clip_length", metavar="N", type=int, help="frames of a clip (default: the checkpoint's)")
    flags.add_argument("--overlap", metavar="N", type=int, help="frames that clips share (default: the checkpoint's)")
    flags.add_argument("--min_dim", metavar="PIXELS", type=int, help="smaller side after resizing; 0: as it is")
    flags.add_argument("--max_dim", metavar="PIXELS", type=int, help="largest side after resizing")
    flags.add_argument("--dtype", choices=["float32", "bfloat16"], help="of activations (default: the checkpoint's)")

    many = "VIS, VPS: clips that go through the network at once, at most (default: as many as fit; on a CPU 1)"
    flags.add_argument("--clip_batch", metavar="N", type=int, help=many)

    flags = parser.add_argument_group("export")
    flags.add_argument("--export_clip", metavar=sizes, type=_numbers, help="of a clip (default: 12,448,832)")
    flags.add_argument("--export_objects", metavar="N", type=int, help="slots for given objects; 0: none (default: 4)")
    flags.add_argument("--export_datasets", metavar=names, type=_names, help="whose classes (default: all it has)")
    flags.add_argument("--export_platforms", metavar=names, type=_names, help="of cpu, cuda, tpu (default: all)")
    backend = "of attention: xla runs everywhere (default), auto takes each platform's kernels"
    flags.add_argument("--export_backend", choices=["xla", "auto"], help=backend)

    flags = parser.add_argument_group("compile")
    topology = "TPUs such as v5e:4x4 or GPUs of one machine such as h100:8 (default: the devices that are here)"
    flags.add_argument("--topology", metavar="CHIPS", help=topology)
    flags.add_argument("--programs", metavar="N", type=int, help="only the N largest, and the update (default: all)")
    return parser


def _check_flags(flags: argparse.Namespace) -> dict:
    """The flags of the mode that are given; ValueError for one that is missing or of another mode."""
    needed, allowed = _MODES[flags.mode]
    given = {name: value for name, value in vars(flags).items() if value is not None}
    of_modes = {name for both in _MODES.values() for names in both for name in names}
    missing = [f"--{name}" for name in needed if name not in given]
    if missing:
        raise ValueError(f"--mode={flags.mode} needs {', '.join(missing)} (--help lists the flags)")
    wrong = [f"--{name}" for name in given if name in of_modes.difference(needed, allowed)]
    if wrong:
        raise ValueError(f"--mode={flags.mode} does not take {', '.join(wrong)} (--help lists the flags)")
    return {name: value for name, value in given.items() if name in needed + allowed}


def _is_override(argument: str) -> bool:
    return argument.startswith("--config.")


def _names(text: str) -> tuple[str, ...]:
    return tuple(filter(None, text.split(",")))


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split(",")))


_names.__name__, _numbers.__name__ = "list", "list of whole numbers"  # what argparse calls them in its errors

if __name__ == "__main__":
    run()
