"""One optimizer step as two pure functions, compiled ahead of time: gradients of a batch, update of the state.

The batch comes as A microbatches [A, B / A, ...]; gradients are summed over them, so the global batch size holds on any
number of devices. The result does not depend on how the batch was split: losses are means over clips, what they must
know of the whole batch (the number of targets) is computed first, and every clip has random keys of its own.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from tarvis_jax import lowered, tasks
from tarvis_jax.compiled import (
    Programs,
    Request,
    deterministic_compiler_options,
    shapes_of,
    training_compiler_options,
)
from tarvis_jax.config import to_plain
from tarvis_jax.model.structure import Arrays, ModelStructure
from tarvis_jax.parallel.mesh import microbatch_sharding, put, replicated
from tarvis_jax.parallel.sharding import GATHERED, gather, shardings_of
from tarvis_jax.run_config import Config
from tarvis_jax.tasks.objective import Batch, Objective
from tarvis_jax.train.optimizer import learning_rate_at, make_optimizer, packing_of
from tarvis_jax.train.packing import Packing
from tarvis_jax.train.programs import GradientProgram
from tarvis_jax.train.state import TrainState, abstract_state, initial_state
from tarvis_jax.train.transfer import expand

# What a random draw is for: folded into the key after the step, and before the clip.
PURPOSE_MODEL = 0  # stochastic depth
PURPOSE_LOSS = 1  # point sampling, which objects are points

_GENERATOR = "threefry2x32"  # of all, this one alone gives a clip the same numbers whatever clips are beside it

Metrics = dict[str, jax.Array]


def random_key(seed: int, mesh: Mesh) -> jax.Array:
    """The key from which every random draw of a run is made, on all devices of all processes."""

    def make() -> jax.Array:
        return jax.random.key(seed, impl=_GENERATOR)

    return jax.jit(make, out_shardings=replicated(mesh))()


def make_update(
    optimizer: optax.GradientTransformation, learning_rate: Callable[[jax.Array], jax.Array], ema_decay: float
) -> Callable[[TrainState, Arrays, jax.Array], tuple[TrainState, Metrics]]:
    """The pure function (state, gradients, loss []) -> (state, metrics).

    Metrics are scalars: "grad_norm", "param_norm", "learning_rate" (float32) and "is_finite" (bool). When a tensor is
    not finite the state stays as it was, but for `is_healthy`.
    """

    @jax.named_scope("update")
    def update(state: TrainState, grads: Arrays, loss: jax.Array) -> tuple[TrainState, Metrics]:
        grad_norm = optax.global_norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        param_norm = optax.global_norm(params)
        is_healthy = state.is_healthy & jnp.isfinite(loss) & jnp.isfinite(grad_norm) & jnp.isfinite(param_norm)

        ema = state.ema
        if ema:
            # Ramped: an average over few steps must not be dominated by the initial weights.
            decay = jnp.minimum(ema_decay, (1.0 + state.step) / (10.0 + state.step))
            ema = jax.tree.map(lambda old, new: old + (1.0 - decay) * (new - old), ema, params)

        def keep_if_healthy(new: Any, old: Any) -> Any:
            return jax.tree.map(lambda a, b: jnp.where(is_healthy, a, b), new, old)

        new_state = TrainState(
            params=keep_if_healthy(params, state.params),
            frozen=state.frozen,
            opt_state=keep_if_healthy(opt_state, state.opt_state),
            ema=keep_if_healthy(ema, state.ema),
            step=state.step + is_healthy.astype(jnp.int32),
            is_healthy=is_healthy,
        )
        return new_state, {
            "grad_norm": grad_norm,
            "param_norm": param_norm,
            "learning_rate": jnp.asarray(learning_rate(state.step), jnp.float32),
            "is_finite": is_healthy,
        }

    return update


def make_gradients(
    structure: ModelStructure, objective: Objective, mesh: Mesh | None = None, shard: str = "none"
) -> Callable[..., tuple[Arrays, jax.Array, dict[str, jax.Array]]]:
    """The pure function (params, frozen, batch [A, B / A, ...], key [], step []) -> (gradients, loss [], terms).

    Gradients, loss and terms are those of the whole batch: means over its microbatches, which come one after the other.
    With the number of a microbatch, int32 [], as a sixth argument they are those of this microbatch. The batch has a
    "place", see `put_batch`, from which the random keys of each clip are made.

    Parameters and gradients lie on `mesh` as `shard` says (see `partition_spec`). Those that are split are gathered
    where they are used, once more in the backward pass, so that no device holds all of them for long.
    """
    shards_params = shard == "parameters"
    if shard != "none":
        params_lie = shardings_of(structure.params, shard, mesh, "params")
        grads_lie = shardings_of(structure.params, shard, mesh, "grads")

    def gradients(
        params: Arrays,
        frozen: Arrays,
        batch: Batch,
        key: jax.Array,
        step: jax.Array,
        microbatch: jax.Array | None = None,
    ) -> tuple[Arrays, jax.Array, dict[str, jax.Array]]:
        key = jax.random.fold_in(key, step)
        keys = [jax.random.fold_in(key, purpose) for purpose in (PURPOSE_LOSS, PURPOSE_MODEL)]
        statistics = objective.statistics(batch)
        num_microbatches = next(iter(batch.values())).shape[0]

        def loss_fn(params: Arrays, microbatch: Batch):
            if shards_params:
                params = gather(params, params_lie)
            keys_of_clips = [jax.vmap(jax.random.fold_in, (None, 0))(key, microbatch["place"]) for key in keys]
            return objective.loss(structure.build(params, frozen), expand(microbatch), *keys_of_clips, statistics)

        if shards_params:
            loss_fn = jax.checkpoint(loss_fn, policy=jax.checkpoint_policies.save_anything_except_these_names(GATHERED))

        def of_microbatch(microbatch: Batch):
            (loss, terms), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, microbatch)
            if shard != "none":
                grads = jax.lax.with_sharding_constraint(grads, grads_lie)
            return grads, loss, terms

        first = {name: array[0] for name, array in batch.items()}
        if num_microbatches == 1:
            return of_microbatch(first)
        if microbatch is not None:
            return of_microbatch({name: array[microbatch] for name, array in batch.items()})

        def add(total: Any, microbatch: Batch):
            return jax.tree.map(jnp.add, total, of_microbatch(microbatch)), None

        shapes = jax.eval_shape(of_microbatch, first)
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, dict(batch))
        return jax.tree.map(lambda leaf: leaf / num_microbatches, total)

    return gradients


def summarize(loss: jax.Array, terms: Mapping[str, jax.Array]) -> Metrics:
    """Scalars of a loss and its terms [L]: the last prediction's by name, the earlier ones' mean as "aux/<name>"."""
    metrics = {"loss": loss}
    for name, values in terms.items():
        values = jnp.atleast_1d(values)
        metrics[name] = values[-1]
        if values.shape[0] > 1:
            metrics[f"aux/{name}"] = values[:-1].mean()
    return metrics


class TrainStepper:
    """Runs training steps with programs compiled ahead of time.

    One program computes gradients, for each objective and batch shape; another, shared by all, updates the state:
    compiling the update of hundreds of tensors once more for every bucket would cost more than it saves.

    Attributes:
      structure: of the model.
      mesh: the devices.
      microbatches_at_once: how many microbatches are computed at the same time; 1 but on one CPU.
      programs: what is compiled.
    """

    def __init__(
        self,
        structure: ModelStructure,
        optimizer: optax.GradientTransformation,
        learning_rate: Callable[[jax.Array], jax.Array],
        ema_decay: float,
        objectives: Mapping[tuple[str, str], Objective],
        seed: int,
        mesh: Mesh,
        shard: str = "none",
        deterministic: bool = False,
        microbatches_at_once: int = 1,
        packing: Packing | None = None,
        origin: str | None = None,
    ):
        """`objectives` by (dataset, task), equal ones share programs; all random draws of the run start from `seed`.

        `shard` says what of the state is split over the mesh's axis "fsdp" (see `partition_spec`). `deterministic`:
        compile so that every run gives the same bits; the model of `structure` must be deterministic, too.
        `microbatches_at_once`: see `TrainConfig`. `packing`: of the state between steps, whose vectors `optimizer`
        takes, too; not where the state is split. `origin`: in words, what the other arguments are made from; with it,
        lowered programs are kept for later runs (`lowered.py`).

        Raises:
          ValueError: a packing of a state that is split.
        """
        if packing is not None and shard != "none":
            raise ValueError(f"a state that is split (shard {shard!r}) cannot be packed")
        self._packing = packing
        self.structure, self.mesh = structure, mesh
        self._optimizer, self._seed, self._keeps_ema = optimizer, seed, ema_decay > 0
        self._objectives = dict(objectives)
        self._gradients = {
            objective: make_gradients(structure, objective, mesh, shard) for objective in objectives.values()
        }
        self._update = make_update(optimizer, learning_rate, ema_decay)
        self._whole, self._split, self._shard = replicated(mesh), microbatch_sharding(mesh), shard
        platform = mesh.devices.flat[0].platform
        self._options = training_compiler_options(platform)
        if deterministic:
            self._options |= deterministic_compiler_options(platform)
        # Of other platforms and of several processes no lowered program was ever kept and taken again.
        self._origin = origin if platform == "cpu" and jax.process_count() == 1 else None
        self.programs = Programs()
        # A CPU runs what one thread starts in that order; programs that shall run at once are started by several.
        self.microbatches_at_once = microbatches_at_once if platform == "cpu" and mesh.size == 1 else 1
        self._lanes = [ThreadPoolExecutor(1, "microbatch") for _ in range(self.microbatches_at_once)]

    @functools.cached_property
    def _key(self) -> jax.Array:
        return random_key(self._seed, self.mesh)

    def initial_state(self) -> TrainState:
        """The state before the first step, drawn from the seed, on the mesh."""
        return initial_state(
            self.structure, self._optimizer, self._seed, self._keeps_ema, self.mesh, self._shard, self._origin
        )

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        return abstract_state(self.structure, self._optimizer, self._keeps_ema, self.mesh, self._shard)

    def pack(self, state: TrainState) -> TrainState:
        """`state` as steps take and give it: the same, or with vectors in place of its arrays, by way of the host."""
        if self._packing is None:
            return state
        return self._packing.pack_tree(state, lambda arrays: self._put(self._packing.pack(jax.device_get(arrays), np)))

    def unpack(self, state: TrainState) -> TrainState:
        """The inverse of `pack`."""
        if self._packing is None:
            return state

        def unpack(vectors: Arrays) -> Arrays:
            # Copies, since the next step writes over the vectors.
            return self._put(jax.tree.map(np.copy, self._packing.unpack(jax.device_get(vectors))))

        return self._packing.unpack_tree(state, unpack)

    def _put(self, arrays: dict[str, np.ndarray]) -> Arrays:
        return {name: put(array, array.dtype, self._whole) for name, array in arrays.items()}

    def gathered(self, state: TrainState) -> TrainState:
        """`state` with weights and moving average whole on every device, for evaluation.

        In a run of several processes, every one of them calls it, since split arrays are gathered from all.
        """
        if self._shard == "none":
            return state
        params, ema = jax.jit(lambda tree: tree, out_shardings=self._whole)((state.params, state.ema))
        return dataclasses.replace(state, params=params, ema=ema)

    def __call__(self, kind: tuple[str, str], state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step on a batch of `kind`, (dataset, task); `state`, see `pack`, is donated (its arrays are dead then).

        Returns without waiting for the device.

        Metrics: those of `make_update`, "loss", and the terms as `summarize` names them.
        """
        parts = self._num_parts(batch)
        update = self._program(self.update_request(parts))
        grads, losses, metrics = zip(*self._start_gradients(kind, state, batch), strict=True)
        metrics = metrics[0] if parts == 1 else jax.tree.map(_mean_of_scalars, *metrics)
        leaves, structure = jax.tree.flatten(state)
        leaves, more = update(leaves, grads, losses)
        return jax.tree.unflatten(structure, leaves), metrics | more

    def _start_gradients(
        self, kind: tuple[str, str], state: TrainState, batch: Batch
    ) -> list[tuple[Arrays, jax.Array, Metrics]]:
        """(gradients, loss, metrics) of each part of the batch."""
        program = self._program(self.gradients_request(kind, batch))
        arguments = (state.params, state.frozen, dict(batch), self._key, state.step)
        parts = self._num_parts(batch)
        if parts == 1:
            return [program(*arguments)]
        lanes = itertools.cycle(self._lanes)
        running = [next(lanes).submit(program, *arguments, np.int32(number)) for number in range(parts)]
        return [each.result() for each in running]

    def _num_parts(self, batch: Mapping[str, Any]) -> int:
        """For how many parts of a batch gradients are asked for: its microbatches where several are computed at once,
        else all of it."""
        return 1 if self.microbatches_at_once == 1 else next(iter(batch.values())).shape[0]

    def compile_ahead(self, programs: Sequence[GradientProgram]) -> None:
        """Compiles `programs` and the update side by side; steps on batches of these shapes compile nothing more."""
        requests = [self.gradients_request(each.kind, each.batch) for each in programs]
        parts = {self._num_parts(each.batch) for each in programs}
        self.programs.compile_all([*requests, *map(self.update_request, parts)])
        # What else the first step would compile: what makes the key, and what takes the means of metrics.
        jax.block_until_ready(self._key)
        for count in parts - {1}:
            _mean_of_scalars(*jax.device_put([np.float32(0)] * count, self._whole))

    def _program(self, request: Request) -> Callable:
        return self.programs.get(request.key, request.lower, request.description)

    def gradients_request(self, kind: tuple[str, str], batch: Mapping[str, Any]) -> Request:
        """The program of gradients for batches of `kind` like `batch`, which may be shapes alone."""
        return Request(
            (self._objectives[kind], shapes_of(dict(batch))),
            lambda: self._lower(*self._source_of_gradients(kind, batch, self._num_parts(batch)), " ".join(kind)),
            f"gradients of {' '.join(kind)}, images {'x'.join(map(str, batch['images'].shape[:-1]))}",
        )

    def update_request(self, parts: int = 1) -> Request:
        """The program that updates the state, the same for all batches; it takes the means of `parts` gradients."""
        return Request(("update", parts), lambda: self._lower(*self._source_of_update(parts)), "update")

    def trace_gradients(self, kind: tuple[str, str], batch: Mapping[str, Any]) -> jax.stages.Traced:
        """The program of gradients of whole batches of `kind` like `batch`, which may be shapes alone; not lowered."""
        function, arguments, options = self._source_of_gradients(kind, batch, parts=1)
        with jax.set_mesh(self.mesh):
            return jax.jit(function, **options).trace(*arguments)

    def _lower(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any], kind: str = ""
    ) -> jax.stages.Lowered:
        origin = None if self._origin is None else f"{kind} {self._origin}"
        with jax.set_mesh(self.mesh):  # custom kernels split their batch by it
            return lowered.lower(function, arguments, options, origin)

    def _source_of_gradients(
        self, kind: tuple[str, str], batch: Mapping[str, Any], parts: int
    ) -> tuple[Callable, tuple, dict]:
        """(function, shapes of its arguments, options of jax.jit); of several parts one is computed, by its number."""

        def gradients(*arguments: Any) -> tuple[Arrays, jax.Array, Metrics]:
            params, *others = arguments
            if self._packing is not None:
                params = self._packing.unpack(params)
            grads, loss, terms = self._gradients[self._objectives[kind]](params, *others)
            if self._packing is not None:
                grads = self._packing.pack(grads)
            return grads, loss, summarize(loss, terms)

        state, whole = self._abstract_packed_state(), self._whole
        key = jax.eval_shape(lambda: jax.random.key(0, impl=_GENERATOR))
        shapes = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in batch.items()}
        numbers = [] if parts == 1 else [jax.ShapeDtypeStruct((), jnp.int32)]
        options = {
            "in_shardings": (
                *(_shardings(state.params), _shardings(state.frozen), self._split, whole, whole),
                *(whole for _ in numbers),
            ),
            "out_shardings": (_shardings(self._abstract_grads()), whole, whole),
            "compiler_options": self._options,
        }
        return gradients, (state.params, state.frozen, shapes, key, state.step, *numbers), options

    def _source_of_update(self, parts: int) -> tuple[Callable, tuple, dict]:
        """Like `_source_of_gradients`; the state comes and goes as the list of its leaves."""
        leaves, structure = jax.tree.flatten(self._abstract_packed_state())
        grads = (self._abstract_grads(),) * parts
        losses = (jax.ShapeDtypeStruct((), jnp.float32),) * parts

        def update(
            leaves: list[jax.Array], grads: tuple[Arrays, ...], losses: tuple[jax.Array, ...]
        ) -> tuple[list[jax.Array], Metrics]:
            means = jax.tree.map(_mean, *grads), _mean(*losses)
            state, metrics = self._update(jax.tree.unflatten(structure, leaves), *means)
            return jax.tree.leaves(state), metrics

        options = {
            "donate_argnums": 0,  # the new state takes the place of the old one
            "in_shardings": (_shardings(leaves), _shardings(grads), self._whole),
            "out_shardings": (_shardings(leaves), self._whole),
            "compiler_options": self._options,
        }
        return update, (leaves, grads, losses), options

    def _abstract_packed_state(self) -> TrainState:
        state = self.abstract_state()
        return state if self._packing is None else self._packing.pack_tree(state, lambda _: self._abstract_grads())

    def _abstract_grads(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes, dtypes and shardings of gradients, packed if the state is."""
        shapes = self.structure.params if self._packing is None else self._packing.shapes()
        lie = shardings_of(shapes, self._shard, self.mesh, "grads")
        return {name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=lie[name]) for name, leaf in shapes.items()}

    def first_bad_tensor(self, kind: tuple[str, str], state: TrainState, batch: Batch) -> str:
        """Names the first tensor that is not finite when `state` takes a step on `batch`.

        Looked for in this order: parameter, frozen variable, loss term, gradient. Compiles a program of its own.
        """

        def finite_flags(state: TrainState, batch: Batch, key: jax.Array) -> list[dict[str, jax.Array]]:
            gradients = self._gradients[self._objectives[kind]]
            grads, loss, terms = gradients(state.params, state.frozen, batch, key, state.step)
            groups = (state.params, state.frozen, terms, {"of all terms": loss}, grads)
            return [{name: jnp.isfinite(value).all() for name, value in group.items()} for group in groups]

        with jax.set_mesh(self.mesh):
            find = jax.jit(finite_flags, out_shardings=self._whole)
            flags = jax.device_get(find(self.unpack(state), dict(batch), self._key))
        kinds = ("parameter", "frozen variable", "loss term", "sum", "gradient of")
        for kind, group in zip(kinds, flags, strict=True):
            for name, is_finite in group.items():
                if not is_finite:
                    return f"{kind} {name}"
        return "the updated parameters (the update itself overflowed)"


def _mean(*arrays: jax.Array) -> jax.Array:
    return arrays[0] if len(arrays) == 1 else sum(arrays) / len(arrays)


_mean_of_scalars = jax.jit(_mean)


def _shardings(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf.sharding, tree)


def make_stepper(config: Config, mesh: Mesh) -> TrainStepper:
    """The stepper of a run: model, optimizer and objectives as its config says."""
    model = config.model
    if config.train.deterministic:
        # Gradients of cuDNN's attention and of the fast kernels of deformable attention differ from run to run.
        model = dataclasses.replace(model, ms_deform_attn_deterministic=True, attention_backend="xla")
    structure = ModelStructure(model)
    packing = packing_of(structure.params) if config.train.pack_state else None
    return TrainStepper(
        structure,
        make_optimizer(config.optimizer, structure.params, packing),
        learning_rate=lambda step: learning_rate_at(config.optimizer, step),
        ema_decay=config.optimizer.ema_decay,
        objectives=tasks.objectives(config),
        seed=config.train.seed,
        mesh=mesh,
        shard=config.train.shard,
        deterministic=config.train.deterministic,
        microbatches_at_once=config.train.microbatches_at_once,
        packing=packing,
        origin=json.dumps(to_plain(config), sort_keys=True),
    )
