"""Converts weights.

python -m tarvis_jax.convert to-jax RELEASE_FOLDER_OR_PTH FOLDER
python -m tarvis_jax.convert to-pytorch FOLDER_OR_WORKDIR FILE.pth
python -m tarvis_jax.convert check-backbone FILE --backbone=NAME
"""

from tarvis_jax import command_line
from tarvis_jax.convert.commands import to_jax, to_pytorch
from tarvis_jax.weights.pytorch.backbones import open_backbone


def main(arguments: list[str]) -> None:
    """Runs one command and prints its report; ValueError if the files are not as expected."""
    parser = command_line.Parser(
        prog="python -m tarvis_jax.convert",
        description="Converts weights.",
        epilog="--debug shows the traceback of errors.",
    )
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("to-jax", help="checkpoint of the reference -> model.safetensors + config.json")
    command.add_argument("source", help="the .pth file with config.yaml beside it, or the folder of both")
    command.add_argument("destination", help="a folder")
    command = commands.add_parser("to-pytorch", help="weights of ours -> .pth + config.yaml for the reference")
    command.add_argument("source", help="a folder with model.safetensors, or the workdir of a run")
    command.add_argument("destination", help="a .pth file")
    command = commands.add_parser("check-backbone", help="what train.init_from would take from a file")
    command.add_argument("source", help="a .pth or .pkl file of torchvision, detectron2, Mask2Former, Swin, ConvNeXt")
    command.add_argument("--backbone", required=True, help="a name of ours, such as ResNet50 or SwinLarge")
    command.add_argument("--new", nargs="*", default=[], metavar="PATTERN", help="our variables that may be missing")
    command.add_argument("--leave-out", nargs="*", default=[], metavar="PATTERN", help="tensors that are not used")
    command.add_argument("--channel-order", default="RGB", choices=["RGB", "BGR"], help="what the network saw")
    command.add_argument("--pixel-std", nargs=3, type=float, help="what it divided by, in that order")
    args = parser.parse_args(arguments)
    if args.command == "to-jax":
        print(to_jax(args.source, args.destination))
    elif args.command == "to-pytorch":
        print(to_pytorch(args.source, args.destination))
    else:
        _, report = open_backbone(
            args.source,
            args.backbone,
            new=args.new,
            leave_out=args.leave_out,
            channel_order=args.channel_order,
            pixel_std=args.pixel_std,
        )
        print(report)


if __name__ == "__main__":
    command_line.run_and_exit(main)
