"""Checkpoints on disk: written in the background, renamed into place when complete, the newest few kept.

The only importer of orbax. A checkpoint is a folder named for its step with three items: `weights` (all that inference
needs), `progress` (the optimizer's state and the step) and `config` (the resolved config).
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import orbax.checkpoint as ocp

from tarvis_jax.model.structure import Arrays
from tarvis_jax.model.variables import compare
from tarvis_jax.run_config import CHECKPOINTS_FOLDER

_MOST_LISTED = 10  # tensors that an error names


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: pathlib.Path | str, keep: int = 2, create: bool = False):
        """Opens `workdir`/checkpoints; all processes of a run do.

        Args:
          workdir: folder of the run.
          keep: how many of the newest stay when another is saved.
          create: start the folder, where there is none, when the first checkpoint is saved.
        Raises:
          ValueError: there is no such folder, and `create` is False; or there is a file of its name.
        """
        self._folder = pathlib.Path(workdir).absolute() / CHECKPOINTS_FOLDER
        if not create and not self._folder.is_dir():
            raise ValueError(f"{self._folder}: no such folder, expected the workdir of a run with checkpoints")
        if create and self._folder.parent.exists() and not self._folder.parent.is_dir():
            raise ValueError(f"{workdir}: expected a folder to train in, found a file")
        self._keep = keep
        self._manager = self._open() if self._folder.is_dir() else None

    def _open(self) -> ocp.CheckpointManager:
        return ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=self._keep, create=True, enable_async_checkpointing=True),
            item_handlers={
                "weights": ocp.StandardCheckpointHandler(),
                "progress": ocp.StandardCheckpointHandler(),
                "config": ocp.JsonCheckpointHandler(),
                "interval": ocp.JsonCheckpointHandler(),
            },
        )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        return None if self._manager is None else self._manager.latest_step()

    def save(
        self,
        step: int,
        weights: Mapping[str, Any],
        progress: Mapping[str, Any],
        config: Mapping[str, Any],
        interval: Sequence[Any] = (),
    ) -> None:
        """Starts writing; returns once the arrays are copied off the devices. A step that is there is left as it is.

        Args:
          step: optimizer steps done; names the checkpoint.
          weights, progress: nested dicts of arrays (`train.state.to_items`).
          config: the run's config as JSON knows it.
          interval: metrics of the steps since the last entry of the log, as JSON knows them.
        """
        if self._manager is None:
            self._manager = self._open()
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(
            weights=ocp.args.StandardSave(weights),
            progress=ocp.args.StandardSave(progress),
            config=ocp.args.JsonSave(config),
            interval=ocp.args.JsonSave(list(interval)),
        )
        self._manager.save(step, args=items)

    def restore(
        self, weights: Mapping[str, Any], progress: Mapping[str, Any], step: int | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads the items of a checkpoint back.

        Args:
          weights, progress: arrays or ShapeDtypeStructs with shardings, of the wanted structure, shapes and placement.
          step: which checkpoint; None: the newest.
        Raises:
          ValueError: there is none, or its tensors are others.
        """
        step = self._step(step)
        wanted = [jax.tree.map(ocp.utils.to_shape_dtype_struct, dict(item)) for item in (weights, progress)]
        self._check_fits(step, dict(zip(("weights", "progress"), wanted, strict=True)))
        items = ocp.args.Composite(
            weights=ocp.args.StandardRestore(wanted[0]), progress=ocp.args.StandardRestore(wanted[1])
        )
        saved = self._manager.restore(step, args=items)
        return saved["weights"], saved["progress"]

    def _check_fits(self, step: int, wanted: Mapping[str, Any]) -> None:
        """ValueError if a checkpoint has other tensors than `wanted`; Orbax itself lets some missing ones pass."""

        def sizes(items: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
            leaves = jax.tree_util.tree_leaves_with_path(items)
            return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}

        metadata = self._manager.item_metadata(step)
        saved = {name: dict(metadata[name]) if metadata[name] is not None else {} for name in wanted}
        problems = compare(sizes(wanted), sizes(saved))
        if problems:
            listed = problems[:_MOST_LISTED] + [f"and {len(problems) - _MOST_LISTED} more"] * (
                len(problems) > _MOST_LISTED
            )
            raise ValueError(
                f"{self._folder}/{step}: the checkpoint does not fit this config; was its section model or optimizer "
                "changed?\n  " + "\n  ".join(listed)
            )

    def saved_weights(self, step: int | None = None) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and dtypes, by name, of what `restore_weights` gives; no value is read.

        Raises:
          ValueError: there is no checkpoint, or it has no weights.
        """
        step = self._step(step)
        saved = self._manager.item_metadata(step)["weights"]
        if saved is None or not {"params", "frozen", "ema"} <= set(saved):
            raise ValueError(f"{self._folder}/{step}: expected a checkpoint of a run, found no weights in it")
        groups = (saved["ema"] or saved["params"], saved["frozen"])
        return {name: jax.ShapeDtypeStruct(v.shape, v.dtype) for group in groups for name, v in group.items()}

    def restore_weights(self, step: int | None = None) -> tuple[Arrays, Arrays]:
        """(parameters, frozen variables) for inference, on the first device: the moving average where one was kept."""
        step = self._step(step)
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = jax.tree.map(
            lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding),
            dict(self._manager.item_metadata(step)["weights"]),
        )
        items = ocp.args.Composite(weights=ocp.args.StandardRestore(wanted))
        saved = self._manager.restore(step, args=items)["weights"]
        return saved["ema"] or saved["params"], saved["frozen"]

    def restore_config(self, step: int | None = None) -> dict[str, Any]:
        """The resolved config that the checkpoint was trained with."""
        items = ocp.args.Composite(config=ocp.args.JsonRestore())
        return self._manager.restore(self._step(step), args=items)["config"]

    def restore_interval(self, step: int | None = None) -> list[Any]:
        """What `save` got as `interval`."""
        items = ocp.args.Composite(interval=ocp.args.JsonRestore())
        return self._manager.restore(self._step(step), args=items)["interval"]

    def wait(self) -> None:
        """Returns when the last save is complete on disk."""
        if self._manager is not None:
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Completes what is being written and frees the threads."""
        if self._manager is not None:
            self._manager.wait_until_finished()
            self._manager.close()

    def _step(self, step: int | None) -> int:
        step = self.latest_step if step is None else step
        if step is None:
            raise ValueError(f"{self._folder}: no checkpoint here, expected a folder named for its step")
        return step
