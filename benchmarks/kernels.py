"""Speed of multi-scale deformable attention: every back end of this platform and its rivals, same inputs, same run.

    python -m benchmarks.kernels --out=kernels.json      # shapes and dtypes of this platform
    python -m benchmarks.kernels --peers=/tmp/peers      # GPU: the original CUDA op and DCNv4 too (prepare_peers.sh)
    python -m benchmarks.kernels --shapes=tiny --reps=2  # a smoke test

How a pass is timed. JAX: N calls in one compiled loop, each of which waits for the one before (one number of its
result, times zero, is added to the small table of reference points, which no compiler may undo); the slope of the time
over N, less that of a loop with this addition alone, is a call without launching, dispatch or transfer. PyTorch: N
calls between two events on a GPU; call by call on a CPU. The contenders take turns, the median over the turns counts.
Warm: the inputs may lie in the L2 cache. Cold (GPU): before each call a buffer twice as large as the cache is
overwritten, in the loop that is taken off as well.

The floor is the time to read each input and write each output once at the bandwidth that a large copy reaches here.
"""

import argparse
import functools
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too

import jax
import jax.numpy as jnp
import numpy as np
import torch

from benchmarks.common import environment, write_json
from kernels.ms_deform_attn.backends import BACKENDS
from kernels.ms_deform_attn.operator import ms_deform_attn

HEADS, HEAD_SIZE, POINTS = 8, 32, 4
STRIDES = (32, 16, 8)
# name -> frames (times clips), height and width of a frame
SHAPES = {
    "tiny": (2, 64, 64),
    "B1 256x448": (1, 256, 448),
    "B3 512x896": (3, 512, 896),
    "T3B1 512x896": (3, 512, 896),
    "T3B4 512x896": (12, 512, 896),
    "T12 448x832": (12, 448, 832),
}
DEFAULT_SHAPES = {
    "cpu": ("B1 256x448", "B3 512x896"),
    "gpu": ("T3B1 512x896", "T3B4 512x896", "T12 448x832"),
    "tpu": ("T3B1 512x896", "T3B4 512x896", "T12 448x832"),
}
# "xla_deterministic" only when asked for: on a GPU it sorts.
DEFAULT_BACKENDS = {"cpu": ("xla",), "gpu": ("cuda", "triton", "xla"), "tpu": ("tpu", "xla")}
DIRECTIONS = ("forward", "backward")
_FLUSH_BYTES = 2**27  # twice the 60 MB of L2 of an H200


class Inputs:
    """One set of inputs as numpy arrays: pixel offsets, logits and reference points, and what rivals want instead."""

    def __init__(self, shape: tuple[int, int, int], is_inside: bool):
        """Args: shape: (B, height, width) in pixels. is_inside: no sample leaves its map; DCNv4's gradients need it."""
        batch, height, width = shape
        rng = np.random.default_rng(0)
        self.level_shapes = tuple((height // s, width // s) for s in STRIDES)
        cells = sum(h * w for h, w in self.level_shapes)
        levels = len(STRIDES)
        self.value = rng.standard_normal((batch, cells, HEADS, HEAD_SIZE), np.float32)
        self.out_grad = rng.standard_normal((batch, cells, HEADS * HEAD_SIZE), np.float32)
        # As the layer begins (head m looks along the angle 2 pi m / M, point p at p + 1 pixels) and some training.
        angles = 2 * np.pi * np.arange(HEADS) / HEADS
        directions = np.stack([np.cos(angles), np.sin(angles)], -1)
        directions /= np.abs(directions).max(-1, keepdims=True)
        start = directions[:, None, None] * np.arange(1, POINTS + 1)[:, None]  # [M, 1, P, 2]
        offsets = rng.normal(0, 2, (batch, cells, HEADS, levels, POINTS, 2)) + start
        centers = [
            np.stack(np.meshgrid((np.arange(w) + 0.5) / w, (np.arange(h) + 0.5) / h), -1).reshape(-1, 2)
            for h, w in self.level_shapes
        ]
        self.reference = np.repeat(np.concatenate(centers)[:, None], levels, 1).astype(np.float32)  # [Q, L, 2]
        sizes = np.array([(w, h) for h, w in self.level_shapes], np.float32)
        location_px = self.reference[:, None, :, None] * sizes[:, None] + offsets  # edges at 0 and w
        if is_inside:
            location_px = np.clip(location_px, 1.0, sizes[:, None] - 1.0)
            offsets = location_px - self.reference[:, None, :, None] * sizes[:, None]
        self.offsets = offsets.astype(np.float32)
        self.locations = (location_px / sizes[:, None]).astype(np.float32)
        self.logits = rng.standard_normal((batch, cells, HEADS, levels, POINTS), np.float32)

    def least_bytes(self, direction: str, itemsize: int) -> int:
        """Each input read and each output written once."""
        samples = self.offsets.size + self.logits.size
        times_value, times_samples = {"forward": (2, 1), "backward": (3, 2)}[direction]
        return itemsize * (times_value * self.value.size + times_samples * samples)


# --- JAX


def jax_function(inputs: Inputs, backend: str, direction: str) -> Callable:
    """(value, offsets, logits, out_grad, reference) -> tuple of results."""

    def forward(value, offsets, logits, out_grad, reference):
        del out_grad
        return (ms_deform_attn(value, offsets, logits, reference, inputs.level_shapes, backend=backend),)

    def backward(value, offsets, logits, out_grad, reference):
        def operator(*leaves):
            return ms_deform_attn(*leaves, reference, inputs.level_shapes, backend=backend)

        return jax.vjp(operator, value, offsets, logits)[1](out_grad)

    return {"forward": forward, "backward": backward}[direction]


def nothing(value, offsets, logits, out_grad, reference):
    """In place of a back end: what the loop itself takes."""
    return (reference,)


def jax_timer(call: Callable, arrays: tuple, num_calls: int, flush: jax.Array | None) -> Callable:
    """A function that measures once: seconds of a call, from the slope between 1 and 1 + num_calls calls.

    Args:
      call: see `jax_function`.
      arrays: its arguments.
      num_calls: in the longer of the two loops, less one.
      flush: a buffer that is overwritten before each call, or None.
    """

    def program(num_calls, arrays, buffer):
        *fixed, reference = arrays

        def body(_, carry):
            results, reference, buffer = carry
            last = jax.tree.leaves(results)[0].ravel()[0].astype(jnp.float32)
            reference = reference + 0.0 * last
            if buffer is not None:
                buffer = buffer + reference[0, 0, 0]
                reference, buffer = jax.lax.optimization_barrier((reference, buffer))
            return call(*fixed, reference), reference, buffer

        shapes = jax.eval_shape(call, *arrays)
        results = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.fori_loop(0, num_calls, body, (results, reference, buffer))

    jitted = jax.jit(program, static_argnums=0)
    programs = [jitted.lower(n, arrays, flush).compile() for n in (1, 1 + num_calls)]
    for compiled in programs:
        jax.block_until_ready(compiled(arrays, flush))

    def measure() -> float:
        times = []
        for compiled in programs:
            start = time.perf_counter()
            jax.block_until_ready(compiled(arrays, flush))
            times.append(time.perf_counter() - start)
        return (times[1] - times[0]) / num_calls

    return measure


# --- PyTorch


def _grid_sample(value, level_shapes, locations, weights):
    """The operator out of torch.nn.functional.grid_sample, one call per level, as without an extension."""
    batch, _, heads, depth = value.shape
    queries, points = locations.shape[1], locations.shape[4]
    samples, start = [], 0
    for level, (h, w) in enumerate(level_shapes):
        maps = value[:, start : start + h * w].permute(0, 2, 3, 1).reshape(batch * heads, depth, h, w)
        grid = locations[:, :, :, level].transpose(1, 2).reshape(batch * heads, queries, points, 2) * 2 - 1
        samples.append(torch.nn.functional.grid_sample(maps, grid.to(maps.dtype), align_corners=False))
        start += h * w
    weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, -1)
    out = (torch.cat(samples, -1) * weights).sum(-1)  # [B M, D, Q]
    return out.reshape(batch, heads * depth, queries).transpose(1, 2).contiguous()


def torch_rivals(inputs: Inputs, peers: str | None, device: str) -> dict[str, Callable]:
    """name -> function that prepares it: (function of tensors that need gradients -> output, those tensors).

    The reference's own work between projections and output is included: softmax and locations.
    """
    tensor = lambda x, dtype=torch.float32: torch.from_numpy(x).to(device, dtype)  # noqa: E731
    sizes = tensor(np.array([(w, h) for h, w in inputs.level_shapes], np.float32))
    reference = tensor(inputs.reference)[None, :, None, :, None]
    leaves = [tensor(x).requires_grad_() for x in (inputs.value, inputs.offsets, inputs.logits)]

    def classic(operator):
        def call(value, offsets, logits):
            locations = reference + offsets / sizes[:, None]
            weights = logits.flatten(3).softmax(-1).view(logits.shape)
            return operator(value, locations, weights)

        return call, leaves

    rivals = {"torch grid_sample": lambda: classic(lambda v, l, w: _grid_sample(v, inputs.level_shapes, l, w))}
    if device != "cuda":
        return rivals
    shapes = torch.tensor(inputs.level_shapes, device=device)
    starts = torch.cat([shapes.new_zeros(1), shapes.prod(1).cumsum(0)[:-1]])

    def ours():
        from kernels.ms_deform_attn.cuda.torch_op import MSDeformAttnFunction as Ours

        return classic(lambda v, l, w: Ours.apply(v, shapes, starts, l, w, 128))

    def original_op():
        sys.path.insert(0, os.path.join(peers, "cuda_op"))
        import MultiScaleDeformableAttention as original

        class Original(torch.autograd.Function):
            """The original op; its chunk of 128 frames takes every batch here in one go."""

            @staticmethod
            def forward(ctx, value, locations, weights):
                ctx.save_for_backward(value, locations, weights)
                return original.ms_deform_attn_forward(value, shapes, starts, locations, weights, 128)

            @staticmethod
            def backward(ctx, grad):
                value, locations, weights = ctx.saved_tensors
                grads = original.ms_deform_attn_backward(value, shapes, starts, locations, weights, grad, 128)
                return tuple(grads)

        return classic(Original.apply)

    def dcnv4():
        sys.path.insert(0, os.path.join(peers, "dcnv4"))
        from DCNv4.functions.flash_deform_attn_func import FlashDeformAttnFunction

        # It takes float16 locations and logits side by side, [B, Q, M, L * K * 3], and K = points of a level.
        samples = inputs.logits.shape[:3]
        packed = np.concatenate([inputs.locations.reshape(*samples, -1), inputs.logits.reshape(*samples, -1)], -1)
        halves = [tensor(x, torch.float16).requires_grad_() for x in (inputs.value, packed)]
        call = lambda value, packed: FlashDeformAttnFunction.apply(value, shapes, starts, packed, 64, POINTS)  # noqa: E731
        return call, halves

    rivals["ours under PyTorch"] = ours
    if peers:
        rivals["original CUDA op"] = original_op
    if peers and os.path.isdir(os.path.join(peers, "dcnv4_source")) and inputs.value.shape[1] % 16 == 0:
        rivals["DCNv4 flash float16"] = dcnv4
    return rivals


def torch_timer(
    call: Callable, leaves: list[torch.Tensor], out_grad: torch.Tensor, direction: str, num_calls: int, flush
) -> Callable:
    """A function that measures once: seconds of a call (median over calls when the cache is flushed before each)."""
    out = call(*leaves)
    grad = out_grad.to(out.dtype)

    def run():
        if direction == "forward":
            with torch.no_grad():
                return call(*leaves)
        return torch.autograd.grad(out, leaves, grad, retain_graph=True)

    def measure_cpu() -> float:
        start = time.perf_counter()
        run()
        return time.perf_counter() - start

    def measure_gpu() -> float:
        event = lambda: torch.cuda.Event(enable_timing=True)  # noqa: E731
        torch.cuda.synchronize()
        if flush is None:
            first, last = event(), event()
            first.record()
            for _ in range(num_calls):
                run()
            last.record()
            torch.cuda.synchronize()
            return 1e-3 * first.elapsed_time(last) / num_calls
        pairs = []
        for _ in range(num_calls):
            flush.add_(1)
            pairs.append((event(), event()))
            pairs[-1][0].record()
            run()
            pairs[-1][1].record()
        torch.cuda.synchronize()
        return 1e-3 * statistics.median(first.elapsed_time(last) for first, last in pairs)

    measure = measure_gpu if leaves[0].is_cuda else measure_cpu
    measure()
    return measure


# --- The runs


def copy_bandwidth(platform: str, reps: int) -> float:
    """Bytes read plus bytes written per second of a large copy."""
    size = 2**31 if platform != "cpu" else 2**28
    x = jnp.zeros(size // 4, jnp.float32)

    def measure(num_calls: int) -> float:
        start = time.perf_counter()
        jax.block_until_ready(copies(x, num_calls))
        return time.perf_counter() - start

    # The traced number of passes keeps them apart.
    copies = jax.jit(lambda x, n: jax.lax.fori_loop(0, n, lambda i, x: x + 1, x))
    measure(1)
    return statistics.median(2 * size * 10 / (measure(11) - measure(1)) for _ in range(reps))


def benchmark(name: str, dtype: str, args: argparse.Namespace, is_first_shape: bool) -> Iterator[list[dict]]:
    """All contenders on one shape and dtype, as lists of rows: one per state of the cache and direction.

    On a GPU the XLA form (slow to compile) and the cold cache are measured at the first shape only. A contender that
    fails is a row with its error.
    """
    platform = jax.default_backend()
    device = "cuda" if platform == "gpu" else "cpu"
    inputs = Inputs(SHAPES[name], is_inside=platform == "gpu")
    arrays = tuple(jnp.asarray(x, dtype) for x in (inputs.value, inputs.offsets, inputs.logits, inputs.out_grad))
    arrays += (jnp.asarray(inputs.reference),)
    num_calls = args.calls or (50 if platform == "gpu" else 4)
    for cache in ("warm", "cold") if platform == "gpu" and is_first_shape else ("warm",):
        backends = args.backends or DEFAULT_BACKENDS[platform]
        if platform == "gpu" and not args.backends and (cache == "cold" or not is_first_shape):
            backends = [backend for backend in backends if backend != "xla"]
        buffer = jnp.zeros(_FLUSH_BYTES // 4, jnp.float32) if cache == "cold" else None
        torch_buffer = torch.zeros(_FLUSH_BYTES // 4, device=device) if cache == "cold" else None
        for direction in DIRECTIONS:
            makers, memory = {}, {}
            for backend in backends:
                call = jax_function(inputs, backend, direction)
                makers[backend] = functools.partial(_jax_contender, call, arrays, num_calls, buffer, memory, backend)
            if dtype == "float32" or platform == "gpu":
                rest = (torch.from_numpy(inputs.out_grad).to(device), direction, num_calls, torch_buffer)
                for rival, prepare in torch_rivals(inputs, args.peers, device).items():
                    makers[rival] = lambda prepare=prepare, rest=rest: torch_timer(*prepare(), *rest)
            seconds, errors = _measure(makers, jax_timer(nothing, arrays, num_calls, buffer), args.reps)
            floor = inputs.least_bytes(direction, jnp.dtype(dtype).itemsize) / args.bandwidth
            rows = []
            for rival in makers:
                row = {
                    "shape": name,
                    "dtype": dtype if rival in BACKENDS else "float16" if "float16" in rival else "float32",
                    "compared_with": dtype,
                    "direction": direction,
                    "cache": cache,
                    "contender": rival,
                }
                if rival in errors:
                    rows.append(row | {"error": errors[rival]})
                else:
                    row |= {"median_s": seconds[rival], "fraction_of_floor": floor / seconds[rival]}
                    rows.append(row | {"temp_bytes": memory.get(rival)})
            _print_rows(rows)
            yield rows


def _jax_contender(call, arrays, num_calls, buffer, memory: dict[str, int], backend: str) -> Callable:
    """The timer of a back end; its temporary memory goes into `memory`."""
    memory[backend] = jax.jit(call).lower(*arrays).compile().memory_analysis().temp_size_in_bytes
    return jax_timer(call, arrays, num_calls, buffer)


def _measure(
    makers: Mapping[str, Callable], empty_loop: Callable, reps: int
) -> tuple[dict[str, float], dict[str, str]]:
    """(median seconds, errors) of the contenders, who take turns.

    Args:
      makers: contender -> function that returns its timer.
      empty_loop: timer of what is taken off for our own.
      reps: number of turns.
    """
    timers, times, errors, empty_times = {}, {}, {}, []

    def attempt(rival: str, action: Callable) -> Any:
        try:
            return action()
        except Exception as error:  # of a compiler or driver: any kind
            errors[rival] = f"{type(error).__name__}: {error}"[:1000]

    for rival, make in makers.items():
        timers[rival], times[rival] = attempt(rival, make), []
    for _ in range(reps):
        empty_times.append(empty_loop())
        for rival, timer in timers.items():
            if rival not in errors:
                times[rival].append(attempt(rival, timer))
    seconds = {rival: statistics.median(values) for rival, values in times.items() if rival not in errors}
    empty = statistics.median(empty_times)
    return {rival: value - empty * (rival in BACKENDS) for rival, value in seconds.items()}, errors


def _print_rows(rows: list[dict]) -> None:
    ours = [row["median_s"] for row in rows if row["contender"] in BACKENDS and "median_s" in row]
    for row in rows:
        what = f"{row['shape']:13} {row['dtype']:9} {row['direction']:8} {row['cache']:4} {row['contender']:20} "
        if "error" in row:
            what += "FAILED: " + row["error"].splitlines()[0]
        else:
            what += f"{1e6 * row['median_s']:11.1f} us  {100 * row['fraction_of_floor']:5.1f} % of floor"
            what += f"  {row['median_s'] / min(ours):7.2f}x our best" if ours else ""
        print(what, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    platform = jax.default_backend()
    parser.add_argument("--shapes", help=f"of {list(SHAPES)}, comma-separated")
    parser.add_argument("--dtypes", default="float32" if platform == "cpu" else "bfloat16,float32")
    parser.add_argument(
        "--backends", type=lambda text: text.split(","), help=f"of {list(BACKENDS)}; default: those of the platform"
    )
    parser.add_argument("--peers", help="folder made by prepare_peers.sh")
    parser.add_argument("--reps", type=int, default=7, help="turns of each contender")
    parser.add_argument("--calls", type=int, help="calls per turn")
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()
    if platform == "cpu":
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    args.bandwidth = copy_bandwidth(platform, args.reps)
    result = {
        "environment": environment() | {"torch": torch.__version__},
        "copy_bytes_per_s": args.bandwidth,
        "rows": [],
    }
    print(json.dumps(result["environment"]), f"copy {args.bandwidth / 1e9:.0f} GB/s")
    names = args.shapes.split(",") if args.shapes else DEFAULT_SHAPES[platform]
    for name in names:
        for dtype in args.dtypes.split(","):
            for rows in benchmark(name, dtype, args, name == names[0]):
                result["rows"] += rows
                write_json(args.out, result)
    if any("error" in row for row in result["rows"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
