"""The table of datasets: every row fits the dataclasses that take its numbers, and agrees with the others."""

import dataclasses
import importlib

import pytest

from input_pipeline.config import DataConfig, DatasetConfig, dataset_config
from tarvis_jax.datasets import DATASETS, ClassOrigin, Dataset, DatasetSpec, class_counts, lookup
from tarvis_jax.inference.config import InferenceConfig, default_inference
from tarvis_jax.model.config import ModelConfig
from tarvis_jax.run_config import Config

READABLE = [name for name, row in DATASETS.items() if row.reader]
_FIELDS_OF_THE_SPEC = {"name", "reader", "task", "num_classes", "thing_classes", "exemplar", "class_names"}
_PATHS = {"train_images", "train_annotations", "eval_images", "eval_annotations", "eval_truth"}


def _fields(cls) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}


@pytest.mark.parametrize("name", DATASETS)
def test_every_row_builds(name):
    row = lookup(name)
    assert row.inference.keys() <= _fields(InferenceConfig)
    assert {key: getattr(default_inference(name), key) for key in row.inference} == row.inference
    assert (row.files | row.training).keys() <= _fields(DatasetConfig) - _FIELDS_OF_THE_SPEC
    assert not row.files.keys() & row.training.keys()
    if not row.reader:
        assert not row.files and not row.training
        return
    config = dataset_config(name)
    assert config.spec == row.spec and config.class_names == row.class_names and config.reader == row.reader
    assert {key: getattr(config, key) for key in row.training} == row.training
    reader = importlib.import_module(f"input_pipeline.readers.{row.reader}")
    assert callable(reader.training_videos) and callable(reader.evaluation_videos)
    assert hasattr(reader, "ground_truth_videos") or "eval_truth" not in row.files
    for layout in row.official:
        assert {"train_images", "train_annotations"} <= layout.keys() <= _PATHS | {"reader"}
        theirs = importlib.import_module(f"input_pipeline.readers.{layout.get('reader', row.reader)}")
        assert hasattr(theirs, "ground_truth_videos") == hasattr(reader, "ground_truth_videos")


IMAGES = [name for name, row in DATASETS.items() if row.training.get("image_clips")]
VIDEOS = [name for name in READABLE if name not in IMAGES]


def test_every_dataset_can_be_read():
    assert IMAGES == ["ADE20K", "CITYSCAPES", "COCO", "MAPILLARY"]
    assert VIDEOS == ["YOUTUBE_VIS", "OVIS", "KITTI_STEP", "CITYSCAPES_VPS", "VIPSEG", "DAVIS", "BURST"]
    assert READABLE == IMAGES + VIDEOS == list(DATASETS)


def test_shares_of_a_recipe_add_up():
    for names in (IMAGES, VIDEOS):
        assert sum(DATASETS[name].training["weight"] for name in names) == pytest.approx(1.0)


@pytest.mark.parametrize("name", IMAGES)
def test_image_datasets(name):
    """Facts of the official category lists."""
    config = dataset_config(name)
    assert config.task_shares == {"instance": 0.3, "panoptic": 0.3, "exemplar": 0.4}
    assert [config.num_slots(task) for task in config.task_shares][2] == 8
    number_of = {
        name: (config.category_ids or range(config.num_classes))[i] for i, name in enumerate(config.class_names)
    }
    things = {config.class_names[i] for i in config.thing_classes}
    expected = {
        "ADE20K": ({"wall": 0, "person": 12, "flag": 149}, {"bed", "flag"}, {"wall", "river"}, 100),
        "CITYSCAPES": ({"road": 7, "bicycle": 33}, {"rider", "caravan"}, {"pole", "sky"}, 10),
        "COCO": ({"person": 1, "toothbrush": 90, "banner": 92, "rug-merged": 200}, {"toothbrush"}, {"banner"}, 80),
        "MAPILLARY": ({"Bird": 1, "Ego Vehicle": 65}, {"Lane Marking - Crosswalk"}, {"Lane Marking - General"}, 37),
    }[name]
    assert expected[0].items() <= number_of.items()
    assert expected[1] <= things and not expected[2] & things and len(things) == expected[3]


def test_class_names():
    for row in DATASETS.values():
        assert all(row.class_names)
    assert DATASETS["CITYSCAPES"].class_names[26] == "car"
    assert DATASETS["YOUTUBE_VIS"].class_names[16] == "giant_panda"
    vipseg = DATASETS["VIPSEG"]
    things = {vipseg.class_names[i] for i in vipseg.spec.thing_classes}
    assert things >= {"person", "car", "train"} and "sky" not in things


@pytest.mark.parametrize("name", [name for name, row in DATASETS.items() if row.class_origin])
def test_class_queries_start_from_classes_of_the_same_name(name):
    row = DATASETS[name]
    theirs = DATASETS[row.class_origin.dataset].class_names
    assert tuple(theirs[i] for i in row.class_origin.classes) == row.class_names


def test_class_counts():
    assert class_counts(["YOUTUBE_VIS", "DAVIS", "COCO"]) == (("COCO", 133), ("YOUTUBE_VIS", 40))
    assert ModelConfig().semantic_classes == class_counts(VIDEOS)
    with pytest.raises(ValueError, match="dataset: expected one of ADE20K, .*, found 'ZOO'"):
        class_counts(["ZOO"])


@pytest.mark.parametrize(
    "message, arguments",
    [
        ("task: expected one of .*, found 'vis'", ("vis", 3)),
        ("num_classes should be at least 1 for task 'instance', found 0", ("instance",)),
        ("num_classes should be at most 254, found 255", ("panoptic", 255)),
        ("thing_classes should be different ids in 0..2, found .3,.", ("panoptic", 3, (3,))),
        ("thing_classes should be different ids in 0..2, found .1, 1.", ("panoptic", 3, (1, 1))),
        ("thing_classes should be empty for task 'instance'", ("instance", 3, (1,))),
        ("exemplar should be \"\" for task 'instance', found 'mask'", ("instance", 3, (), "mask")),
        ("exemplar should be one of .'mask', 'point'.* found ''", ("exemplar",)),
        ("num_classes should be 0 .*; exemplar should be one of", ("exemplar", 3, (), "")),
    ],
)
def test_specs_that_do_not_fit_their_task(message, arguments):
    with pytest.raises(ValueError, match=message):
        DatasetSpec(*arguments)


def test_rows_that_contradict_themselves():
    with pytest.raises(ValueError, match="class_names: expected 2, found 1"):
        Dataset(DatasetSpec("instance", 2), ("a",))
    with pytest.raises(ValueError, match="class_origin: expected a class of COCO for each of 2 classes, found 1"):
        Dataset(DatasetSpec("instance", 2), class_origin=ClassOrigin("COCO", (0,)))


def test_names_belong_to_the_classes_of_the_table():
    assert dataset_config("OVIS", num_classes=3).class_names == ()
    assert dataset_config("OVIS", num_classes=3, class_names=("a", "b", "c")).class_names == ("a", "b", "c")
    with pytest.raises(ValueError, match="dataset OVIS: class_names: expected 25, found 1"):
        dataset_config("OVIS", class_names=("a",))


def test_datasets_of_a_run_that_are_not_in_the_table():
    """A config says itself what they are; nothing is guessed."""
    with pytest.raises(ValueError, match="dataset CLICKS: exemplar should be one of .*, found ''"):
        DatasetConfig("CLICKS", "generic", "exemplar")
    own = (
        DatasetConfig("CLICKS", "generic", "exemplar", exemplar="point"),
        DatasetConfig("LAB", "generic", "panoptic", 2, thing_classes=(1,), class_names=("bench", "mouse")),
    )
    model = ModelConfig(semantic_classes=(("LAB", 2), ("OVIS", 25)))
    inference = {"CLICKS": InferenceConfig(6, 3), "LAB": InferenceConfig(8, 4), "OVIS": InferenceConfig(10, 5)}
    config = Config(model=model, data=DataConfig(datasets=own), inference=inference)
    infos = config.dataset_infos()
    assert sorted(infos) == ["BURST", "CLICKS", "DAVIS", "LAB", "OVIS"]
    assert infos["LAB"].spec == DatasetSpec("panoptic", 2, (1,)) and infos["LAB"].class_names == ("bench", "mouse")
    assert infos["CLICKS"].spec.exemplar == "point" and infos["OVIS"].class_names[0] == "Person"
    assert {name: infos[name].inference for name in inference} == inference
    assert infos["BURST"].inference == default_inference("BURST")
    with pytest.raises(ValueError, match="model.semantic_classes: LAB: the model has queries for its 2 classes"):
        Config(model=model, data=DataConfig(datasets=own[:1]), inference=inference)
