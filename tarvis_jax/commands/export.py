"""Exports a model given on the command line."""

from tarvis_jax import api
from tarvis_jax.export.write import PLATFORMS, ExportConfig, export_model
from tarvis_jax.run_config import Config


def run_export(
    output: str,
    checkpoint: str | None = None,
    config: Config | None = None,
    *,
    clip: tuple[int, ...] = (12, 448, 832),
    objects: int = 4,
    datasets: tuple[str, ...] = (),
    platforms: tuple[str, ...] = PLATFORMS,
    backend: str = "xla",
) -> None:
    """Writes the model of `checkpoint`, or that of `config` with random weights, to the folder `output`.

    Args:
      output: the folder; see `export_model`.
      checkpoint: anything `tarvis_jax.load` takes.
      config: of a run; either this or `checkpoint`.
      clip: frames, height and width.
      objects, datasets, platforms, backend: see `ExportConfig`.

    Raises:
      ValueError: both or neither of `checkpoint` and `config`, or a setting that does not fit.
    """
    if (checkpoint is None) == (config is None):
        raise ValueError("--mode=export needs --checkpoint, or --config for its architecture with random weights")
    if len(clip) != 3:
        raise ValueError(f"--export_clip: expected frames,height,width, found {','.join(map(str, clip))}")
    model = api.load(checkpoint) if checkpoint is not None else api.create(config.model, config.train.seed)
    length, height, width = clip
    settings = ExportConfig(
        clip_length=length,
        height=height,
        width=width,
        num_objects=objects,
        datasets=datasets,
        platforms=platforms,
        backend=backend,
    )
    export_model(model, output, settings)
