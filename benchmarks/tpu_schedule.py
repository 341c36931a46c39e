"""Deformable attention on TPUs by schedule, without a TPU (needs libtpu).

    python -m benchmarks.tpu_schedule                       # a table: chip, pass, estimated time, bytes, memory
    python -m benchmarks.tpu_schedule --chips=v5e --dtypes=bfloat16 --xla --json

How times are estimated: `kernels/aot/tpu.py`. Samples lie as at the start of training plus noise: point p of head m is
p + 1 cells away in the direction of the head, plus a normal distribution of `--spread` cells (2 unless said otherwise).
"""

import argparse
import json
import math
import re
import tempfile

import numpy as np

from kernels.aot import tpu

HEADS, HEAD_SIZE, POINTS, STRIDES = 8, 32, 4, (32, 16, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chips", default=",".join(tpu.CHIPS))
    parser.add_argument("--dtypes", default="bfloat16,float32")
    parser.add_argument("--frames", type=int, default=3)
    parser.add_argument("--image", default="512x896", help="height x width in pixels")
    parser.add_argument("--spread", type=float, default=2.0, help="of the offsets, in cells")
    parser.add_argument("--xla", action="store_true", help="the plain XLA back end too")
    parser.add_argument("--sharded", metavar="TOPOLOGY", help="also compile for a slice, such as v5e:2x4, by batch")
    parser.add_argument("--json", action="store_true", help="one JSON object per line instead of a table")
    options = parser.parse_args()
    dump_dir = tempfile.TemporaryDirectory()
    tpu.prepare(dump_dir.name)
    image = tuple(map(int, options.image.split("x")))
    print_row = _print_json if options.json else _print_row
    if not options.json:
        print("chip  pass      back end  dtype     estimate   memory    XLA alone  bytes    temporary")
    for dtype in options.dtypes.split(","):
        for chip in filter(None, options.chips.split(",")):
            for direction in ("forward", "backward"):
                for backend in ("tpu", "xla") if options.xla else ("tpu",):
                    case = Case(direction, backend, dtype, options.frames, image, options.spread)
                    print_row(case.measure(chip, dump_dir.name))
    if options.sharded:
        for direction in ("forward", "backward"):
            case = Case(direction, "tpu", "bfloat16", 8, image, options.spread)
            print_row(case.measure_sharded(options.sharded, dump_dir.name))


def _print_json(row: dict) -> None:
    print(json.dumps(row), flush=True)


def _print_row(row: dict) -> None:
    if "collectives" in row:
        print(f"{row['topology']}, {row['pass']}: collectives {row['collectives'] or 'none'}")
        return
    print(
        f"{row['chip']:5} {row['pass']:9} {row['backend']:9} {row['dtype']:9} {row['ms']:6.2f} ms "
        f"{row['memory_ms']:6.2f} ms {row['xla_ms']:8.2f} ms {row['bytes'] / 1e9:7.2f} GB "
        f"{row['temp_bytes'] / 1e6:7.1f} MB",
        flush=True,
    )


class Case:
    """One pass of the operator on frames whose queries are the cells of their feature maps, as in the neck."""

    def __init__(self, direction: str, backend: str, dtype: str, frames: int, image: tuple[int, int], spread: float):
        self.direction, self.backend, self.dtype, self.frames, self.spread = direction, backend, dtype, frames, spread
        self.level_shapes = tuple((image[0] // stride, image[1] // stride) for stride in STRIDES)
        self.cells = sum(height * width for height, width in self.level_shapes)

    def measure(self, chip: str, dump_dir: str) -> dict:
        """Compiles for one device."""
        report = tpu.compile_for(chip, self._function(), self._arguments(), dump_dir)
        cycles = report.xla_cycles + sum(self._kernel_cycles(*item) for item in report.kernels.items())
        cycles += report.gathered_rows * tpu.GATHER_CYCLES_PER_ROW
        clock, bandwidth = tpu.CHIPS[chip].clock_hz, tpu.CHIPS[chip].bytes_per_second
        return {
            "chip": chip,
            "pass": self.direction,
            "backend": self.backend,
            "dtype": self.dtype,
            "ms": 1e3 * cycles / clock,
            "memory_ms": 1e3 * report.bytes_accessed / bandwidth,
            "xla_ms": 1e3 * report.xla_cycles / clock,
            "kernel_cycles": {name: round(self._kernel_cycles(name, loop)) for name, loop in report.kernels.items()},
            "bytes": report.bytes_accessed,
            "temp_bytes": report.temp_bytes,
            "gathers": report.count("gather"),
            "scatters": report.count("scatter"),
        }

    def measure_sharded(self, topology: str, dump_dir: str) -> dict:
        """Compiles for all devices of a slice, the batch split over them."""
        import jax
        from jax.sharding import Mesh, NamedSharding, PartitionSpec

        mesh = Mesh(np.asarray(tpu.topology_devices(topology)), ("data",))
        split = NamedSharding(mesh, PartitionSpec("data"))
        arguments = [jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=split) for a in self._arguments()]
        with jax.set_mesh(mesh):
            compiled = jax.jit(self._function(), out_shardings=split).trace(*arguments).lower().compile()
        report = tpu.report_of(compiled)
        return {"topology": topology, "pass": self.direction, "collectives": report.collectives}

    def _arguments(self) -> list:
        """Values, offsets, scores and (backward) output gradient, as matrix products around the operator leave them."""
        import jax

        samples = HEADS * len(self.level_shapes) * POINTS
        channels = [HEADS * HEAD_SIZE, samples * 2, samples]
        if self.direction == "backward":
            channels.append(HEADS * HEAD_SIZE)
        return [jax.ShapeDtypeStruct((self.frames, self.cells, c), self.dtype) for c in channels]

    def _function(self):
        """The pass by the public operator."""
        import jax

        from kernels.ms_deform_attn.operator import ms_deform_attn

        reference = self._reference()

        def forward(value, offsets, scores):
            samples = (self.frames, self.cells, HEADS, len(self.level_shapes), POINTS)
            value = value.reshape(self.frames, self.cells, HEADS, HEAD_SIZE)
            return ms_deform_attn(
                value,
                offsets.reshape(*samples, 2),
                scores.reshape(samples),
                reference,
                self.level_shapes,
                backend=self.backend,
            )

        def backward(value, offsets, scores, out_grad):
            return jax.vjp(forward, value, offsets, scores)[1](out_grad)

        return forward if self.direction == "forward" else backward

    def _reference(self) -> np.ndarray:
        """float32 [Q, 2]: centers of the cells, normalized."""
        centers = []
        for height, width in self.level_shapes:
            y, x = np.meshgrid((np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width, indexing="ij")
            centers.append(np.stack([x.ravel(), y.ravel()], axis=-1))
        return np.concatenate(centers).astype(np.float32)

    def _kernel_cycles(self, name: str, kernel: tpu.Loop) -> float:
        """Cycles of a kernel of the TPU back end, whose loops this knows."""
        from kernels.ms_deform_attn import pallas_tpu, pallas_tpu_tiles

        grid = re.fullmatch(r"\w+?_(\d+)x(\d+)(\.\d+)?", name)
        if grid:  # one over strips: a loop over the grid (image, strip), in it one over tiles unless there is but one
            rows, columns = int(grid[1]), int(grid[2])
            images = 1 if name.startswith("reference") else self.frames  # the table is the same for all
            steps = images * rows
            inner = [(columns, [])] if kernel.loops and kernel.loops[0].loops else []
            return kernel.cycles([(steps, inner)])
        tiles = pallas_tpu_tiles.num_tiles(self.level_shapes)
        unroll = pallas_tpu.FORWARD_UNROLL if self.direction == "forward" else pallas_tpu.BACKWARD_UNROLL
        levels = []
        for rows, columns in self._blocks_visited():
            levels += [(np.maximum(rows, columns).mean(), []), (np.ceil(rows * columns / unroll).mean(), [])]
        heads = self.frames * HEADS
        steps = pallas_tpu.num_steps(tiles)
        return kernel.cycles([(heads * steps, [(tiles / steps, levels)])])

    def _blocks_visited(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Per level, rows and columns of blocks that each tile of queries visits for each head."""
        from kernels.ms_deform_attn.pallas_tpu_tiles import TILE_COLUMNS, TILE_ROWS, levels_of, num_tiles

        rng = np.random.default_rng(0)
        tile_of_query = []
        for level in levels_of(self.level_shapes):
            y, x = np.divmod(np.arange(level.height * level.width), level.width)
            tile_of_query.append(level.first_tile + y // TILE_ROWS * level.grid[1] + x // TILE_COLUMNS)
        tile_of_query = np.concatenate(tile_of_query)
        angle = np.arange(HEADS) * (2 * math.pi / HEADS)
        direction = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
        direction /= np.abs(direction).max(-1, keepdims=True)
        start = direction[:, None] * np.arange(1, POINTS + 1)[:, None]  # [M, P, 2]
        visited = []
        for height, width in self.level_shapes:
            size = np.array([width, height])
            noise = rng.normal(0, self.spread, (self.cells, HEADS, POINTS, 2))
            location = self._reference()[:, None, None] * size - 0.5 + start + noise
            inside = ((location > -1) & (location < size)).all(-1, keepdims=True)
            low = np.maximum(np.floor(np.where(inside, location, np.inf).min(2)), 0)
            high = np.minimum(np.floor(np.where(inside, location, -np.inf).max(2)) + 1, size - 1)
            first = np.full((num_tiles(self.level_shapes), HEADS, 2), np.inf)
            last = -first
            np.minimum.at(first, tile_of_query, low)
            np.maximum.at(last, tile_of_query, high)
            block = np.array([TILE_COLUMNS, TILE_ROWS])
            number = np.where(first <= last, last // block - first // block + 1, 0)
            visited.append((number[..., 1], number[..., 0]))
        return visited


if __name__ == "__main__":
    main()
