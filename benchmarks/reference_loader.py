"""Draws clips from the original TarViS's own training datasets, in a process of its own, for ratios of speed.

`input_pipeline.py` starts it with the interpreter that has what the original's loaders import (torch, imgaug, einops,
pycocotools, OpenCV and detectron2's `data.transforms`). Protocol: one line of JSON when the datasets are built; then,
for every line "dataset count" read from stdin, a line with the wall and the processor seconds of so many clips, and
the mean number of their targets.
"""

import argparse
import json
import os
import sys
import time

SAMPLES = 4000  # of each dataset, from which clips are drawn


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", help="of the original: it has tarvis/ and configs/")
    parser.add_argument("workspace")
    parser.add_argument("--datasets", required=True, help="comma-separated")
    args = parser.parse_args()

    out = sys.stdout
    sys.stdout = sys.stderr  # what the original prints is no part of the protocol
    sys.path.insert(0, args.folder)
    os.environ["TARVIS_WORKSPACE_DIR"] = args.workspace

    import cv2
    import torch
    from tarvis.config import cfg

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    # Before the datasets are imported: they read it then.
    cfg.merge_from_file(os.path.join(args.folder, "configs", "finetune_resnet50_swin-tiny.yaml"))
    from tarvis.training.build_dataset import build_concat_dataset

    datasets = {name: build_concat_dataset([name], [1.0], SAMPLES) for name in args.datasets.split(",")}
    places = dict.fromkeys(datasets, 0)
    print(json.dumps({"torch": torch.__version__, "opencv": cv2.__version__}), file=out, flush=True)
    for line in sys.stdin:
        name, count = line.split()
        wall, processor, targets = time.perf_counter(), time.process_time(), 0
        for _ in range(int(count)):
            # In an order in which the numbers of objects mix, as the sampler does.
            targets += len(datasets[name][places[name] * 7919 % SAMPLES]["instance_masks"])
            places[name] += 1
        seconds = time.perf_counter() - wall, time.process_time() - processor
        print(json.dumps({"seconds": seconds, "targets": targets / int(count)}), file=out, flush=True)


if __name__ == "__main__":
    main()
