"""Where numbers go: metrics.jsonl always, TensorBoard and Weights & Biases when asked.

The only importer of clu (and through it TensorFlow, which is told to leave accelerators alone). Only process 0 writes.
"""

import importlib.util
import json
import math
import pathlib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax

JSON_LINES = "metrics.jsonl"


class MetricWriter:
    """Writes scalars of one run; use as a context manager."""

    def __init__(
        self,
        workdir: pathlib.Path | str,
        config: Mapping[str, Any],
        tensorboard: bool = True,
        wandb_project: str = "",
        resume_step: int | None = None,
    ):
        """Opens the writers.

        Args:
          workdir: folder of the run.
          config: the resolved config, for Weights & Biases.
          tensorboard: write event files beside metrics.jsonl.
          wandb_project: "" for none.
          resume_step: entries after this step are dropped: the run goes on from there. None starts afresh.
        Raises:
          ValueError: `tensorboard` or `wandb_project` is given, but what they need is not installed.
        """
        self._lines = self._tensorboard = self._wandb = None
        if jax.process_index() != 0:
            return
        require_packages(tensorboard, wandb_project)  # first: without them the run stays as it was
        if wandb_project:
            self._wandb = _wandb_run(wandb_project, workdir, config)
        path = pathlib.Path(workdir) / JSON_LINES
        if path.exists():
            entries = read_metrics(workdir) if resume_step is not None else []
            kept = [entry for entry in entries if entry["step"] <= resume_step]
            whole = path.with_suffix(".part")  # a kill leaves the one or the other
            whole.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
            whole.replace(path)
        self._lines = path.open("a")
        if tensorboard:
            self._tensorboard = _TensorBoard(workdir)

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Writes one entry; values that are not finite are written as null in metrics.jsonl."""
        if self._lines is None:
            return
        plain = {name: float(value) for name, value in scalars.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in plain.items()}
        self._lines.write(json.dumps({"step": step, **finite}) + "\n")
        self._lines.flush()
        if self._tensorboard is not None:
            self._tensorboard.write(step, plain)
        if self._wandb is not None:
            self._wandb.log(plain, step=step)

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *_) -> None:
        if self._lines is not None:
            self._lines.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def require_packages(tensorboard: bool, wandb_project: str) -> None:
    """The ValueErrors of `MetricWriter`, in moments: nothing is imported."""
    if wandb_project and importlib.util.find_spec("wandb") is None:
        raise ValueError(
            f"train.wandb_project: {wandb_project!r} asks for Weights & Biases, which is not installed here: "
            "run `pip install wandb` or set it to ''"
        )
    missing = [name for name in ("clu", "tensorflow") if importlib.util.find_spec(name) is None]
    if tensorboard and missing:
        raise _without_tensorboard(f"{' and '.join(missing)} not found")


def read_metrics(workdir: pathlib.Path | str) -> list[dict[str, Any]]:
    """The entries of metrics.jsonl in order; a last line that a kill cut short is left out."""
    path = pathlib.Path(workdir) / JSON_LINES
    entries = []
    lines = path.read_text().splitlines() if path.exists() else []
    for number, line in enumerate(lines):
        try:
            entries.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number != len(lines) - 1:
                raise ValueError(f"{path}:{number + 1}: not JSON: {error}") from error
    return entries


class _TensorBoard:
    """Event files, written in a thread: TensorFlow takes seconds to import, in which training goes on.

    They pass after the first entry, since imports slow down everything else that is Python's work, such as a start.
    """

    def __init__(self, workdir: pathlib.Path | str):
        self._workdir = workdir
        self._thread = ThreadPoolExecutor(1)
        self._writer: Future | None = None
        self._entries: list[Future] = []  # which the thread was given, in order

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Raises what went wrong with entries before."""
        if self._writer is None:
            self._writer = self._thread.submit(_summary_writer, self._workdir)
        while self._entries and self._entries[0].done():
            self._entries.pop(0).result()
        self._entries.append(self._thread.submit(lambda: self._writer.result().write_scalars(step, scalars)))

    def close(self) -> None:
        """Returns when everything is written; raises what went wrong."""
        if self._writer is not None:
            self._entries.append(self._thread.submit(lambda: self._writer.result().close()))
        self._thread.shutdown()
        for entry in self._entries:
            entry.result()


def _summary_writer(workdir: pathlib.Path | str) -> Any:
    try:
        import tensorflow as tf
        from clu.metric_writers import SummaryWriter
    except ImportError as error:
        raise _without_tensorboard(error) from error

    tf.config.set_visible_devices([], "GPU")
    return SummaryWriter(str(workdir))


def _without_tensorboard(reason: object) -> ValueError:
    return ValueError(
        f"train.tensorboard: needs the packages clu and tensorflow ({reason}): "
        "run `pip install clu tensorflow-cpu` or set it to False"
    )


def _wandb_run(project: str, workdir: pathlib.Path | str, config: Mapping[str, Any]) -> Any:
    import wandb

    return wandb.init(
        project=project, dir=str(workdir), name=pathlib.Path(workdir).name, config=dict(config), resume="allow"
    )
