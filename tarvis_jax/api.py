"""The Python interface: load a model, segment videos with it, give it classes of one's own, save it (docs/api.md)."""

import dataclasses
import pathlib
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from tarvis_jax.compiled import quick_compiler_options
from tarvis_jax.dataset_info import DatasetInfo, default_datasets
from tarvis_jax.datasets import EXEMPLAR, INSTANCE, MASK, PANOPTIC, POINT, DatasetSpec
from tarvis_jax.evaluation.segment import fingerprint
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.inference.predictor import Predictor
from tarvis_jax.inference.session import Session
from tarvis_jax.model.config import ModelConfig, settle_backends
from tarvis_jax.model.queries import SEMANTIC_TABLE, semantic_rows
from tarvis_jax.model.structure import ModelStructure
from tarvis_jax.weights import card, folder, hub
from tarvis_jax.weights.open import open_model

# The tasks by the names of their benchmarks: task and kind of exemplar of the datasets that they stand for.
TASKS = {"vis": (INSTANCE, ""), "vps": (PANOPTIC, ""), "vos": (EXEMPLAR, MASK), "pet": (EXEMPLAR, POINT)}


class Model:
    """A network with its weights, and the datasets whose classes it knows.

    Attributes:
      config: the architecture.
      datasets: DatasetInfo by name: task, class names, how videos are segmented.
      predictor: the compiled functions, shared by all sessions: what one has compiled serves the others.
    """

    def __init__(
        self,
        config: ModelConfig,
        variables: Mapping[str, Any],
        datasets: Mapping[str, DatasetInfo] | None = None,
        device: jax.Device | None = None,
        run: card.Run | None = None,
    ):
        """Args:
          config: the architecture.
          variables: flat dict of its variables (`tarvis_jax.model.variables.flatten`).
          datasets: None takes the table of datasets (`default_datasets`).
          device: see `load`.
          run: the training run that the variables come from.

        Raises:
          ValueError: names every missing, unexpected and misshapen variable; or the datasets of
            `config.semantic_classes` that the table does not know, where `datasets` is None.
        """
        self.datasets = dict(default_datasets(config.semantic_classes) if datasets is None else datasets)
        self.predictor = Predictor(config, variables, device=device)
        self._run = run

    @property
    def config(self) -> ModelConfig:
        return self.predictor.config

    @property
    def variables(self) -> dict[str, jax.Array]:
        """All variables by their flat names ("decoder/norm/scale")."""
        return self.predictor.variables

    def session(self, task: str | None = None, dataset: str | None = None, **settings: Any) -> Session:
        """A session for one video.

            session = model.session("vis", "YOUTUBE_VIS", clip_length=6, overlap=3)
            for result in session.run("clip.mp4"):
                print(result.frame, [each.class_name for each in result.objects])

        Args:
          task: "vis", "vps", "vos" or "pet"; may be left out where `dataset` says it.
          dataset: whose classes to find (vis, vps; may be left out where the model has one dataset of the task), or
            whose way of cutting videos to use (vos, pet; by default the one whose targets are masks, "DAVIS", or
            points, "BURST").
          **settings: replace fields of the dataset's InferenceConfig (clip_length, overlap, min_dim, ...);
            `keep_result=False` is for endless streams, and `clip_batch` for videos whose results nobody waits for,
            see Session.

        Raises:
          ValueError: an unknown task, dataset or setting, or a dataset of another task.
        """
        name = self._dataset_of(task, dataset)
        info = self.datasets[name]
        how = {name: settings.pop(name) for name in ("keep_result", "clip_batch") if name in settings}
        known = {field.name for field in dataclasses.fields(InferenceConfig)}
        if not known >= set(settings):
            raise ValueError(
                f"session: unknown settings {sorted(set(settings) - known)}; known are {sorted(known)}, keep_result, "
                "clip_batch"
            )
        inference = dataclasses.replace(info.inference, **settings)
        return Session(self.predictor, name, info.spec, inference, info.class_names, **how)

    def _dataset_of(self, task: str | None, dataset: str | None) -> str:
        if task is None and dataset is None:
            raise ValueError(f"session: expected a task of {sorted(TASKS)} or a dataset of {sorted(self.datasets)}")
        if task is not None and task not in TASKS:
            raise ValueError(f"task: expected one of {', '.join(TASKS)}, found {task!r}")
        fitting = sorted(n for n, i in self.datasets.items() if task is None or i.spec.task == TASKS[task][0])
        if dataset is None:
            of_kind = [n for n in fitting if self.datasets[n].spec.exemplar == TASKS[task][1]]
            if len(of_kind) != 1:
                raise ValueError(f"task {task}: say which dataset is meant, of {', '.join(of_kind) or 'none'}")
            return of_kind[0]
        if dataset not in fitting:
            of_task = f" of task {task}" if task is not None and dataset in self.datasets else ""
            raise ValueError(f"dataset: expected one{of_task} of {', '.join(fitting) or 'none'}, found {dataset!r}")
        return dataset

    def add_dataset(
        self,
        name: str,
        classes: Sequence[str],
        is_thing: Sequence[bool] | None = None,
        *,
        copy_from: Mapping[str, tuple[str, str | int]] | None = None,
        inference: InferenceConfig | None = None,
        seed: int = 0,
    ) -> None:
        """Gives the model queries for the classes of a new dataset, to be fine-tuned; all else stays as it is.

            model.add_dataset("LAB", ["mouse", "hand"], copy_from={"mouse": ("YOUTUBE_VIS", "mouse")})
            model.add_dataset("ROAD", ["car", "asphalt", "sky"], is_thing=[True, False, False])
            model.save_pretrained("my_model")

        Args:
          name: of the dataset, also in configs of training.
          classes: names of class ids 1, 2, ... K.
          is_thing: per class whether its instances are told apart; makes a panoptic dataset, whose other classes are
            stuff (at least one of each). None: an instance dataset, all are.
          copy_from: new class -> (dataset, class name or id 1..K) whose query it starts from. The others are drawn
            as those of a new model are, from a standard normal distribution.
          inference: how its videos are segmented; None takes `InferenceConfig()` (its score_threshold .5 if panoptic).
          seed: of what is drawn.

        Raises:
          ValueError: a dataset of that name exists, or classes or sources that do not.
        """
        if name in self.datasets or not name:
            raise ValueError(f"add_dataset: expected a new name, found {name!r}; there are {sorted(self.datasets)}")
        if not classes:
            raise ValueError(f"add_dataset {name}: expected at least one class")
        if is_thing is None:
            spec = DatasetSpec(INSTANCE, len(classes))
        else:
            if len(is_thing) != len(classes) or not 0 < sum(map(bool, is_thing)) < len(classes):
                raise ValueError(
                    f"add_dataset {name}: is_thing: expected {len(classes)} values, some true and some false, "
                    f"found {list(is_thing)}"
                )
            spec = DatasetSpec(PANOPTIC, len(classes), tuple(i for i, thing in enumerate(is_thing) if thing))
        if inference is None:
            inference = InferenceConfig() if is_thing is None else InferenceConfig(max_tracks=1000, score_threshold=0.5)
        info = DatasetInfo(spec, tuple(classes), inference)
        copy_from = dict(copy_from or {})
        unknown = sorted(set(copy_from) - set(classes))
        if unknown:
            raise ValueError(f"add_dataset {name}: copy_from: {unknown} are not among its classes {list(classes)}")

        variables = dict(self.variables)
        table = np.asarray(variables[SEMANTIC_TABLE])
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))  # other queries for every dataset
        new = np.array(jax.random.normal(key, (len(classes), table.shape[1]), table.dtype))
        for row, class_name in enumerate(classes):
            if class_name in copy_from:
                new[row] = table[self._class_row(*copy_from[class_name])]
        semantic_classes = tuple(sorted((*self.config.semantic_classes, (name, len(classes)))))
        start, _ = semantic_rows(semantic_classes)[name]
        variables[SEMANTIC_TABLE] = np.concatenate([table[:start], new, table[start:]])
        config = dataclasses.replace(self.config, semantic_classes=semantic_classes)
        self.predictor = Predictor(config, variables, device=self.predictor.device)
        self.datasets[name] = info

    def _class_row(self, dataset: str, class_name: str | int) -> int:
        """Row of a class in the table of class queries."""
        rows_of = semantic_rows(self.config.semantic_classes)
        if dataset not in rows_of:
            raise ValueError(f"copy_from: expected a dataset of {sorted(rows_of)}, found {dataset!r}")
        start, stop = rows_of[dataset]
        names = self.datasets[dataset].class_names
        if isinstance(class_name, str):
            if class_name not in names:
                known = ", ".join(names) or "no names known: give its id"
                raise ValueError(f"copy_from: {dataset} has no class {class_name!r}; it has {known}")
            return start + names.index(class_name)
        if not 1 <= class_name <= stop - start:
            raise ValueError(f"copy_from: class ids of {dataset} are 1..{stop - start}, found {class_name}")
        return start + class_name - 1

    def save_pretrained(self, destination: str | pathlib.Path, *, license: str = card.UNKNOWN_LICENSE) -> None:
        """Writes `model.safetensors` and `config.json`, which `load` and `from_pretrained` read, and a card.

        The card, `README.md`, says what the model is, for people and for the Hugging Face hub. If the model was loaded
        from a run, it has the scores that the run measured with these weights, and `report.html` lies beside it.

        Args:
          destination: the folder; files of a model that is there are replaced.
          license: of the weights, an identifier of the hub such as "apache-2.0" or "cc-by-nc-4.0".

        Raises:
          ValueError: a license that is no identifier.
        """
        weights = "" if self._run is None else fingerprint(self.variables)
        card.check_license(license)
        folder.save_safetensors(self.variables, self.config, destination, self.datasets)
        card.write_card(destination, self.config, self.datasets, run=self._run, weights=weights, license=license)


def load(
    path: str | pathlib.Path,
    *,
    dtype: str | None = None,
    backend: str | None = None,
    device: str | jax.Device | None = None,
) -> Model:
    """Loads a model from wherever it lies.

        model = tarvis_jax.load("runs/finetune")
        model = tarvis_jax.load("tarvis_resnet50/model.pth", dtype="bfloat16", device="gpu:1")

    Args:
      path: one of
        - a checkpoint of the PyTorch reference (.pth, its config.yaml beside it), or the folder with one;
        - a folder with `model.safetensors` and `config.json` (`Model.save_pretrained`);
        - the workdir of a training run: its newest checkpoint (the moving average of the weights if it has one);
        - an id on the Hugging Face hub, "owner/name" or "owner/name@revision", if there is no such local path.
      dtype: of activations, "float32" or "bfloat16"; None takes the saved config's. Parameters are float32.
      backend: of the deformable attention, see kernels/ms_deform_attn; None takes the environment variable
        TARVIS_MS_DEFORM_ATTN, or lets the platform choose. `Model.config` says what was settled.
      device: a jax.Device, or a platform with an optional number ("cpu", "gpu:1", "tpu"); None: JAX's default device.

    Raises:
      ValueError: nothing of that kind there, or its files are broken; says which and why.
    """
    resolved = _resolve_device(device)
    opened = open_model(path)
    # What computes is a matter of this machine, not of the model: the settings of the file are left alone.
    changes = {"ms_deform_attn_backend": backend, "attention_backend": None}
    if dtype is not None:
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype: expected 'float32' or 'bfloat16', found {dtype!r}")
        changes["compute_dtype"] = dtype
    config = settle_backends(dataclasses.replace(opened.config, **changes))
    run = None if opened.run is None else card.Run(opened.path, opened.run, opened.step)
    return Model(config, opened.variables, opened.datasets, resolved, run)


def from_pretrained(folder_or_hub_id: str | pathlib.Path, **options: Any) -> Model:
    """`load`, for what `Model.save_pretrained` wrote alone: a folder, or an id on the hub.

    Raises:
      ValueError: as `load`, and for anything else.
    """
    if not pathlib.Path(folder_or_hub_id).exists() and hub.is_hub_id(str(folder_or_hub_id)):
        return load(folder_or_hub_id, **options)
    if not folder.is_pretrained_folder(folder_or_hub_id):
        raise ValueError(
            f"{folder_or_hub_id}: expected a folder with {folder.WEIGHTS_FILE} and {folder.CONFIG_FILE}, "
            "or an id on the hub"
        )
    return load(folder_or_hub_id, **options)


def create(config: ModelConfig, seed: int = 0, datasets: Mapping[str, DatasetInfo] | None = None) -> Model:
    """A model with weights drawn from a seed, like those that training starts from.

    model = tarvis_jax.create(tarvis_jax.ModelConfig(backbone="SwinTiny"))
    """
    options = quick_compiler_options(jax.default_backend())
    initialize = jax.jit(ModelStructure(config).initialize, compiler_options=options)
    params, frozen = initialize(jax.random.key(seed))
    return Model(config, params | frozen, datasets)


def _resolve_device(device: str | jax.Device | None) -> jax.Device | None:
    if not isinstance(device, str):
        return device
    platform, _, number = device.partition(":")
    try:
        return jax.local_devices(backend=platform)[int(number or 0)]
    except (RuntimeError, ValueError, IndexError):
        there = ", ".join(f"{each.platform}:{index}" for index, each in enumerate(jax.local_devices()))
        raise ValueError(
            f"device: expected a platform as 'cpu' or 'gpu:1', found {device!r}; there are {there}"
        ) from None
