"""Prepares the datasets of a config as shards, or checks prepared ones.

    python -m input_pipeline.shards --config=configs/finetune.py --output=SHARDS
    python -m input_pipeline.shards --config=configs/finetune.py --output=SHARDS --check

Then `python main.py --config=configs/finetune.py --config.data.shards=SHARDS ...` trains from them. Shards are prepared
on a disk; their copy in a bucket (gs://...) is checked and trained from like a folder. A preparation that was
interrupted goes on where it was when it is started once more.
"""

import logging
import os
from typing import Any

from input_pipeline.config import DataConfig
from input_pipeline.shards import index as files
from input_pipeline.workspace import WORKSPACE_VARIABLE
from tarvis_jax import command_line
from tarvis_jax.config import from_mapping, load_config_file


def main(arguments: list[str]) -> None:
    """Raises ValueError for wrong flags, unreadable data, an output in a bucket, and (with --check) damaged shards."""
    overrides = [argument.lstrip("-") for argument in arguments if argument.startswith("--config.")]
    parser = command_line.Parser(prog="python -m input_pipeline.shards", description=__doc__.splitlines()[0])
    parser.add_argument("--config", required=True, help="config file, whose data.datasets are prepared")
    parser.add_argument("--output", required=True, help="folder of the shards; with --check also in a bucket")
    parser.add_argument("--check", action="store_true", help="compare all checksums instead of preparing")
    flags = parser.parse_args([argument for argument in arguments if not argument.startswith("--config.")])
    command_line.start_logging(0)
    config = from_mapping(DataConfig, load_config_file(flags.config, overrides)["data"].to_dict())
    if not flags.check:
        files.require_disk(flags.output)
    workspace = config.workspace or os.environ.get(WORKSPACE_VARIABLE, "")
    for dataset in config.datasets:
        if not flags.check:
            prepare(dataset, workspace, flags.output, on_bad_record=config.on_bad_record)
        folder = files.folder_of(flags.output, dataset.name)
        index = files.read_index(folder, "train")
        files.check_shards(folder, index, contents=flags.check)
        frames, size = sum(shard.records for shard in index.shards), sum(shard.size for shard in index.shards)
        logging.info(
            "%s: %d videos, %d frames, %.1f MB in %d shards, %s (%s)",
            *(dataset.name, len(index.videos), frames, size / 1e6, len(index.shards)),
            *("all checksums agree" if flags.check else "complete", folder),
        )


def prepare(dataset: Any, workspace: str, output: str, **settings: Any) -> None:
    """Writes the shards of one dataset's training split below `output`; does nothing where they are complete.

    Args:
      dataset: its `DatasetConfig`.
      workspace: see `DataConfig`.
      output: a folder on a disk.
      settings: further arguments of `builder.TarvisFrames`.
    """
    from input_pipeline.shards import builder

    builder.TarvisFrames(dataset=dataset, workspace=workspace, data_dir=output, **settings).download_and_prepare()


if __name__ == "__main__":
    command_line.run_and_exit(main)
