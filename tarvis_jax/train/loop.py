"""The training loop, top to bottom: what it calls returns values and never decides what comes next."""

import contextlib
import dataclasses
import pathlib
from collections import defaultdict
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from absl import logging

from input_pipeline.bad_records import SKIP, LeftOut, summary
from input_pipeline.batches import BatchInfo, read_videos, require_data, train_batches
from input_pipeline.buckets import Size
from input_pipeline.config import DataConfig
from input_pipeline.mixture import BLOCK, Mixture
from input_pipeline.synthetic import Preparation
from tarvis_jax.ahead import RunAhead
from tarvis_jax.compiled import keep_between_runs
from tarvis_jax.config import save_json, to_plain
from tarvis_jax.evaluation import held_out
from tarvis_jax.evaluation.segment import fingerprint
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.parallel import distributed
from tarvis_jax.parallel.mesh import make_mesh, samples_of_process
from tarvis_jax.run_config import CONFIG_FILE, Config, TrainConfig
from tarvis_jax.train.interruption import InterruptedRun, Interruption
from tarvis_jax.train.memory import choose_microbatches
from tarvis_jax.train.metrics import MetricWriter, read_metrics, require_packages
from tarvis_jax.train.profiling import Profiler
from tarvis_jax.train.programs import gradient_programs
from tarvis_jax.train.progress import Progress
from tarvis_jax.train.state import TrainState, from_items, replace_weights, to_items
from tarvis_jax.train.step import TrainStepper, make_stepper
from tarvis_jax.train.transfer import prepare_transfer, to_devices
from tarvis_jax.visualize.run_report import write_training_report
from tarvis_jax.weights.backbone_files import find_initial_weights
from tarvis_jax.weights.checkpoints import Checkpoints
from tarvis_jax.weights.start import load_initial_weights


class NotFiniteError(RuntimeError):
    """A tensor became NaN or infinite; the message names it, the step and the dataset."""

    exit_status = 3  # of a command that stops for it


def train(config: Config, workdir: pathlib.Path | str) -> held_out.Scores:
    """Trains, from the newest checkpoint of `workdir` if there is one; returns the final evaluation's scores.

    Raises:
      ValueError: the config, the data or the weights to start from do not fit; the folder of a run stays as it was.
      NotFiniteError: the loss, a gradient or a parameter is not finite; the last good checkpoint stays.
    """
    workdir = pathlib.Path(workdir)
    keep_between_runs(config.train.compilation_cache)
    is_main = jax.process_index() == 0
    if is_main:
        require_packages(config.train.tensorboard, config.train.wandb_project)
    checkpoints = Checkpoints(workdir, config.train.keep_checkpoints, create=True)
    distributed.check_agreement({"config": to_plain(config), "newest checkpoint": checkpoints.latest_step})
    # Here, so that missing data and weights are known before anything is computed. A run that goes on needs no weights.
    if not config.synthetic.num_train:  # otherwise its files are yet to be written
        require_data(config.data)
    source = find_initial_weights(config) if checkpoints.latest_step is None else None
    stepper = make_stepper(config, make_mesh(fsdp_devices=config.train.mesh_fsdp_devices))
    with Preparation(config.data, config.synthetic, workdir, writes=is_main) as preparation:
        state = _begin(config, workdir, stepper, checkpoints, source)
        compiling = None
        if _needs_all_programs(config, start_step := int(state.step)):
            microbatches = choose_microbatches(config, stepper)
            thread = ThreadPoolExecutor(1)
            compiling = thread.submit(_compile_steps, config, config.data, stepper, microbatches)
            thread.shutdown(wait=False)  # takes nothing more; who presses Ctrl-C does not wait for the compiler
        data = preparation.finish()
        distributed.wait_for_all("data")
        left_out = LeftOut()
        videos = read_videos(data, left_out)
        plans = Mixture(data, videos)
        data = plans.config
        if compiling is not None:
            compiling.result()
    microbatches = choose_microbatches(dataclasses.replace(config, data=data), stepper)
    distributed.check_agreement({"number of microbatches": microbatches})
    rows = samples_of_process(config.data.batch_size, microbatches, stepper.mesh)
    host_batches = train_batches(data, videos=videos, plans=plans, start_step=start_step, left_out=left_out, rows=rows)
    workdir.mkdir(parents=True, exist_ok=True)
    if is_main:  # not before: a config that does not fit the folder's checkpoint or data leaves the run as it was
        save_json(workdir / CONFIG_FILE, config)
    if data.on_bad_record == SKIP:
        left_out.keep_in(workdir, jax.process_index())
    _log_start(stepper, config, microbatches)
    with (
        MetricWriter(
            workdir,
            to_plain(config),
            config.train.tensorboard,
            config.train.wandb_project,
            resume_step=start_step if start_step else None,
        ) as writer,
        Interruption(stepper.mesh) as interruption,
    ):
        evaluator = _Evaluator(config, data, workdir, writer, interruption)
        if is_main:
            evaluator.say_what_is_skipped()
        # The run may have ended before it was.
        _evaluate_if_due(evaluator, stepper.gathered(state), start_step, config.train)
        pending = checkpoints.restore_interval() if start_step else []
        with RunAhead(host_batches, lambda each: (each[0], to_devices(each[1], microbatches, stepper.mesh))) as batches:
            shapes = plans.shapes(range(start_step, config.train.num_steps))
            _compile_steps(config, data, stepper, microbatches, shapes)
            log = _Log(config, writer, Progress(config, stepper.programs), left_out, pending)
            profiler = Profiler(config.train.profiled_steps, workdir)
            with contextlib.closing(profiler):
                state = _run_steps(config, stepper, state, batches, checkpoints, evaluator, log, interruption, profiler)
        checkpoints.close()
        interruption.listen()
        state = stepper.gathered(state)
        scores = evaluator.finish(state)
        distributed.wait_for_all("final evaluation")
        if interruption.has_been_asked():
            raise InterruptedRun("SIGTERM came after the last step; the same command does what is left")
    if is_main:
        evaluation = workdir / "eval" / "final" if config.train.final_eval else None
        told = summary(workdir, config.train.num_steps) if data.on_bad_record == SKIP else {}
        write_training_report(workdir, to_plain(config), to_plain(Config()), read_metrics(workdir), evaluation, told)
    return scores


def _begin(
    config: Config, workdir: pathlib.Path, stepper: TrainStepper, checkpoints: Checkpoints, source: str | None
) -> TrainState:
    """The state to go on from: the newest checkpoint's, else with the weights of `source` (None: random ones)."""
    if checkpoints.latest_step is not None:
        like = stepper.abstract_state()
        state = from_items(like, *checkpoints.restore(*to_items(like)))
        logging.info("resumed from step %d of %s", checkpoints.latest_step, workdir)
        return state
    state = stepper.initial_state()
    if source is None:
        logging.info("weights to start from: random, seed %d", config.train.seed)
        return state
    params, frozen, report = load_initial_weights(
        source,
        config.model,
        state.params,
        state.frozen,
        class_names={dataset.name: dataset.class_names for dataset in config.data.datasets},
        new=config.train.init_new,
        leave_out=config.train.init_leave_out,
    )
    logging.info("weights to start from: %s", report)
    return replace_weights(state, params, frozen)


def _needs_all_programs(config: Config, start_step: int) -> bool:
    """Whether it is certain, before there are any videos, that the steps that are left take every program.

    The same in all processes: compilers of GPUs wait for each other. Where videos are read, not made, errors in them
    come before the compilation.
    """
    datasets = [dataset for dataset in config.data.datasets if dataset.weight]
    is_made_up = config.synthetic.num_train and not config.data.shards
    is_long = config.train.num_steps - start_step >= BLOCK * config.data.chunk_steps
    return bool(is_made_up and is_long and all(dataset.buckets for dataset in datasets))


def _compile_steps(
    config: Config,
    data: DataConfig,
    stepper: TrainStepper,
    microbatches: int,
    shapes: Collection[tuple[str, str, Size]] | None = None,
) -> None:
    """The programs of the steps, so far as they have not been compiled.

    `data` is the mixture with its buckets, `shapes` what the batches of the steps are of (None: all that can be).
    """
    programs = gradient_programs(dataclasses.replace(config, data=data), microbatches, shapes)
    stepper.compile_ahead(programs)
    for program in programs:
        prepare_transfer(program.batch, stepper.mesh)


def _run_steps(
    config: Config,
    stepper: TrainStepper,
    state: TrainState,
    batches: Iterator[tuple[BatchInfo, dict[str, jax.Array]]],
    checkpoints: Checkpoints,
    evaluator: "_Evaluator",
    log: "_Log",
    interruption: Interruption,
    profiler: Profiler,
) -> TrainState:
    """All steps that are left. What the host wants to know of a step it asks when the next one has been started."""
    settings = config.train
    previous = None  # (kind, batch, metrics) of the step before, for the guard
    first, state = int(state.step), stepper.pack(state)
    for step in range(first, settings.num_steps):
        profiler.before(step)
        with log.progress.waiting():
            info, batch = next(batches)
        state, metrics = stepper(info.kind, state, batch)
        profiler.after(step, metrics["is_finite"])
        interruption.listen()
        if previous is not None:
            _check_finite(stepper, state, step - 1, *previous)
        log.write_entry()
        log.add(info.dataset, metrics)
        previous = (info.kind, batch, metrics["is_finite"])

        done = step + 1
        is_last = done == settings.num_steps
        is_interrupted = interruption.all_agree() and not is_last
        saves = is_last or is_interrupted or _is_due(done, settings.checkpoint_steps)
        evaluates = _is_due(done, settings.eval_steps) and not is_last
        if saves or evaluates:
            _check_finite(stepper, state, step, *previous)  # nothing bad is ever saved
        if is_last or _is_due(done, settings.log_steps):
            log.end_entry(done)
        if saves or evaluates:
            log.write_entry()  # a run that goes on from here does not write it
        if saves:
            checkpoints.save(done, *to_items(stepper.unpack(state)), to_plain(config), _numbers(log.pending))
        if is_interrupted:
            checkpoints.close()
            raise InterruptedRun(
                f"ended by SIGTERM at step {done}, which is saved; the same command goes on from there"
            )
        if evaluates:
            with log.progress.paused():
                _evaluate_if_due(evaluator, stepper.gathered(stepper.unpack(state)), done, settings)
    return stepper.unpack(state)


class _Log:
    """Entries of the log, each of the steps since the one before.

    An entry is written after the step that follows it has been started, so that the devices have something to do while
    the host waits for its numbers.

    Attributes:
      progress: the clock of the run.
      pending: dataset and metrics of the steps that are in no entry yet.
    """

    def __init__(
        self,
        config: Config,
        writer: MetricWriter,
        progress: Progress,
        left_out: LeftOut,
        pending: list[tuple[str, dict[str, Any]]],
    ):
        """`pending`: of a resumed run, as numbers."""
        self._writer, self.progress, self.pending = writer, progress, pending
        self._left_out = left_out if config.data.on_bad_record == SKIP else None
        self._num_steps = 0  # of this session that are pending
        self._entry: tuple[int, list[tuple[str, dict[str, Any]]], int] | None = None

    def add(self, dataset: str, metrics: dict[str, jax.Array]) -> None:
        """Notes a step; nothing is read."""
        self.pending.append((dataset, metrics))
        self._num_steps += 1

    def end_entry(self, step: int) -> None:
        """The steps that are pending are those of the entry of `step`."""
        self._entry = step, self.pending, self._num_steps
        self.pending, self._num_steps = [], 0

    def write_entry(self) -> None:
        """Writes the entry that has ended, if there is one."""
        if self._entry is None:
            return
        (step, of_steps, num_steps), self._entry = self._entry, None
        scalars = _average(of_steps) | self.progress.rates(num_steps)
        if self._left_out is not None:
            scalars |= self._left_out.scalars()
        self._writer.write(step, scalars)
        if jax.process_index() == 0:
            self.progress.log(step, scalars)


def _evaluate_if_due(evaluator: "_Evaluator", state: TrainState, step: int, settings: TrainConfig) -> None:
    """All processes evaluate, unless they have."""
    if step and _is_due(step, settings.eval_steps) and step < settings.num_steps:
        if not distributed.told_by_first(evaluator.has_evaluated(step)):
            evaluator.evaluate(state, step)
        distributed.wait_for_all(f"evaluation of step {step}")


class _Evaluator:
    """Scores and draws the state of a run; what it compiles serves from one evaluation to the next.

    SIGTERM cuts it short; what it has not written is done when the run goes on.
    """

    def __init__(
        self, config: Config, data: DataConfig, workdir: pathlib.Path, writer: MetricWriter, interruption: Interruption
    ):
        self._config, self._data, self._workdir, self._writer = config, data, workdir, writer
        self._interruption = interruption
        self._predictors: dict[jax.Device, Predictor] = {}

    def say_what_is_skipped(self) -> None:
        """Before the first step: which datasets the evaluations will not score, and why."""
        if self._config.train.eval_steps or self._config.train.final_eval:
            held_out.log_skipped(held_out.find_held_out(self._config, self._data)[1])

    def has_evaluated(self, step: int) -> bool:
        """Whether the log has scores of `step`."""
        entries = (entry for entry in read_metrics(self._workdir) if entry["step"] == step)
        return any(name.startswith("eval/") for entry in entries for name in entry)

    def evaluate(
        self, state: TrainState, step: int, name: str = "", table: pathlib.Path | None = None
    ) -> held_out.Scores:
        """Scores on the held-out videos, written as metrics of `step`; tracks go to workdir/eval/<name or step>.

        All processes of a run call it.
        """
        predictors, weights = self._predictors_of(state)
        scores = held_out.evaluate_predictor(
            self._config,
            self._data,
            predictors,
            self._workdir / "eval" / (name or str(step)),
            weights=weights,
            table=table,
            interruption=self._interruption,
        )
        for predictor in predictors:  # of a split state these are gathered copies, which training has no room for
            predictor.release_variables()
        if self._interruption.has_been_asked():
            return {}
        if scores:
            self._writer.write(step, held_out.flatten_scores(scores))
        return scores

    def finish(self, state: TrainState) -> held_out.Scores:
        """The final scores and the demonstration, as far as the config asks for them."""
        settings = self._config.train
        scores: held_out.Scores = {}
        if settings.final_eval:
            scores = self.evaluate(state, settings.num_steps, "final", self._workdir / "scores.txt")
        if jax.process_index() or self._interruption.has_been_asked():
            return {}
        with self._interruption.may_cut_short():
            if settings.demo_videos:
                held_out.write_demos(self._config, self._data, self._predictors_of(state)[0][0], self._workdir / "demo")
        return scores

    def _predictors_of(self, state: TrainState) -> tuple[list[Predictor], str]:
        """One on each device of this process, with the moving average of the weights where one is kept; and their
        fingerprint. They hold the arrays of `state` itself."""
        weights = (state.ema or state.params) | state.frozen
        shards = {
            name: {each.device: each.data for each in value.addressable_shards} for name, value in weights.items()
        }
        for device in jax.local_devices():
            values = {name: of_device[device] for name, of_device in shards.items()}
            if device in self._predictors:
                self._predictors[device].set_variables(values)
            else:
                self._predictors[device] = Predictor(self._config.model, values, device=device)
        return list(self._predictors.values()), fingerprint(jax.device_get(weights))


def _log_start(stepper: TrainStepper, config: Config, microbatches: int) -> None:
    logging.info(
        "%.1f M parameters, %d device(s), global batch %d in %d microbatch(es)",
        sum(np.prod(p.shape) for p in stepper.structure.params.values()) / 1e6,
        stepper.mesh.size,
        config.data.batch_size,
        microbatches,
    )
    total = sum(dataset.weight for dataset in config.data.datasets)
    shares = [f"{dataset.name} {dataset.weight / total:.3g}" for dataset in config.data.datasets]
    logging.info("share of the batches that each dataset has: %s", ", ".join(shares))


def _is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _check_finite(
    stepper: TrainStepper, state: TrainState, step: int, kind: tuple[str, str], batch: Any, is_finite: jax.Array
) -> None:
    """Raises NotFiniteError if the step's flag says so; the state has not changed since that step began."""
    if not bool(is_finite):
        tensor = stepper.first_bad_tensor(kind, state, batch)
        raise NotFiniteError(
            f"step {step + 1}, dataset {kind[0]}: {tensor} is not finite; training stopped, the last checkpoint is good"
        )


def _numbers(pending: list[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, float]]]:
    """`pending` as JSON knows it, exactly."""
    return [
        (dataset, {name: float(value) for name, value in metrics.items()})
        for dataset, metrics in jax.device_get(pending)
    ]


def _average(pending: list[tuple[str, dict[str, Any]]]) -> dict[str, float]:
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
