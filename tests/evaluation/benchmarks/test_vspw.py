"""Video semantic segmentation: made-up cases against the measures written out, VIPSeg's files, malformed files."""

import numpy as np
import pytest
from PIL import Image

from tarvis_jax.evaluation.benchmarks.vspw import evaluate
from tests.evaluation import panoptic_cases, panoptic_oracles
from tests.evaluation.benchmarks import files
from tests.evaluation.benchmarks.mutations import check_refused

SIZE = (20, 30)
TRUE, PRED = "gt/data/1_x/mask/00000001.png", "pred/1_x/00000001.png"


def read(folder) -> np.ndarray:
    return np.stack([np.array(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def check_scores(found: dict, videos: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    """`videos`: true labels (0..123; higher is void) and predicted ones, [N, H, W] each."""

    def scores(chosen: list) -> dict:
        clips = {f"VC{n}": panoptic_oracles.consistency(chosen, n) for n in (8, 16)}
        return {"mIoU": panoptic_oracles.mean_iou(chosen, 124)[0]} | clips

    files.check_equal(found["expected"], scores(list(videos.values())))
    ious = panoptic_oracles.mean_iou(list(videos.values()), 124)[1]
    files.check_equal(found["per_class"], {str(label): {"IoU": iou} for label, iou in ious.items()})
    per_video = {name: scores([video]) | {"frames": len(video[0])} for name, video in videos.items()}
    files.check_equal(found["per_video"], per_video)


@pytest.mark.parametrize("seed", range(3))
def test_made_up_case(tmp_path, seed):
    """Among videos of 18 to 15 frames, one has one clip of 16 that counts, and two are as long as a clip or shorter."""
    panoptic_cases.write_vspw(tmp_path, np.random.default_rng(seed), num_videos=4, num_frames=18, size=SIZE)
    videos = {}
    for name in [f"{i}_x" for i in range(4)]:
        truth = read(tmp_path / "gt/data" / name / "mask").astype(int)
        videos[name] = np.where(truth == 0, 1000, truth) - 1, read(tmp_path / "pred" / name).astype(int)
    found = evaluate(tmp_path / "pred", tmp_path / "gt")
    check_scores(found, videos)
    assert np.isnan([found["per_video"][f"{i}_x"]["VC16"] for i in range(4)]).tolist() == [False, False, True, True]


def test_files_of_vipseg(tmp_path):
    """The category at each pixel of the panoptic files."""
    from tests.evaluation.benchmarks import test_vipseg

    panoptic_cases.write_vipseg(tmp_path, np.random.default_rng(0), num_videos=2, num_frames=10, size=SIZE)
    videos = {
        name: tuple(test_vipseg.stq_maps(*test_vipseg.read(tmp_path, side, name))[0] for side in ("gt", "pred"))
        for name in ("0_x", "1_x")
    }
    check_scores(evaluate(tmp_path / "pred", tmp_path / "gt"), videos)
    path = tmp_path / "pred/pan_pred/1_x/00000003.png"
    files.paint("pred/pan_pred/1_x/00000003.png", (1, 2, 3))(tmp_path)
    check_refused(lambda: evaluate(tmp_path / "pred", tmp_path / "gt"), str(path), "video 1_x, frame 3", str(0x030201))


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vspw")
    panoptic_cases.write_vspw(folder, np.random.default_rng(0), num_videos=2, num_frames=3, size=SIZE)
    return folder


def test_palette_images(case, tmp_path):
    """Masks with a palette, as the official code writes them, are the same as gray ones."""

    def to_palette(folder):
        for path in folder.glob("pred/*/*.png"):
            with Image.open(path) as image:
                values = np.array(image)
            image = Image.fromarray(values).convert("P")
            image.putdata(values.reshape(-1).tolist())
            image.putpalette([i % 256 for i in range(768)])
            image.save(path)

    folder = files.spoiled(case, tmp_path, to_palette)
    files.check_equal(evaluate(folder / "pred", folder / "gt"), evaluate(case / "pred", case / "gt"))


KINDS = {
    what: make
    for what, make in files.RGB_MUTATIONS.items()
    if what not in ("is absent", "is gray", "has a palette", "is a JPEG")
} | {"has colors": lambda name: files.save_as(name, "RGB"), "has alpha": lambda name: files.save_as(name, "LA")}
MUTATIONS = {
    **{f"result {what}": (make(PRED), (PRED,)) for what, make in KINDS.items()},
    **{f"truth {what}": (make(TRUE), ("1_x", "00000001.png")) for what, make in KINDS.items()},
    "frame without result": (files.delete(PRED), ("pred/1_x", "00000001.png")),
    "frame without truth": (files.delete(TRUE), ("pred/1_x", "00000001.png")),
    "no results of a video": (files.delete("pred/1_x"), ("pred/1_x",)),
    "no masks of a video": (files.delete("gt/data/1_x"), ("gt/data/1_x",)),
    "no results": (files.delete("pred"), ("pred",)),
    "no truth": (files.delete("gt"), ("val.txt",)),
    "no list of videos": (files.delete("gt/val.txt"), ("val.txt",)),
    "empty list of videos": (files.cut("gt/val.txt", 0), ("val.txt",)),
    "list that is no text": (files.flip("gt/val.txt", 0), ("val.txt",)),
    "video twice": (files.write_text("gt/val.txt", "1_x 1_x"), ("val.txt", "1_x")),
    "video outside": (files.write_text("gt/val.txt", "../pred"), ("../pred",)),
    "unknown class": (files.paint(PRED, 124), (PRED, "124")),
    "unknown true class": (files.paint(TRUE, 125), (TRUE, "125")),
    "true class 254": (files.paint(TRUE, 254), (TRUE, "254")),
    "sizes that change": (
        lambda case: (files.resize(TRUE)(case), files.resize(PRED)(case)),
        (PRED, "(20, 29)", "(20, 30)"),
    ),
}


@pytest.mark.parametrize("what", MUTATIONS)
def test_malformed(case, tmp_path, what):
    mutation, messages = MUTATIONS[what]
    folder = files.spoiled(case, tmp_path, mutation)
    check_refused(lambda: evaluate(folder / "pred", folder / "gt"), *messages)
