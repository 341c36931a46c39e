"""Memory of host and device over a long video, of each task, with a tiny network.

    python -m benchmarks.long_videos --frames=5000 --out=long_videos.json

Every clip of VIS and VPS has new tracks: the least IoU at which two tracks are one is 1, which none exceeds. VOS and
PET give objects up and get new ones all the time. Nothing is kept (`keep_result=False`); the results are written to a
file, a line of JSON for each frame, and what `Session.seek` needs to another one. Each task has a process of its own.
The host's memory is what the process has in RAM besides files; on a CPU it holds the device's arrays, too.
"""

import argparse
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import jax
import numpy as np

from benchmarks.common import environment, write_json
from tarvis_jax import api
from tarvis_jax.inference.session import Session
from tarvis_jax.inference.video import stream_video
from tests import tiny

SIZE = (64, 96)
MODEL = dataclasses.replace(
    tiny.MODEL, num_instance_queries=8, semantic_classes=(("KITTI_STEP", 19), ("YOUTUBE_VIS", 40))
)
DATASETS = {"vis": "YOUTUBE_VIS", "vps": "KITTI_STEP", "vos": "DAVIS", "pet": "BURST"}
NEW_OBJECTS = 20  # frames after which an object of VOS and PET is given up for a new one
FIRST = 50  # frames after which memory is compared with that at the end


class Video(Sequence):
    """Noise, blocks of which move; made frame by frame, and can be read again, so that the session could go back."""

    def __init__(self, num_frames: int):
        self._num_frames = num_frames
        self._scene = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)

    def __len__(self) -> int:
        return self._num_frames

    def __getitem__(self, frame: int) -> np.ndarray:
        if frame >= self._num_frames:
            raise IndexError(frame)
        return np.roll(self._scene, frame, axis=1)


def host_mb() -> float:
    """Anonymous memory of this process."""
    lines = pathlib.Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss_Anon:")) / 1024


def device_mb() -> float:
    return sum(array.nbytes for array in jax.live_arrays()) / 2**20


def give_object(session: Session, task: str, number: int, frame: int) -> None:
    """An object of VOS or PET, somewhere in a frame."""
    top, left = (number * 7) % 32, (number * 11) % 64
    if task == "vos":
        mask = np.zeros(SIZE, bool)
        mask[top : top + 32, left : left + 32] = True
        session.add_target(frame, number, mask=mask)
    else:
        session.add_target(frame, number, point_yx=(top, left))


def measure(task: str, num_frames: int) -> dict:
    """Memory after `FIRST`, 2 * `FIRST`, ... frames; rates and counts."""
    settings = dict(clip_length=4, overlap=2, min_dim=None, keep_result=False)
    if task in ("vis", "vps"):
        settings |= dict(association_iou=1.0, max_tracks=8, score_threshold=0.0)
    session = api.create(MODEL).session(task, DATASETS[task], **settings)
    if task in ("vos", "pet"):
        give_object(session, task, 0, 0)
    curve, tracks, at = [], 0, FIRST
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "results.jsonl"
        for result in stream_video(session, Video(num_frames), path):
            tracks += len(result.ended)
            if task in ("vos", "pet") and result.frame % NEW_OBJECTS == NEW_OBJECTS - 1:
                if session.earliest_target_frame < num_frames:
                    session.remove_target(result.frame // NEW_OBJECTS)
                    tracks += 1
                    give_object(session, task, tracks, session.earliest_target_frame)
            if result.frame + 1 in (at, num_frames):
                curve.append({"frames": result.frame + 1, "host_mb": round(host_mb(), 1), "device_mb": device_mb()})
                at *= 2
        file_mb = path.stat().st_size / 2**20
    seconds = time.perf_counter() - start
    return {
        "task": task,
        "curve": [each | {"device_mb": round(each["device_mb"], 3)} for each in curve],
        "host_ratio": round(curve[-1]["host_mb"] / curve[0]["host_mb"], 3),
        "device_ratio": round(curve[-1]["device_mb"] / curve[0]["device_mb"], 3),
        "tracks": tracks,
        "file_mb": round(file_mb, 1),
        "bookmark_bytes_per_clip": round(session.history_bytes / (num_frames / 2)),
        "frames_per_s": round(num_frames / seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5000)
    parser.add_argument("--tasks", default=",".join(DATASETS))
    parser.add_argument("--here", action="store_true", help="one task, in this process")
    parser.add_argument("--out", help="JSON file to write")
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.tasks, args.frames)))
        return
    result = {"environment": environment(), "size": SIZE, "tasks": []}
    for task in args.tasks.split(","):
        command = [sys.executable, "-m", "benchmarks.long_videos", "--here", f"--tasks={task}"]
        done = subprocess.run([*command, f"--frames={args.frames}"], stdout=subprocess.PIPE, text=True, check=True)
        result["tasks"].append(json.loads(done.stdout))
        print(json.dumps(result["tasks"][-1]), flush=True)
        write_json(args.out, result)


if __name__ == "__main__":
    main()
