"""One side of `postprocess.py`: runs the path around the network for the cases that it is told of.

Protocol: for every line (the name of a case) read from stdin, a line of JSON with the seconds of wall and processor
time (of this process and of those that it started and that have ended) of one run.
"""

import json
import pathlib
import resource
import sys
import time

import numpy as np


def ours(folder: pathlib.Path):
    """This repository's, of whichever commit PYTHONPATH names."""
    import dataclasses

    from tarvis_jax import datasets
    from tarvis_jax.compiled import Programs
    from tarvis_jax.inference import predictor
    from tarvis_jax.inference.config import InferenceConfig
    from tarvis_jax.inference.host_memory import reuse_freed_memory
    from tarvis_jax.inference.session import Session
    from tarvis_jax.model.config import ModelConfig
    from tarvis_jax.results.tracks import write_tracks

    reuse_freed_memory()  # as a predictor does
    programs = Programs()

    class StandIn(predictor.Predictor):
        def __init__(self, case):
            self.config, self.device, self.programs = ModelConfig(), None, programs
            self._matmul_precision, self._case, self._first = None, case, 0
            if hasattr(predictor, "_pixel_masks"):
                self._pixel_masks = self._jit(predictor._pixel_masks)

        def segment_classes(self, images, dataset, *place):
            logits = self._case["logits"][:, self._first : self._first + len(images)]
            self._first += self._case["clip_length"] - self._case["overlap"]
            values = self._case["classes"], logits, None, len(images)
            return predictor.ClassClip(*values[: len(dataclasses.fields(predictor.ClassClip))])

        def take_masks(self, clip, indices):
            return clip.mask_logits[indices]

    def run(case):
        fields = {field.name for field in dataclasses.fields(InferenceConfig)}
        settings = {key: value for key, value in case.items() if key in fields}
        config = InferenceConfig(**settings | {"max_tracks": case["tracks"]})
        spec = datasets.DatasetSpec(datasets.INSTANCE, case["classes"].shape[1] - 1)
        session = Session(StandIn(case), "YOUTUBE_VIS", spec, config)
        for _ in session.run(case["folder"] / "frames"):
            pass
        write_tracks(folder / "ours.json", session.result())

    return run


def original(folder: pathlib.Path):
    """The original's data loader, accumulator and RLEs; the masks are written as JSON."""
    import os

    import torch

    os.environ.setdefault("TARVIS_WORKSPACE_DIR", str(folder))
    from tarvis.data.collate import collate_fn_inference
    from tarvis.data.inference_dataset import InferenceDataset
    from tarvis.inference.result_accumulators import InstanceSegmentationResultAccumulator
    from torch.utils.data import DataLoader

    @torch.no_grad()
    def run(case):
        paths = sorted(str(path) for path in (case["folder"] / "frames").iterdir())
        clips = InferenceDataset(
            task_type="instance_seg",
            image_paths=paths,
            clip_length=case["clip_length"],
            overlap_length=case["overlap"],
            image_resize_params={"MODE": "min_dim", "MIN_DIMS": case["min_dim"], "MAX_DIM": case["max_dim"]},
        )
        loader = DataLoader(clips, shuffle=False, batch_size=1, num_workers=2, collate_fn=collate_fn_inference)
        accumulator = InstanceSegmentationResultAccumulator(
            sequence_length=len(paths),
            max_tracks_per_clip=case["tracks"],
            track_score_threshold=0.0,
            produce_semseg_output=False,
            original_image_size=case["size"],
            image_padding=None,
        )
        logits, classes = torch.from_numpy(case["logits"]), torch.from_numpy(case["classes"])
        for clip in loader:
            height, width = clip["images"].shape[-2:]
            accumulator.image_padding = case["padded"][1] - width, case["padded"][0] - height
            frames = clip["frame_indices"]
            outputs = {
                "pred_instance_seg_logits": logits[:, frames[0] : frames[-1] + 1].clone(),
                "pred_instance_class_logits": classes,
            }
            accumulator.add_clip_result(outputs, frames)
        output = accumulator.finalize_output()
        masks = [
            {str(i): {"size": mask["size"], "counts": mask["counts"].decode()} for i, mask in frame.items()}
            for frame in output["track_masks"]
        ]
        scores = {str(i): each.tolist() for i, each in output["track_class_logits"].items()}
        (folder / "original.json").write_text(json.dumps({"masks": masks, "class_logits": scores}))

    return run


def main() -> None:
    side, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    out, sys.stdout = sys.stdout, sys.stderr  # what others print is no part of the protocol
    run = {"ours": ours, "original": original}[side](folder)
    for line in sys.stdin:
        path = folder / line.strip()
        case = json.loads((path / "case.json").read_text()) | {"folder": path}
        case |= {name: np.load(path / f"{name}.npy") for name in ("logits", "classes")}
        start, before = time.perf_counter(), processor_seconds()
        run(case)
        seconds = {"wall": time.perf_counter() - start, "processor": processor_seconds() - before}
        print(json.dumps(seconds), file=out, flush=True)


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


if __name__ == "__main__":
    main()
