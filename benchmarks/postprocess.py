"""Everything around the network in the inference of a video: frames/s beside the original and an earlier commit.

    python -m benchmarks.postprocess --reference=FOLDER --reference_python=PYTHON --tree=FOLDER_OF_ANOTHER_COMMIT

JPEG files are decoded and resized, a stand-in for the network answers with made-up logits of moving blobs (YouTube-VIS:
clips of 12 frames that share 6, the shorter side 448), clips are stitched, masks brought to the size of the video,
encoded, and written as JSON. The original does it with its own data loader (two workers) and its own accumulator, on
the same logits; its formatter of the submission is left out, and so is ours. Each side is a process of its own, and
they take turns, so that whatever else the machine does meets all of them alike.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

import cv2
import numpy as np

from benchmarks.common import environment, write_json
from tarvis_jax.inference.clips import plan_geometry
from tarvis_jax.inference.config import default_inference
from tarvis_jax.model.config import ModelConfig

SIZES = {"480p": (480, 852), "1080p": (1080, 1920)}
NUM_CLASSES = 40


def blobs(num_tracks: int, num_frames: int, size: tuple[int, int]) -> np.ndarray:
    """Logits float32 [N, T, h, w] of ellipses that move; their borders are rough, as those of a network's masks."""
    rng = np.random.default_rng(0)
    height, width = size
    y, x = np.mgrid[:height, :width].astype(np.float32)
    logits = np.empty((num_tracks, num_frames, height, width), np.float32)
    for track in range(num_tracks):
        center, speed = rng.random(2) * size, rng.normal(0, 0.6, 2)
        radius = np.sqrt(height * width) * rng.uniform(0.06, 0.2) * rng.uniform(0.7, 1.4, 2)
        rough = cv2.resize(rng.normal(size=(height // 4, width // 4)).astype(np.float32), (width, height))
        for frame in range(num_frames):
            at = center + frame * speed
            distance = ((y - at[0]) / radius[0]) ** 2 + ((x - at[1]) / radius[1]) ** 2
            logits[track, frame] = np.clip(4 * (1 - distance) + rough, -10, 10)
    return logits


def class_logits(num_tracks: int) -> np.ndarray:
    """float32 [N, 1 + NUM_CLASSES]: every track is sure of a class."""
    logits = np.random.default_rng(1).normal(size=(num_tracks, 1 + NUM_CLASSES)).astype(np.float32)
    logits[np.arange(num_tracks), 1 + np.arange(num_tracks) % NUM_CLASSES] = 8
    return logits


class Worker:
    """A process that runs the path when it is told to."""

    def __init__(self, command: list[str], folder: pathlib.Path, **variables: str):
        self._process = subprocess.Popen(
            [*command, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"JAX_PLATFORMS": "cpu"} | variables,
        )

    def run(self, case: str) -> dict[str, float]:
        """Seconds of wall and processor time of one run over a case's video."""
        print(case, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"{self._process.args}: ended in the case {case}")
        return json.loads(answer)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--tracks", default="1,10,50")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tree", help="folder of another commit of this repository")
    parser.add_argument("--reference", help="folder of the original (it has tarvis/)")
    parser.add_argument("--reference_python", default=sys.executable, help="interpreter that the original needs")
    parser.add_argument("--reference_path", default="", help="PYTHONPATH of that interpreter, for a detectron2")
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()
    config = default_inference("YOUTUBE_VIS")
    root = pathlib.Path(__file__).resolve().parents[1]
    here = pathlib.Path(__file__).with_name("postprocess_worker.py")
    result = {"environment": environment(), "frames": args.frames, "config": dataclasses.asdict(config), "rows": []}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        workers = {"ours": Worker([sys.executable, "-P", str(here), "ours"], folder, PYTHONPATH=str(root))}
        if args.tree:
            workers["tree"] = Worker([sys.executable, "-P", str(here), "ours"], folder, PYTHONPATH=args.tree)
        if args.reference:
            path = os.pathsep.join(filter(None, (str(pathlib.Path(args.reference)), args.reference_path)))
            workers["original"] = Worker([args.reference_python, "-P", str(here), "original"], folder, PYTHONPATH=path)
        for size_name in args.sizes.split(","):
            size = SIZES[size_name]
            for num_tracks in map(int, args.tracks.split(",")):
                case = f"{size_name}_{num_tracks}"
                _write_case(folder / case, size, num_tracks, args.frames, config)
                for worker in workers.values():
                    worker.run(case)  # compiles, and fills caches
                seconds = {name: [] for name in workers}
                for _ in range(args.rounds):
                    for name, worker in workers.items():
                        seconds[name].append(worker.run(case))
                row = {"size": size_name, "tracks": num_tracks}
                for name, runs in seconds.items():
                    for clock in ("wall", "processor"):
                        row[f"{name}_{clock}_fps"] = args.frames / statistics.median(run[clock] for run in runs)
                for other in list(workers)[1:]:
                    for clock in ("wall", "processor"):
                        row[f"ratio_{other}_{clock}"] = row[f"ours_{clock}_fps"] / row[f"{other}_{clock}_fps"]
                row = {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}
                result["rows"].append(row)
                write_json(args.out, result)
                print(json.dumps(row), flush=True)
                (folder / case / "logits.npy").unlink()
        for worker in workers.values():
            worker.close()


def _write_case(folder: pathlib.Path, size: tuple[int, int], num_tracks: int, num_frames: int, config) -> None:
    """Frames, logits, and what the workers need to know of them."""
    (folder / "frames").mkdir(parents=True)
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.integers(0, 256, (40, 60, 3), np.uint8), size[::-1], interpolation=cv2.INTER_CUBIC)
    for frame in range(num_frames):
        noise = rng.integers(0, 12, (*size, 1), np.uint8)
        cv2.imwrite(
            str(folder / "frames" / f"{frame:05d}.jpg"), cv2.add(np.roll(scene, 3 * frame, 1), noise.repeat(3, 2))
        )
    geometry = plan_geometry(size, config.min_dim, config.max_dim, ModelConfig().size_divisor)
    np.save(folder / "logits.npy", blobs(num_tracks, num_frames, tuple(side // 4 for side in geometry.padded)))
    np.save(folder / "classes.npy", class_logits(num_tracks))
    about = {"size": size, "padded": geometry.padded, "resized": geometry.resized, **dataclasses.asdict(config)}
    (folder / "case.json").write_text(json.dumps(about | {"tracks": num_tracks}))


if __name__ == "__main__":
    main()
