"""Runs the original TarViS (PyTorch) in a process of its own, for ratios of speed: no weights, no accuracy.

`reference.py` starts it as `python reference_worker.py FOLDER ...`; the folder is what `prepare_peers.sh` makes.
Protocol: one line of JSON when the model is ready; then, for every line read from stdin, a line with the wall and the
processor seconds of one clip, or with `--train` of one training step; and after stdin closes a line with the peak of
memory.

A training step is the original's losses, with its matching on the host, and its backward pass for each microbatch; then
the norm of the gradients is clipped and AdamW updates, as `tarvis/training/main.py` does but for the rates of single
parameters. Every clip has four rectangles to segment.
"""

import argparse
import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import resource
import sys
import tempfile
import time
import types


class _AnyMember(type):
    """Classes of which every attribute exists, as its own name."""

    def __getattr__(cls, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Placeholder(types.ModuleType):
    """A module of which every attribute exists and is of no use: detectron2 and timm import torchvision, a ResNet
    needs none of it."""

    __path__: list[str] = []
    __version__ = "0.20.0"

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyMember(name, (), {})


class _PlaceholderFinder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torchvision and all of its modules."""

    def find_spec(self, name, path, target=None):
        return importlib.machinery.ModuleSpec(name, self) if name.split(".")[0] == "torchvision" else None

    def create_module(self, spec):
        return _Placeholder(spec.name)

    def exec_module(self, module):
        pass


def _prepare_imports(folder: str, has_cuda_op: bool) -> None:
    """Puts the reference on the path and takes out what it wants at import and does not need for timing."""
    sys.path[:0] = [folder, os.path.join(folder, "site"), os.path.join(folder, "cuda_op")]
    os.environ.setdefault("TARVIS_WORKSPACE_DIR", tempfile.mkdtemp())
    if not has_cuda_op:
        # An op that is there by name only: calling it fails, and the reference falls back to grid_sample.
        sys.modules["MultiScaleDeformableAttention"] = types.ModuleType("MultiScaleDeformableAttention")
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):  # absent, or built for another torch
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        sys.meta_path.insert(0, _PlaceholderFinder())
    import detectron2.checkpoint

    class NoCheckpointer:
        """Loads nothing: speed does not depend on the weights."""

        def __init__(self, model):
            self.logger = types.SimpleNamespace(setLevel=lambda level: None)

        def resume_or_load(self, *args, **kwargs):
            return {}

    detectron2.checkpoint.DetectionCheckpointer = NoCheckpointer


def _skip_package(name: str, folder: str) -> None:
    """Makes the modules of `folder` those of a package, without its `__init__`, which wants all of detectron2."""
    package = types.ModuleType(name)
    package.__path__ = [folder]
    sys.modules[name] = package


def _build(folder: str, dataset: str, backbone: str, is_trained: bool):
    """The reference's training or inference model in the published fine-tuning's configuration."""
    import torch
    from tarvis.config import cfg

    torch.manual_seed(0)
    cfg.merge_from_file(os.path.join(folder, "configs", "finetune_resnet50_swin-tiny.yaml"))
    cfg.MODEL.update_param("BACKBONE", backbone)
    if is_trained:
        point_rend = os.path.join(folder, "projects", "PointRend", "point_rend")
        _skip_package("detectron2.projects.point_rend", point_rend)
        from tarvis.training.tarvis_train_model import TarvisTrainModel

        return TarvisTrainModel().train()
    from tarvis.inference.tarvis_inference_model import TarvisInferenceModel

    return TarvisInferenceModel(dataset).eval()


def _training_sample(args: argparse.Namespace) -> dict:
    """Clips of noise as the reference's loader collates them."""
    import torch

    num_objects, (height, width) = 4, (args.height, args.width)
    masks = torch.zeros(num_objects, args.frames, height, width, dtype=torch.uint8, device=args.device)
    for n in range(num_objects):
        top, left = n * height // 8, n * width // 8
        masks[n, :, top : top + height // 4, left : left + width // 4] = 1
    shape = (args.frames, 3, height, width)
    classes = torch.arange(1, num_objects + 1, device=args.device)
    sample = {
        "images": [255 * torch.rand(shape, device=args.device) for _ in range(args.clips)],
        "instance_masks": [masks] * args.clips,
        "class_ids": [classes] * args.clips,
        "dataset": [args.dataset] * args.clips,
        "ref_frame_index": [0] * args.clips,
        "semantic_masks": None,
        "ignore_masks": None,
        "task_type": {"instance": "instance_seg", "panoptic": "panoptic_seg", "exemplar": "vos"}[args.task],
    }
    if args.task == "panoptic":
        semantic = (masks * (classes - 1).to(torch.uint8)[:, None, None, None]).amax(0).long()
        sample["semantic_masks"] = [semantic] * args.clips
        sample["ignore_masks"] = [torch.zeros_like(semantic, dtype=torch.bool)] * args.clips
    return sample


def _training_step(model, args: argparse.Namespace, autocast):
    """A function that takes one step."""
    import torch

    sample = _training_sample(args)
    params = [param for param in model.parameters() if param.requires_grad]
    optimizer = torch.optim.AdamW(params, 1e-4, weight_decay=0.05)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        for _ in range(args.microbatches):
            with autocast():
                losses = model(dict(sample), target_task="")["losses"]
                loss = sum(each["loss_total"].sum() for each in losses.values())
            (loss / args.microbatches).backward()
        torch.nn.utils.clip_grad_norm_(params, 0.01)
        optimizer.step()

    return step


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--backbone", default="ResNet50")
    parser.add_argument("--frames", type=int, required=True)
    parser.add_argument("--height", type=int, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--autocast", choices=("none", "bfloat16", "float16"), default="none")
    parser.add_argument("--train", action="store_true", help="time training steps instead of inference")
    parser.add_argument("--task", choices=("instance", "panoptic", "exemplar"), default="instance", help="to train")
    parser.add_argument("--clips", type=int, default=1, help="of a microbatch")
    parser.add_argument("--microbatches", type=int, default=1, help="whose gradients one step adds up")
    args = parser.parse_args()

    out = sys.stdout
    sys.stdout = sys.stderr  # what the reference prints is no part of the protocol
    import torch

    torch.set_num_threads(args.threads)
    has_cuda_op = args.device == "cuda" and os.path.isdir(os.path.join(args.folder, "cuda_op"))
    _prepare_imports(args.folder, has_cuda_op)
    model = _build(args.folder, args.dataset, args.backbone, args.train).to(args.device)

    def autocast():
        if args.autocast == "none":
            return contextlib.nullcontext()
        return torch.autocast(args.device, getattr(torch, args.autocast))

    if args.train:
        call = _training_step(model, args, autocast)
    else:
        images = 255 * torch.rand(1, args.frames, 3, args.height, args.width, device=args.device)

        @torch.inference_mode()
        def call() -> None:
            with autocast():
                model(images)

    def run() -> tuple[float, float]:
        wall, processor = time.perf_counter(), time.process_time()
        call()
        if args.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - wall, time.process_time() - processor

    run()
    num_parameters = sum(p.numel() for p in model.parameters())
    ready = {"torch": torch.__version__, "cuda_op": has_cuda_op, "parameters": num_parameters}
    print(json.dumps(ready), file=out, flush=True)
    for _ in sys.stdin:
        print(json.dumps({"seconds": run()}), file=out, flush=True)
    peak = (
        torch.cuda.max_memory_allocated()
        if args.device == "cuda"
        else (1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    )
    print(json.dumps({"peak_bytes": peak}), file=out, flush=True)


if __name__ == "__main__":
    main()
