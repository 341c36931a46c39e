"""Checkpoints on disk: written in the background, renamed into place when complete, the newest few kept.

The only importer of orbax. A checkpoint holds the training state and the resolved config, so that inference needs
nothing but the folder.
"""

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp

from tarvis_jax.train.state import TrainState

FOLDER = "checkpoints"


def _as_dicts(state: TrainState) -> dict[str, Any]:
    """The state as dicts of arrays: independent of the classes that the optimiser's library uses."""
    optimizer = {
        jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(state.opt_state)
    }
    return {
        "params": state.params,
        "frozen": state.frozen,
        "ema": state.ema,
        "optimizer": optimizer,
        "step": state.step,
        "is_healthy": state.is_healthy,
    }


def _from_dicts(saved: Mapping[str, Any], like: TrainState) -> TrainState:
    paths, treedef = jax.tree_util.tree_flatten_with_path(like.opt_state)
    opt_state = jax.tree_util.tree_unflatten(
        treedef, [saved["optimizer"][jax.tree_util.keystr(path)] for path, _ in paths]
    )
    return TrainState(
        params=saved["params"],
        frozen=saved["frozen"],
        ema=saved["ema"],
        opt_state=opt_state,
        step=saved["step"],
        is_healthy=saved["is_healthy"],
    )


class Checkpoints:
    """The checkpoints of one workdir."""

    def __init__(self, workdir: pathlib.Path | str, keep: int = 2):
        """Opens (or starts) `workdir`/checkpoints; `keep` newest stay."""
        self._folder = pathlib.Path(workdir).absolute() / FOLDER
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, enable_async_checkpointing=True),
            item_names=("state", "config"),
        )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: TrainState, config: Mapping[str, Any]) -> None:
        """Starts writing; returns once the arrays are copied off the devices."""
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(_as_dicts(state)), config=ocp.args.JsonSave(config)),
        )

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """Reads a state back.

        Args:
          like: a state (arrays or ShapeDtypeStructs with shardings) of the wanted structure, shapes and placement.
          step: which checkpoint; None: the newest.
        Raises:
          ValueError: there is none, or its tensors do not match `like`.
        """
        step = self._step(step)
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, _as_dicts(like))
        try:
            saved = self._manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(wanted)))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{self._folder}/{step}: the checkpoint does not fit this config; was the model section changed? {error}"
            ) from error
        return _from_dicts(saved["state"], like)

    def restore_weights(self, step: int | None = None) -> tuple[dict[str, jax.Array], dict[str, jax.Array]]:
        """(parameters, frozen variables) for inference, on the first device: the moving average where one was kept."""
        step = self._step(step)
        metadata = self._manager.item_metadata(step)["state"]
        sharding = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        wanted = {
            group: {
                name: jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)
                for name, array in metadata[group].items()
            }
            for group in ("ema" if metadata.get("ema") else "params", "frozen")
        }
        arguments = ocp.args.PyTreeRestore(
            wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
        )
        saved = self._manager.restore(step, args=ocp.args.Composite(state=arguments))["state"]
        return saved.get("ema") or saved["params"], saved["frozen"]

    def restore_config(self, step: int | None = None) -> dict[str, Any]:
        """The resolved config that the checkpoint was trained with."""
        return self._manager.restore(self._step(step), args=ocp.args.Composite(config=ocp.args.JsonRestore()))["config"]

    def wait(self) -> None:
        """Returns when the last save is complete on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Completes what is being written and frees the threads."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _step(self, step: int | None) -> int:
        step = self._manager.latest_step() if step is None else step
        if step is None:
            raise ValueError(f"{self._folder}: no checkpoint here, expected a folder named for its step")
        return step
