"""Which weights a training starts from, by what `train.init_from` says; files of image backbones in the workspace.

The original always starts from a backbone that was trained on ImageNet, whose file lies in the folder
`pretrained_backbones` of the workspace. Our configs name the same file for their backbone. Loads neither JAX nor the
network, because config files import it.
"""

import fnmatch
import pathlib

from input_pipeline.workspace import join, workspace_root
from tarvis_jax.run_config import RANDOM_WEIGHTS, Config
from tarvis_jax.weights import hub

WORKSPACE = "{workspace}/"  # how a value of train.init_from begins that is relative to the workspace
FOLDER = "pretrained_backbones"


def _swin(size: str) -> tuple[str, ...]:
    """As Mask2Former converts them, which is what the original takes, and as their authors publish them."""
    return f"swin_{size}.pkl", f"swin_{size}.pth"


def _convnext(size: str) -> tuple[str, ...]:
    return f"convnext_{size}_22k_224.pth", f"convnext_{size}_1k_224_ema.pth"


# Names of the file of each backbone, in the order in which they are looked for; "*" stands for anything.
BACKBONE_FILES: dict[str, tuple[str, ...]] = {
    "ResNet50": ("R-50.pkl", "resnet50-*.pth"),
    "ResNet101": ("R-101.pkl", "resnet101-*.pth"),
    "SwinTiny": _swin("tiny_patch4_window7_224"),
    "SwinSmall": _swin("small_patch4_window7_224"),
    "SwinBase": _swin("base_patch4_window12_384_22k"),
    "SwinLarge": _swin("large_patch4_window12_384_22k"),
    "ConvNextTiny": _convnext("tiny"),
    "ConvNextSmall": _convnext("small"),
    "ConvNextBase": _convnext("base"),
    "ConvNextLarge": _convnext("large"),
    "ConvNextXLarge": ("convnext_xlarge_22k_224.pth",),
}


def backbone_file(backbone: str) -> str:
    """The value of `train.init_from` that starts this backbone from ImageNet; "random" if it has no file."""
    files = BACKBONE_FILES.get(backbone)
    return f"{WORKSPACE}{FOLDER}/{files[0]}" if files else RANDOM_WEIGHTS


def is_default(init_from: str) -> bool:
    """Whether a config says nothing of its own about where to start: a flag that names weights may replace it."""
    return init_from in ("", RANDOM_WEIGHTS) or init_from in map(backbone_file, BACKBONE_FILES)


def find_initial_weights(config: Config) -> str | None:
    """The file, folder or id on the hub that `config.train.init_from` stands for; None: all weights are random.

    Cheap: only names are looked at. A file of a backbone that is not there under the name in the config is looked for
    in the same folder under the other names of BACKBONE_FILES.

    Raises:
      ValueError: nothing is said, nothing is there, the file is that of another backbone, or several files fit.
    """
    given, backbone = config.train.init_from, config.model.backbone
    where = f"train.init_from={given}"
    if given == RANDOM_WEIGHTS:
        return None
    if not given:
        raise ValueError(
            f"train.init_from: not set; expected {RANDOM_WEIGHTS!r} for random weights, a model, or the file of a "
            "backbone (docs/weights.md)"
        )
    if not given.startswith(WORKSPACE):
        if not pathlib.Path(given).exists() and not hub.is_hub_id(given):
            raise ValueError(f"{where}: no such file or folder, and not an id on the hub (owner/name)")
        return given

    name = given.removeprefix(WORKSPACE)
    known = BACKBONE_FILES.get(backbone, ())
    owners = [each for each, files in BACKBONE_FILES.items() if _matches(name, files)]
    if owners and backbone not in owners:
        raise ValueError(
            f"{where}: the file of {owners[0]}, but model.backbone is {backbone}; expected "
            f"{backbone_file(backbone)} (the argument backbone={backbone} of a config file sets both)"
        )
    flag = "--config.train.init_from"
    remedy = f"or start from another file ({flag}=FILE) or from random weights ({flag}={RANDOM_WEIGHTS})"
    try:
        file = join(workspace_root(config.data.workspace), name, where)
    except ValueError as error:
        raise ValueError(f"{where}: {error}; {FOLDER}/ lies in it, {remedy}") from None
    if file.exists():
        return str(file)
    if not owners:
        raise ValueError(f"{where}: expected a file or folder at {file}, but it does not exist")
    for pattern in known:
        found = sorted(file.parent.glob(pattern))
        if len(found) > 1:
            raise ValueError(f"{where}: expected one file {pattern} in {file.parent}, found {[f.name for f in found]}")
        if found:
            return str(found[0])
    raise ValueError(
        f"{where}: the weights of {backbone} from ImageNet are missing: looked for {', '.join(known)} in "
        f"{file.parent}; put one of them there (docs/weights.md says what they are), {remedy}"
    )


def _matches(path: str, patterns: tuple[str, ...]) -> bool:
    folder, _, name = path.rpartition("/")
    return folder == FOLDER and any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
