"""The Python interface on a tiny model: loading, switching tasks without compiling, own datasets."""

import contextlib
import dataclasses
import pathlib
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest

import tarvis_jax
from tarvis_jax.model.queries import SEMANTIC_TABLE
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.weights import folder as pretrained
from tests import tiny

ROOT = pathlib.Path(__file__).resolve().parents[1]
SETTINGS = {"clip_length": 3, "overlap": 1, "max_tracks": 8, "score_threshold": 0.0, "min_dim": None}


@pytest.fixture(scope="module")
def model():
    return tiny.make_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared")
    model.save_pretrained(folder)
    return folder


def _mask() -> np.ndarray:
    mask = np.zeros(tiny.SIZE, bool)
    mask[10:40, 10:30] = True
    return mask


def _assert_same(found, expected):
    assert found.config == expected.config and found.datasets == expected.datasets
    assert found.variables.keys() == expected.variables.keys()
    for name, value in expected.variables.items():
        np.testing.assert_array_equal(found.variables[name], value, err_msg=name)


def test_the_import_is_light():
    code = (
        "import sys, tarvis_jax; before = {'jax', 'flax', 'torch', 'tensorflow', 'orbax', 'cv2'} & set(sys.modules); "
        "tarvis_jax.load; after = {'torch', 'tensorflow', 'orbax'} & set(sys.modules); print(before, after)"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set() set()"


def test_names_of_the_package():
    assert set(tarvis_jax.__all__) <= set(dir(tarvis_jax))
    assert all(getattr(tarvis_jax, name) is not None for name in tarvis_jax.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'lode'; it has .*load"):
        tarvis_jax.lode  # noqa: B018


def test_shared_folder(model, folder):
    _assert_same(tarvis_jax.load(folder), model)
    _assert_same(tarvis_jax.from_pretrained(str(folder)), model)
    assert tarvis_jax.load(folder, dtype="bfloat16").config.compute_dtype == "bfloat16"
    on_cpu = tarvis_jax.load(folder, device="cpu:0", backend="xla")
    assert on_cpu.config.ms_deform_attn_backend == "xla"
    assert all(value.devices() == {jax.devices("cpu")[0]} for value in on_cpu.variables.values())
    on_cpu.save_pretrained(folder)  # over the files that it is mapped from
    _assert_same(tarvis_jax.load(folder, backend="xla"), on_cpu)  # the back end belongs to the machine, not to the file
    model.save_pretrained(folder)


def test_reference_checkpoint(tmp_path):
    torch, yaml = pytest.importorskip("torch"), pytest.importorskip("yaml")
    from tarvis_jax.weights.pytorch.reference import reference_config, to_reference_state_dict

    config = dataclasses.replace(pretrained.ModelConfig(), backbone="ResNet50")  # the smallest that the reference has
    variables = {name: np.zeros(v.shape, v.dtype) for name, v in _abstract(config).items()}
    state_dict = {name: torch.from_numpy(v) for name, v in to_reference_state_dict(variables, config).items()}
    torch.save({"model": state_dict}, tmp_path / "released.pth")
    inference = {"CLIP_LENGTH": 5, "FRAME_OVERLAP": 1, "IMAGE_RESIZE": {"MODE": "min_dim", "MIN_DIMS": 64}}
    of_file = reference_config(config) | {"DATASETS": {"DAVIS": {"INFERENCE": inference}}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(of_file))
    for path in (tmp_path, tmp_path / "released.pth"):
        loaded = tarvis_jax.load(path)
        assert loaded.config == config
        assert sorted(loaded.datasets) == sorted([*dict(config.semantic_classes), "BURST", "DAVIS"])
        settings = loaded.session(task="vos", dataset="DAVIS").config
        assert (settings.clip_length, settings.overlap, settings.min_dim) == (5, 1, 64)


def _abstract(config):
    from tarvis_jax.model.variables import abstract_model, flatten

    return flatten(abstract_model(config))


def test_workdir_of_a_run(model, tmp_path):
    from configs import quickstart
    from tarvis_jax.config import from_mapping, save_json, to_plain
    from tarvis_jax.run_config import Config
    from tarvis_jax.train.optimizer import make_optimizer
    from tarvis_jax.train.state import new_state, to_items
    from tarvis_jax.weights.checkpoints import Checkpoints

    config = from_mapping(Config, quickstart.get_config())
    small = dataclasses.replace(tiny.MODEL, semantic_classes=config.model.semantic_classes)
    config = dataclasses.replace(config, model=small)
    structure, variables = ModelStructure(small), tiny.variables(small)
    params = {name: jax.numpy.asarray(variables[name]) for name in structure.params}
    frozen = {name: jax.numpy.asarray(variables[name]) for name in structure.frozen}
    save_json(tmp_path / "config.json", config)
    checkpoints = Checkpoints(tmp_path, create=True)
    state = new_state(params, frozen, make_optimizer(config.optimizer, params), True)
    checkpoints.save(3, *to_items(state), to_plain(config))
    checkpoints.close()
    loaded = tarvis_jax.load(tmp_path)
    assert loaded.config == small
    assert loaded.datasets["KITTI_STEP"].inference == config.inference["KITTI_STEP"]
    things = next(d.thing_classes for d in config.data.datasets if d.name == "KITTI_STEP")
    assert loaded.datasets["KITTI_STEP"].spec.thing_classes == things
    assert loaded.datasets["YOUTUBE_VIS"].class_names == ("circle", "square", "triangle", "cross")  # the run's own
    np.testing.assert_array_equal(loaded.variables[SEMANTIC_TABLE], variables[SEMANTIC_TABLE])


def test_given_targets_of_several_datasets(model, monkeypatch):
    assert model.session("vos", "BURST").dataset == "BURST"  # masks, cut as BURST's videos are
    monkeypatch.setitem(model.datasets, "MINE", model.datasets["DAVIS"])
    with pytest.raises(ValueError, match="task vos: say which dataset is meant, of DAVIS, MINE"):
        model.session("vos")


def test_the_hub(model, folder, tmp_path, monkeypatch):
    asked = []

    def snapshot_download(name, revision, allow_patterns):
        asked.append((name, revision))
        if name == "me/absent":
            raise RuntimeError("404 Client Error\nsee ...")
        target = tmp_path / name
        shutil.copytree(folder, target, ignore=lambda _, names: set(names) - set(allow_patterns))
        return str(target)

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    _assert_same(tarvis_jax.from_pretrained("me/tarvis@v1.0"), model)
    assert asked == [("me/tarvis", "v1.0")]
    with pytest.raises(ValueError, match="me/absent: no such file or folder here, and the hub did not .* 404 Client"):
        tarvis_jax.load("me/absent")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ValueError, match="me/tarvis: .*pip install huggingface_hub"):
        tarvis_jax.load("me/tarvis")


def test_bad_paths_and_options(folder, tmp_path):
    (tmp_path / "two").mkdir()
    for name in ("a.pth", "b.pth"):
        (tmp_path / "two" / name).write_bytes(b"")
    for path, message in (
        (tmp_path / "nowhere", "no such file or folder, and not an id on the hub"),
        (tmp_path / "two", "expected one .pth file .* found a.pth, b.pth"),
        (tmp_path, "found none of these"),
        (folder / "config.json", "expected one .pth file"),
    ):
        with pytest.raises(ValueError, match=message):
            tarvis_jax.load(path)
    with pytest.raises(ValueError, match="expected a folder with model.safetensors and config.json"):
        tarvis_jax.from_pretrained(tmp_path / "two")
    with pytest.raises(ValueError, match="dtype: expected 'float32' or 'bfloat16', found 'float16'"):
        tarvis_jax.load(folder, dtype="float16")
    for device in ("abacus", "cpu:99", "cpu:x"):
        with pytest.raises(ValueError, match=f"device: expected .* found '{device}'; there are cpu:0"):
            tarvis_jax.load(folder, device=device)
    variables = tiny.variables()
    wrong = variables.pop("queries/vos")
    pretrained.save_safetensors(variables | {"queries/voss": wrong}, tiny.MODEL, tmp_path / "wrong")
    with pytest.raises(ValueError, match="(?s)wrong.*missing: queries/vos .*unexpected: queries/voss"):
        tarvis_jax.load(tmp_path / "wrong")


@contextlib.contextmanager
def _count_compilations():
    """Counts every compilation of XLA in this process, whoever asked for it."""
    counts = [0]

    def listen(event, duration, **_):
        counts[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def _segment(model, task, dataset, frames, **settings):
    session = model.session(task, dataset, **(SETTINGS | settings))
    if task == "vos":
        session.add_target(0, "a", mask=_mask())
    elif task == "pet":
        session.add_target(0, "a", point_yx=(3, 4))
    return list(session.run(frames)), session


def test_switching_tasks_compiles_nothing_after_the_first_use():
    model = tiny.make_model()
    uses = [("vis", "YOUTUBE_VIS"), ("vis", "OVIS"), ("vps", "KITTI_STEP"), ("vos", None), ("pet", None)]
    first = []
    with _count_compilations() as counts:
        for task, dataset in uses:
            before = counts[0]
            _segment(model, task, dataset, tiny.noise_video(5))
            first.append(counts[0] - before)
    # vis: features of a clip before the first, features, decoder, taking masks, pixels. Another number of classes: the
    # decoder alone. vps: the decoder, and the semantic map. vos: the decoder, masks for the next clip, pixels. pet:
    # nothing that vos does not have.
    assert first == [5, 1, 2, 3, 0]
    assert model.predictor.programs.num_compilations == sum(first)
    with _count_compilations() as counts:
        for seed, (task, dataset) in enumerate(uses + uses[::-1]):
            _segment(model, task, dataset, tiny.noise_video(5, seed))
    assert counts[0] == 0


def test_results_say_what_is_where(model):
    frames, session = _segment(model, "vps", "KITTI_STEP", tiny.noise_video(3))
    assert [result.frame for result in frames] == [0, 1, 2]
    objects = frames[0].objects
    assert objects and len({each.id for each in objects}) == len(objects)
    for each in objects:
        assert each.class_name == model.datasets["KITTI_STEP"].class_names[each.class_id - 1]
        assert 0 < each.score <= 1 and each.mask.shape == tiny.SIZE and each.mask.dtype == bool
        assert each.rle["size"] == list(tiny.SIZE) and each.is_thing == (each.class_id - 1 in (11, 13))
    classes, ids = frames[0].panoptic()
    assert classes.shape == ids.shape == tiny.SIZE
    assert set(np.unique(classes[ids > 0])) <= {11, 13} and not set(np.unique(classes[ids == 0])) & {11, 13}
    final = {track.id: (track.class_id, pytest.approx(track.score)) for track in session.result().tracks}
    assert {each.id: (each.class_id, each.score) for each in frames[-1].objects}.items() <= final.items()
    given, _ = _segment(model, "vos", None, tiny.noise_video(1))
    assert {each.id for each in given[0].objects} <= {"a"} and given[0].semantic is None
    with pytest.raises(ValueError, match="only results of panoptic datasets"):
        given[0].panoptic()


def test_which_dataset(model):
    assert model.session("vps").dataset == "KITTI_STEP"  # the only one of the task
    assert (model.session("vos").dataset, model.session("pet").dataset) == ("DAVIS", "BURST")
    assert model.session(dataset="OVIS").spec.task == "instance"
    for arguments, message in (
        (dict(), "expected a task of .*'vos'.* or a dataset of"),
        (dict(task="vox"), "task: expected one of vis, vps, vos, pet, found 'vox'"),
        (dict(task="vis"), "task vis: say which dataset is meant, of OVIS, YOUTUBE_VIS"),
        (dict(task="vis", dataset="KITTI_STEP"), "expected one of task vis of OVIS, YOUTUBE_VIS, found 'KITTI_STEP'"),
        (dict(dataset="COCO"), "dataset: expected one of BURST, DAVIS, KITTI_STEP, .* found 'COCO'"),
        (dict(task="vos", clip_lenght=3), r"unknown settings \['clip_lenght'\]; known are .*clip_length"),
        (dict(task="vos", overlap=30), "overlap: expected"),
    ):
        with pytest.raises(ValueError, match=message):
            model.session(**arguments)


def test_add_dataset(folder, tmp_path):
    model = tarvis_jax.load(folder)
    before = {name: np.asarray(value) for name, value in model.variables.items()}
    model.add_dataset(
        "LAB", ["mouse", "hand", "car"], copy_from={"mouse": ("YOUTUBE_VIS", "mouse"), "car": ("OVIS", 25)}
    )
    model.add_dataset("ROADS", ["asphalt", "truck"], is_thing=[False, True])
    assert dict(model.config.semantic_classes) == dict(tiny.MODEL.semantic_classes) | {"LAB": 3, "ROADS": 2}
    after = {name: np.asarray(value) for name, value in model.variables.items()}
    old, new = before.pop(SEMANTIC_TABLE), after.pop(SEMANTIC_TABLE)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)
    # Rows: embedding, KITTI_STEP 19, [LAB 3], OVIS 25, [ROADS 2], YOUTUBE_VIS 40.
    np.testing.assert_array_equal(np.delete(new, [20, 21, 22, 48, 49], axis=0), old)
    mouse = old[1 + 19 + 25 + model.datasets["YOUTUBE_VIS"].class_names.index("mouse")]
    np.testing.assert_array_equal(new[[20, 22]], [mouse, old[19 + 25]])
    drawn = new[[21, 48, 49]]
    assert len(np.unique(drawn)) == drawn.size and 0.7 < drawn.std() < 1.3
    # The other datasets' answers are what they were, and the new ones work.
    same = _segment(model, "vis", "OVIS", tiny.noise_video(2))[0]
    assert same == _segment(tiny.make_model(), "vis", "OVIS", tiny.noise_video(2))[0]
    model.save_pretrained(tmp_path)
    again = tarvis_jax.from_pretrained(tmp_path)
    _assert_same(again, model)
    objects = [each for result in _segment(again, "vis", "LAB", tiny.noise_video(2))[0] for each in result.objects]
    assert objects and {each.class_name for each in objects} <= {"mouse", "hand", "car"}
    classes, _ = _segment(again, "vps", "ROADS", tiny.noise_video(2))[0][0].panoptic()
    assert set(np.unique(classes)) <= {0, 1}


def test_training_starts_from_an_added_dataset(folder, tmp_path):
    from tarvis_jax.weights.open import open_model
    from tarvis_jax.weights.start import load_initial_weights

    model = tarvis_jax.load(folder)
    model.add_dataset("LAB", ["mouse", "hand"])
    model.save_pretrained(tmp_path)
    assert open_model(tmp_path).config == model.config
    structure = ModelStructure(model.config)
    params, frozen, _ = load_initial_weights(tmp_path, model.config, structure.params, structure.frozen)
    assert (params | frozen).keys() == model.variables.keys()
    for name, value in model.variables.items():
        np.testing.assert_array_equal((params | frozen)[name], value, err_msg=name)


@pytest.mark.parametrize(
    "message, arguments",
    [
        ("expected a new name, found 'OVIS'; there are", dict(name="OVIS", classes=["a"])),
        ("expected a new name, found ''", dict(name="", classes=["a"])),
        ("expected at least one class", dict(name="LAB", classes=[])),
        (r"class_names: each may occur once, found twice: \['a'\]", dict(name="LAB", classes=["a", "a"])),
        ("is_thing: expected 2 values, some true", dict(name="LAB", classes=["a", "b"], is_thing=[True])),
        ("is_thing: expected 2 values, some true", dict(name="LAB", classes=["a", "b"], is_thing=[True, True])),
        (r"copy_from: \['b'\] are not among", dict(name="LAB", classes=["a"], copy_from={"b": ("OVIS", 1)})),
        (
            "expected a dataset of .*'OVIS'.*, found 'COCO'",
            dict(name="LAB", classes=["a"], copy_from={"a": ("COCO", 1)}),
        ),
        ("OVIS has no class 'x'; it has Person", dict(name="LAB", classes=["a"], copy_from={"a": ("OVIS", "x")})),
        (r"class ids of OVIS are 1\.\.25, found 26", dict(name="LAB", classes=["a"], copy_from={"a": ("OVIS", 26)})),
    ],
)
def test_bad_datasets(model, message, arguments):
    with pytest.raises(ValueError, match=message):
        model.add_dataset(**arguments)
    assert model.config == tiny.MODEL
    assert sorted(model.datasets) == ["BURST", "DAVIS", "KITTI_STEP", "OVIS", "YOUTUBE_VIS"]
