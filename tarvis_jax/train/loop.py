"""The training loop, top to bottom: what it calls returns values and never decides what comes next."""

import dataclasses
import pathlib
import time
from collections import defaultdict
from typing import Any

import jax
import numpy as np
from absl import logging

from input_pipeline.batches import train_batches
from input_pipeline.recorded import read_recorded_batches
from tarvis_jax import evaluate
from tarvis_jax.config import save_json, to_plain
from tarvis_jax.parallel.mesh import initialize_distributed, make_mesh, num_microbatches, put_batch
from tarvis_jax.train.checkpoint import Checkpoints
from tarvis_jax.train.config import Config
from tarvis_jax.train.initialize import load_initial_weights
from tarvis_jax.train.metrics import MetricWriter, read_metrics
from tarvis_jax.train.objectives import make_objective
from tarvis_jax.train.optimizer import learning_rate_at, make_optimizer
from tarvis_jax.train.state import ModelStructure, TrainState, abstract_state, initial_state, with_weights
from tarvis_jax.train.step import TrainStepper
from tarvis_jax.visualize.run_report import write_training_report


class NotFiniteError(RuntimeError):
    """A tensor became NaN or infinite; the message names it, the step and the dataset."""


def train(config: Config, workdir: pathlib.Path | str) -> evaluate.Scores:
    """Trains, from the newest checkpoint of `workdir` if there is one; returns the final evaluation's scores.

    Raises:
      ValueError: the config, the data or the weights to start from do not fit.
      NotFiniteError: the loss, a gradient or a parameter is not finite; the last good checkpoint stays.
    """
    settings = config.train
    workdir = pathlib.Path(workdir)
    workdir.mkdir(parents=True, exist_ok=True)
    if settings.distributed:
        initialize_distributed()
    is_main = jax.process_index() == 0
    if is_main:
        save_json(workdir / evaluate.CONFIG_FILE, config)
    data_config = evaluate.prepare_data(config, workdir)

    # Model, optimiser, state.
    mesh = make_mesh()
    microbatches = num_microbatches(config.data.batch_size, settings.max_samples_per_device, mesh)
    structure = ModelStructure(config.model)
    optimizer = make_optimizer(config.optimizer, structure.params)
    keep_ema = config.optimizer.ema_decay > 0
    checkpoints = Checkpoints(workdir, settings.keep_checkpoints, create=True)
    if checkpoints.latest_step is not None:
        state = checkpoints.restore(abstract_state(structure, optimizer, keep_ema, mesh))
        logging.info("resumed from step %d of %s", checkpoints.latest_step, workdir)
    else:
        state = initial_state(structure, optimizer, settings.seed, keep_ema, mesh)
        if settings.init_from:
            params, frozen, report = load_initial_weights(
                settings.init_from,
                config.model,
                state,
                new=settings.init_new,
                leave_out=settings.init_leave_out,
            )
            logging.info("weights to start from: %s", report)
            state = with_weights(state, params, frozen)
    start_step = int(state.step)
    stepper = TrainStepper(
        structure,
        optimizer,
        learning_rate=lambda step: learning_rate_at(config.optimizer, step),
        ema_decay=config.optimizer.ema_decay,
        objectives={
            dataset.name: make_objective(
                dataset.task,
                dataset.name,
                config.loss,
                config.model.decoder_layers + 1,
                settings.exemplar_point_probability,
            )
            for dataset in data_config.datasets
        },
        seed=settings.seed,
        mesh=mesh,
    )
    logging.info(
        "%.1f M parameters, %d device(s), global batch %d in %d microbatch(es)",
        sum(np.prod(p.shape) for p in structure.params.values()) / 1e6,
        mesh.size,
        config.data.batch_size,
        microbatches,
    )

    # Steps. The device works on step i while the host fetches the batch of step i + 1.
    hosts = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    if data_config.recorded:
        batches = read_recorded_batches(data_config.recorded, config=data_config, start_step=start_step, **hosts)
    else:
        batches = train_batches(data_config, start_step=start_step, **hosts)
    clock = _Clock()
    predictor = None  # kept from one evaluation to the next
    pending: list[tuple[str, dict[str, jax.Array]]] = []
    previous = None  # (dataset, batch, metrics) of the step before, for the guard
    with MetricWriter(
        workdir,
        to_plain(config),
        settings.tensorboard,
        settings.wandb_project,
        resume_step=start_step if start_step else None,
    ) as writer:
        for step in range(start_step, settings.num_steps):
            with clock.waiting():
                info, host_batch = next(batches)
            batch = put_batch(host_batch, microbatches, mesh)
            state, metrics = stepper(info.dataset, state, batch)
            pending.append((info.dataset, metrics))
            if previous is not None:
                _check_finite(stepper, state, step - 1, *previous)
            previous = (info.dataset, batch, metrics["is_finite"])

            done = step + 1
            is_last = done == settings.num_steps
            if is_last or _is_due(done, settings.checkpoint_steps) or _is_due(done, settings.eval_steps):
                _check_finite(stepper, state, step, *previous)  # nothing bad is ever saved
            if _is_due(done, settings.log_steps) or is_last:
                scalars = _average(pending) | clock.rates(len(pending), stepper)
                pending.clear()
                writer.write(done, scalars)
                logging.info("%s", _progress_line(done, settings.num_steps, scalars))
            if _is_due(done, settings.checkpoint_steps) or is_last:
                checkpoints.save(done, state, to_plain(config))
            if _is_due(done, settings.eval_steps) and not is_last:
                with clock.paused():
                    if is_main:
                        predictor = evaluate.predictor_of_state(config, state, predictor)
                        folder = workdir / "eval" / str(done)
                        scores = evaluate.evaluate_predictor(config, data_config, predictor, folder)
                        writer.write(done, evaluate.flatten_scores(scores))

        # The end: scores, demonstration, report.
        checkpoints.wait()
        scores: evaluate.Scores = {}
        if is_main and (settings.final_eval or settings.demo_videos or settings.demo_davis):
            predictor = evaluate.predictor_of_state(config, state, predictor)
            if settings.final_eval:
                scores = evaluate.evaluate_predictor(config, data_config, predictor, workdir / "eval" / "final")
                writer.write(settings.num_steps, evaluate.flatten_scores(scores))
                evaluate.write_table(scores, workdir / "scores.txt")
            if settings.demo_videos or settings.demo_davis:
                evaluate.write_demos(config, data_config, predictor, workdir / "demo")
    if is_main:
        evaluation = workdir / "eval" / "final" if settings.final_eval else None
        write_training_report(workdir, to_plain(config), to_plain(Config()), read_metrics(workdir), evaluation)
    checkpoints.close()
    return scores


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _check_finite(
    stepper: TrainStepper, state: TrainState, step: int, dataset: str, batch: Any, is_finite: jax.Array
) -> None:
    """Raises NotFiniteError if the step's flag says so; the state has not changed since that step began."""
    if not bool(is_finite):
        tensor = stepper.first_bad_tensor(dataset, state, batch)
        raise NotFiniteError(
            f"step {step + 1}, dataset {dataset}: {tensor} is not finite; training stopped, the last checkpoint is good"
        )


def _average(pending: list[tuple[str, dict[str, jax.Array]]]) -> dict[str, float]:
    """Means since the last entry: per dataset for what depends on it, overall for the rest."""
    sums: dict[str, list[float]] = defaultdict(list)
    for dataset, metrics in jax.device_get(pending):
        for name, value in metrics.items():
            if name in ("param_norm", "learning_rate"):
                sums[name] = [float(value)]  # the latest
            elif name != "is_finite":
                sums[f"train/{dataset}/{name}"].append(float(value))
                if name in ("loss", "grad_norm"):
                    sums[name].append(float(value))
    return {name: float(np.mean(values)) for name, values in sums.items()}


def _progress_line(step: int, num_steps: int, scalars: dict[str, float]) -> str:
    remaining = int((num_steps - step) / max(scalars["steps_per_sec"], 1e-9))
    eta = f"{remaining // 3600}:{remaining // 60 % 60:02}:{remaining % 60:02}"
    losses = "  ".join(
        f"{name.split('/')[1]} {value:.2f}"
        for name, value in scalars.items()
        if name.count("/") == 2 and name.endswith("/loss")
    )
    return (
        f"step {step}/{num_steps}  {losses}  grad {scalars['grad_norm']:.3g}  lr {scalars['learning_rate']:.2e}  "
        f"{scalars['steps_per_sec']:.2f} steps/s  data wait {scalars['data_wait_percent']:.1f} %  ETA {eta}"
    )


@dataclasses.dataclass
class _Clock:
    """Wall time since the last entry, and how much of it the loop waited for data."""

    start: float = dataclasses.field(default_factory=time.monotonic)
    wait_seconds: float = 0.0
    excluded_seconds: float = 0.0
    compile_seconds: float = 0.0

    def waiting(self):
        return _Span(self, "wait_seconds")

    def paused(self):
        return _Span(self, "excluded_seconds")

    def rates(self, num_steps: int, stepper: TrainStepper) -> dict[str, float]:
        """Steps per second (without compilation and evaluation) and data wait; starts the next interval."""
        now = time.monotonic()
        compiling = stepper.compile_seconds - self.compile_seconds
        busy = max(now - self.start - self.excluded_seconds - compiling, 1e-9)
        rates = {
            "steps_per_sec": num_steps / busy,
            "data_wait_percent": 100.0 * self.wait_seconds / busy,
            "num_compilations": float(stepper.num_compilations),
            "train_seconds": busy,
            "compile_seconds": compiling,
        }
        self.start, self.wait_seconds, self.excluded_seconds = now, 0.0, 0.0
        self.compile_seconds = stepper.compile_seconds
        return rates


@dataclasses.dataclass
class _Span:
    """Adds the time spent inside to a field of the clock."""

    clock: _Clock
    field: str
    start: float = 0.0

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *_) -> None:
        setattr(self.clock, self.field, getattr(self.clock, self.field) + time.monotonic() - self.start)
