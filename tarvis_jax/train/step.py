"""One optimizer step as two pure functions, compiled ahead of time: gradients of a batch, update of the state.

The batch comes as A microbatches [A, B / A, ...]; gradients are summed over them with a scan, so the global batch size
holds on any number of devices. The result does not depend on how the batch was split: losses are means over clips, what
they must know of the whole batch (the number of targets) is computed first, and every clip has random keys of its own.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from tarvis_jax import tasks
from tarvis_jax.compiled import Programs, Request, shapes_of
from tarvis_jax.model.structure import Arrays, ModelStructure
from tarvis_jax.parallel.mesh import microbatch_sharding, replicated
from tarvis_jax.run_config import Config
from tarvis_jax.tasks.objective import Batch, Objective
from tarvis_jax.train.optimizer import learning_rate_at, make_optimizer
from tarvis_jax.train.programs import GradientProgram
from tarvis_jax.train.state import TrainState, abstract_state, initial_state
from tarvis_jax.train.transfer import expand

# What a random draw is for: folded into the key after the step, and before the clip.
PURPOSE_MODEL = 0  # stochastic depth
PURPOSE_LOSS = 1  # point sampling, which objects are points

Metrics = dict[str, jax.Array]


def random_key(seed: int, mesh: Mesh) -> jax.Array:
    """The key from which every random draw of a run is made, on all devices of all processes."""

    def make() -> jax.Array:
        # Of all generators, this one alone gives a clip the same numbers whatever clips are beside it.
        return jax.random.key(seed, impl="threefry2x32")

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
    structure: ModelStructure, objective: Objective
) -> Callable[[Arrays, Arrays, Batch, jax.Array, jax.Array], tuple[Arrays, jax.Array, dict[str, jax.Array]]]:
    """The pure function (params, frozen, batch [A, B / A, ...], key [], step []) -> (gradients, loss [], terms).

    Gradients, loss and terms are those of the whole batch: means over its microbatches. The batch has a "place", see
    `put_batch`, from which the random keys of each clip are made.
    """

    def gradients(
        params: Arrays, frozen: Arrays, batch: Batch, key: jax.Array, step: jax.Array
    ) -> tuple[Arrays, jax.Array, dict[str, jax.Array]]:
        key = jax.random.fold_in(key, step)
        keys = [jax.random.fold_in(key, purpose) for purpose in (PURPOSE_LOSS, PURPOSE_MODEL)]
        statistics = objective.statistics(batch)
        num_microbatches = next(iter(batch.values())).shape[0]

        def loss_fn(params: Arrays, microbatch: Batch):
            keys_of_clips = [jax.vmap(jax.random.fold_in, (None, 0))(key, microbatch["place"]) for key in keys]
            return objective.loss(structure.build(params, frozen), expand(microbatch), *keys_of_clips, statistics)

        def of_microbatch(microbatch: Batch):
            (loss, terms), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, microbatch)
            return grads, loss, terms

        first = {name: array[0] for name, array in batch.items()}
        if num_microbatches == 1:
            return of_microbatch(first)

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
    ):
        """`objectives` by (dataset, task), equal ones share programs; all random draws of the run start from `seed`."""
        self.structure, self.mesh = structure, mesh
        self._optimizer, self._seed, self._keeps_ema = optimizer, seed, ema_decay > 0
        self._objectives = dict(objectives)
        self._gradients = {objective: make_gradients(structure, objective) for objective in objectives.values()}
        self._update = make_update(optimizer, learning_rate, ema_decay)
        self._whole, self._split = replicated(mesh), microbatch_sharding(mesh)
        self._key = random_key(seed, mesh)
        self.programs = Programs()

    def initial_state(self) -> TrainState:
        """The state before the first step, drawn from the seed, on the mesh."""
        return initial_state(self.structure, self._optimizer, self._seed, self._keeps_ema, self.mesh)

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and shardings of the state."""
        return abstract_state(self.structure, self._optimizer, self._keeps_ema, self.mesh)

    def __call__(self, kind: tuple[str, str], state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        """One step on a batch of `kind`, (dataset, task); `state` is donated (its arrays are dead afterwards).

        Returns without waiting for the device.

        Metrics: those of `make_update`, "loss", and the terms as `summarize` names them.
        """
        grads, loss, metrics = self._program(self._gradients_of(kind, state, batch))(
            state.params, state.frozen, dict(batch), self._key, state.step
        )
        state, more = self._program(self._update_of(state, grads, loss))(state, grads, loss)
        return state, metrics | more

    def compile_ahead(self, programs: Sequence[GradientProgram]) -> None:
        """Compiles `programs` and the update side by side; steps on batches of these shapes compile nothing more."""
        state = self.abstract_state()
        loss = jax.ShapeDtypeStruct((), jnp.float32)
        requests = [self._gradients_of(each.kind, state, each.batch) for each in programs]
        self.programs.compile_all([*requests, self._update_of(state, state.params, loss)])

    def _program(self, request: Request) -> Callable:
        return self.programs.get(request.key, request.lower, request.description)

    def _gradients_of(self, kind: tuple[str, str], state: TrainState, batch: Batch) -> Request:
        """Of arrays or of their shapes, as `_update_of`."""
        objective = self._objectives[kind]
        whole, split = self._whole, self._split

        def gradients(*arguments: Any) -> tuple[Arrays, jax.Array, Metrics]:
            grads, loss, terms = self._gradients[objective](*arguments)
            return grads, loss, summarize(loss, terms)

        return Request(
            (objective, shapes_of(dict(batch))),
            lambda: self._lower(
                jax.jit(gradients, in_shardings=(whole, whole, split, whole, whole), out_shardings=whole),
                (state.params, state.frozen, dict(batch), self._key, state.step),
            ),
            f"gradients of {' '.join(kind)}, images {'x'.join(map(str, batch['images'].shape[:-1]))}",
        )

    def _update_of(self, state: TrainState, grads: Arrays, loss: jax.Array) -> Request:
        whole = self._whole
        return Request(
            "update",
            lambda: self._lower(
                # The new state takes the place of the old one.
                jax.jit(self._update, donate_argnums=0, in_shardings=whole, out_shardings=whole),
                (state, grads, loss),
            ),
            "update",
        )

    def _lower(self, jitted: Any, arguments: tuple) -> jax.stages.Lowered:
        with jax.set_mesh(self.mesh):  # custom kernels split their batch by it
            return jitted.lower(*arguments)

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
            flags = jax.device_get(jax.jit(finite_flags, out_shardings=self._whole)(state, dict(batch), self._key))
        kinds = ("parameter", "frozen variable", "loss term", "sum", "gradient of")
        for kind, group in zip(kinds, flags, strict=True):
            for name, is_finite in group.items():
                if not is_finite:
                    return f"{kind} {name}"
        return "the updated parameters (the update itself overflowed)"


def make_stepper(config: Config, mesh: Mesh) -> TrainStepper:
    """The stepper of a run: model, optimizer and objectives as its config says."""
    structure = ModelStructure(config.model)
    return TrainStepper(
        structure,
        make_optimizer(config.optimizer, structure.params),
        learning_rate=lambda step: learning_rate_at(config.optimizer, step),
        ema_decay=config.optimizer.ema_decay,
        objectives=tasks.objectives(config),
        seed=config.train.seed,
        mesh=mesh,
    )
