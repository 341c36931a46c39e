"""Records what the reference computes of the clips of tests/parallel/unequal_clips.py.

    python tests/tools/record_unequal_clips.py SOURCE

SOURCE is the folder of the reference that has `tarvis/` in it. Its loss classes see one clip at a time, as on one
device each; the number of targets is the sum over all clips, as its reduction over devices gives it, and losses and
gradients are averaged over clips, as its data parallelism does. Needs torch, scipy and einops. Nothing but the loss
classes is imported; what they take from detectron2 comes from the reference's own copies of the same functions.
"""

import argparse
import json
import os
import pathlib
import sys
import types

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
import torch  # noqa: E402

from tests.parallel import unequal_clips as case  # noqa: E402

OUTPUT = pathlib.Path(case.__file__).with_suffix(".json")
POINTS = {"num_points": case.P, "oversample_ratio": 3, "importance_sample_ratio": 0.75}
NAMES = {  # the reference's -> ours
    "instance": {"loss_mask_ce": "mask_ce", "loss_mask_dice": "mask_dice", "loss_cls": "class_ce"},
    "class_maps": {"loss_ce": "semantic/ce", "loss_reg": "semantic/logit_norm"},
    "panoptic": {
        "loss_instance_mask_ce": "instance_mask_ce",
        "loss_instance_mask_dice": "instance_mask_dice",
        "loss_instance_cls": "instance_class_ce",
        "loss_semantic_ce": "semantic_ce",
        "loss_semantic_reg": "semantic_logit_norm",
    },
    "dense": {"loss_semantic_ce": "ce"},
    "exemplar": {"loss_ce": "mask_ce", "loss_dice": "mask_dice"},
}


def import_losses(source: pathlib.Path) -> types.SimpleNamespace:
    """The reference's modules of losses, without the packages around them, which need all of its dependencies."""

    def package(name: str, path: pathlib.Path | None) -> types.ModuleType:
        module = types.ModuleType(name)
        if path is not None:
            module.__path__ = [str(path)]
        sys.modules[name] = module
        return module

    package("tarvis", source / "tarvis")
    for name in ("modelling", "training", "training/loss_computation", "utils"):
        package("tarvis." + name.replace("/", "."), source / "tarvis" / name)
    for name in ("detectron2", "detectron2.projects", "detectron2.projects.point_rend", "detectron2.utils"):
        package(name, source / "absent")
    import tarvis.modelling.point_sampling_utils as points

    sys.modules["detectron2.projects.point_rend.point_features"] = points
    package("detectron2.utils.comm", None).get_world_size = lambda: case.B
    from tarvis.training.loss_computation import common, instance_seg, panoptic_seg, semantic_seg, vos

    common.F = torch.nn.functional  # the dense loss uses it without importing it
    instance_seg.dist_utils.is_distributed = lambda: True
    instance_seg.dist_utils.get_world_size = lambda: case.B
    return types.SimpleNamespace(instance=instance_seg, panoptic=panoptic_seg, class_maps=semantic_seg, vos=vos)


class Draws:
    """Takes the place of torch.rand: the recorded numbers of one clip in the order in which they are asked for."""

    def __init__(self, draws: dict[str, np.ndarray], clip: int, num_masks: int):
        self.of_masks, self.of_maps = [], []
        for layer in range(case.L):
            layer_draws = {name: array[clip, layer] for name, array in draws.items()}
            masks = [
                layer_draws[name][:num_masks].reshape(-1, *layer_draws[name].shape[-2:])
                for name in ("candidates", "random")
            ]
            self.of_masks += [layer_draws["matching"][None]] if "matching" in draws else []
            self.of_masks += masks
            if "matching" in draws:
                self.of_maps += [layer_draws["semantic_candidates"], layer_draws["semantic_random"]]
        self.left = iter(self.of_masks + self.of_maps)

    def __call__(self, *shape: int, device=None) -> torch.Tensor:
        numbers = torch.from_numpy(np.ascontiguousarray(next(self.left)))
        if numbers.shape != shape:
            raise ValueError(f"recorded draw: expected shape {shape}, found {tuple(numbers.shape)}")
        return numbers


def loss_of_clip(losses, name: str, masks, classes, targets: dict, draws: Draws):
    """(loss [], terms {our name: [L]}) of one clip; tensors have the reference's axes, with a batch of one."""
    queries = dict(zip(("instance", "background", "semantic"), masks.split((case.Q, 1, case.K), 2), strict=True))
    of_instances = {"gt_masks": [targets["masks"]], "gt_classes": [targets["classes"]]}
    if name == "instance":
        criterion = losses.instance.InstanceSegLoss(bg_coef=0.1, **POINTS)
        things = criterion(pred_mask_logits=queries["instance"], pred_class_logits=classes, **of_instances)
        criterion = losses.class_maps.SemanticSegLoss(0.0, 2.0, case.P, True, True)
        background = queries["background"].max(2, keepdim=True)[0]
        maps = criterion(torch.cat((background, queries["semantic"]), 2), *of_instances.values())
        terms = {ours: things[theirs] for theirs, ours in NAMES["instance"].items()}
        terms |= {ours: maps[theirs] for theirs, ours in NAMES["class_maps"].items()}
        terms |= {"total": things["loss_total"], "semantic/total": maps["loss_total"]}
        return (terms["total"] + terms["semantic/total"]).sum(), terms
    maps = {"gt_masks": targets["semantic_map"][None], "ignore_masks": targets["ignore_mask"][None]}
    if name == "dense":
        settings = dict(loss_type="dense", w_ce=2.0, w_dice=0.0, ignore_null_class_logits=False)
        found = losses.panoptic.SemanticSegLoss(**POINTS, **settings, logit_regularization_loss=False)(
            queries["semantic"], **maps
        )
        terms = {"ce": found["loss_semantic_ce"], "total": found["loss_semantic_total"]}
        return terms["total"].sum(), terms
    criterion = losses.panoptic.PanopticSegLoss(
        num_points_instance=case.P,
        num_points_semantic=case.P,
        oversample_ratio=3,
        importance_sample_ratio=0.75,
        semantic_loss_type="sparse",
        semantic_w_ce=2.0,
        semantic_w_dice=0.0,
        ignore_null_class_logits=True,
        semantic_logit_regularization_loss=True,
    )
    found = criterion(
        queries["instance"], of_instances["gt_masks"], classes, of_instances["gt_classes"], queries["semantic"],
        maps["gt_masks"], maps["ignore_masks"],
    )  # fmt: skip
    terms = {ours: found[theirs] for theirs, ours in NAMES["panoptic"].items()}
    if torch.isnan(terms["semantic_ce"]).any():  # the mean over no point at all: to us, such a clip costs nothing
        terms["semantic_ce"] = torch.zeros_like(terms["semantic_ce"])
    terms["semantic_total"] = 2.0 * terms["semantic_ce"] + 1e-3 * terms["semantic_logit_norm"]
    terms["instance_total"] = found["loss_instance_total"]
    terms["total"] = terms["instance_total"] + terms["semantic_total"]
    return terms["total"].sum(), terms


def exemplar_loss_of_clip(losses, masks, targets: dict):
    """As `loss_of_clip`; the best of its queries speaks for an object and for the background."""
    background, objects = masks.split((case.OBJECT_QUERIES, case.N * case.OBJECT_QUERIES), 2)
    objects = objects[:, :, : len(targets["masks"]) * case.OBJECT_QUERIES].unflatten(2, (-1, case.OBJECT_QUERIES))
    logits = torch.cat((background.max(2, keepdim=True)[0], objects.max(3)[0]), 2)
    criterion = losses.vos.VOSLoss(case.P, apply_bg_loss=True, loss_type="sparse", w_dice=5.0, w_ce=5.0)
    found = criterion(logits, [targets["masks"]])
    terms = {ours: found[theirs] for theirs, ours in NAMES["exemplar"].items()} | {"total": found["loss_total"]}
    return terms["total"].sum(), terms


def record(losses, name: str) -> dict:
    """Terms and numbers of the gradients of one case, averaged over clips."""
    task, _ = case.CASES[name]
    predictions, targets, draws = case.make_predictions(task), case.make_targets(task), case.make_draws(task)
    total_targets = sum(case.NUM_TARGETS[task])
    torch.distributed.all_reduce = lambda count: count.fill_(total_targets)
    gradients = {key: np.zeros_like(x) for key, x in predictions.items()}
    all_terms = []
    for clip, num_targets in enumerate(case.NUM_TARGETS[task]):
        inputs = {key: torch.tensor(x[clip][:, None], requires_grad=True) for key, x in predictions.items()}
        of_clip = {key: torch.tensor(x[clip]) for key, x in targets.items()}
        for key in ("masks", "classes"):
            of_clip[key] = of_clip[key][:num_targets]
        for key in ("classes", "semantic_map"):
            of_clip |= {key: of_clip[key].long()} if key in of_clip else {}
        torch.rand = Draws(draws, clip, num_targets + (task == "exemplar"))
        if task == "exemplar":
            loss, terms = exemplar_loss_of_clip(losses, inputs["mask"], of_clip)
        else:
            loss, terms = loss_of_clip(losses, name, inputs["mask"], inputs["class"], of_clip, torch.rand)
        if name != "dense" and list(torch.rand.left):  # the dense loss takes no points
            raise ValueError(f"{name}, clip {clip}: some recorded draws were not asked for")
        loss.backward()
        all_terms.append({key: x.detach().numpy() for key, x in terms.items()})
        for key, x in inputs.items():
            if x.grad is not None:
                gradients[key][clip] = x.grad[:, 0].numpy() / case.B
    terms = {key: np.mean([terms[key] for terms in all_terms], 0).astype(float).tolist() for key in all_terms[0]}
    gradients = {
        key: case.gradient_numbers(x) for key, x in gradients.items() if not (name == "dense" and key == "class")
    }
    return {"terms": terms, "gradients": gradients}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=pathlib.Path)
    losses = import_losses(parser.parse_args().source)
    numbers = {name: record(losses, name) for name in case.CASES}
    numbers = json.loads(json.dumps(numbers), parse_float=lambda text: float(f"{float(text):.7g}"))
    OUTPUT.write_text(json.dumps(numbers, indent=0, sort_keys=True) + "\n")
    print(f"{OUTPUT}: {OUTPUT.stat().st_size} bytes")


if __name__ == "__main__":
    main()
