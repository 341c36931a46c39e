"""Every field of every config has its range, and holds nothing else."""

import ast
import dataclasses
import importlib
import pathlib
import types
import typing
from typing import Annotated

import pytest

from kernels.ms_deform_attn.backends import BACKENDS
from tarvis_jax.config import from_mapping, to_plain
from tarvis_jax.datasets import DATASETS
from tarvis_jax.fields import Length, OneOf, Range, Text, check_fields, field_hints
from tarvis_jax.inference.config import InferenceConfig
from tarvis_jax.model.backbones import BACKBONES
from tarvis_jax.model.config import BACKBONE_FAMILIES, MS_DEFORM_ATTN_BACKENDS, ModelConfig

ROOT = pathlib.Path(__file__).resolve().parents[1]
# What a dataclass of settings is called; "Info" alone would also find what a batch says of itself.
SUFFIXES = ("Config", "Spec", "DatasetInfo", "_ConfigFile")
REQUIRED = {
    "DatasetConfig": {"name": "MINE", "reader": "davis", "task": "exemplar", "exemplar": "mask"},
    "DatasetSpec": {"task": "instance", "num_classes": 2},
    "DatasetInfo": {"spec": DATASETS["OVIS"].spec},
    "_ConfigFile": {
        "format": "tarvis_jax",
        "format_version": 1,
        "model": ModelConfig(semantic_classes=()),
        "datasets": {},
    },
    "ResNetConfig": {"depths": BACKBONES["ResNet50"].depths},
    "SwinConfig": dataclasses.asdict(BACKBONES["SwinTiny"]),
    "ConvNextConfig": dataclasses.asdict(BACKBONES["ConvNextTiny"]),
}


def config_classes() -> dict[str, type]:
    """All dataclasses of settings in the source, by name."""
    found = {}
    for package in ("tarvis_jax", "input_pipeline", "kernels"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ClassDef) and node.name.endswith(SUFFIXES) and node.decorator_list:
                    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                    found[node.name] = getattr(importlib.import_module(module), node.name)
    return found


CLASSES = config_classes()
FIELDS = [(name, field) for name, cls in CLASSES.items() for field in field_hints(cls)]


def leaves(hint, rules=()) -> list[tuple[type, tuple]]:
    """(type, rules) of everything in an annotation that holds a value or a number of entries."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        return leaves(arguments[0], (*rules, *arguments[1:]))
    if origin in (typing.Union, types.UnionType):
        return [leaf for option in arguments if option is not types.NoneType for leaf in leaves(option, rules)]
    if origin is None:
        return [(hint, rules)]
    own = [] if origin is tuple and Ellipsis not in arguments else [(origin, rules)]
    return own + [leaf for argument in arguments if argument is not Ellipsis for leaf in leaves(argument)]


def test_the_scan_sees_them():
    assert CLASSES.keys() >= {
        "Config", "ModelConfig", "LossConfig", "OptimizerConfig", "TrainConfig", "SyntheticConfig", "DataConfig",
        "DatasetConfig", "InferenceConfig", "ExportConfig", "DatasetSpec", "DatasetInfo", "ResNetConfig",
    }  # fmt: skip


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_every_field_has_its_range(name, field):
    for kind, rules in leaves(field_hints(CLASSES[name])[field]):
        if kind is bool or dataclasses.is_dataclass(kind):
            continue
        wanted = {int: (Range, OneOf), float: (Range, OneOf), str: (Text, OneOf), tuple: (Length,), dict: (Length,)}
        assert any(isinstance(rule, wanted[kind]) for rule in rules), f"{kind.__name__} without a range"


def outside(hint) -> list:
    """Values that an annotation refuses: of another type, and just beyond every bound."""
    values = [object(), float("nan"), b"x"]
    for kind, rules in leaves(hint)[:1]:
        for rule in rules:
            if isinstance(rule, Range):
                step = 1 if kind is int else 1e-6 * max(1.0, abs(rule.high))
                values += [kind(rule.low - step), kind(rule.high + step)]
                values += [kind(rule.low)] * rule.above_low + [kind(rule.high)] * rule.below_high
            elif isinstance(rule, Text):
                values += ["x" * (rule.most + 1), "two\nlines", "\x1b[2J"] + [""] * (rule.least > 0)
            elif isinstance(rule, OneOf):
                values += [v for v in ("no such thing", "", None, True, -1) if v not in rule.choices]
    return values + [True] * (bool not in {kind for kind, _ in leaves(hint)})


@pytest.mark.parametrize(("name", "field"), FIELDS)
def test_values_outside_are_refused(name, field):
    hint = field_hints(CLASSES[name])[field]
    values = REQUIRED.get(name, {})
    CLASSES[name](**values)  # is fine without the change
    for value in outside(hint):
        if value is None and type(None) in typing.get_args(hint):
            continue
        with pytest.raises(ValueError, match=rf"{field}\b.*expected .*found"):
            CLASSES[name](**{**values, field: value})


@dataclasses.dataclass(frozen=True)
class Example:
    sizes: Annotated[tuple[Annotated[int, Range(1, 9)], ...], Length(1, 3)] = (1,)
    pair: tuple[Annotated[int, Range(0, 1)], Annotated[float, Range(0, 1)]] = (0, 0.5)
    names: Annotated[dict[Annotated[str, Text(5, 1)], Annotated[int, Range(0, 3)]], Length(0, 2)] = dataclasses.field(
        default_factory=dict
    )
    rate: Annotated[float, Range(0, 1, below_high=True)] | None = None

    def __post_init__(self):
        check_fields(self)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"sizes": (1, 2, 10)}, r"^sizes\[2\]: expected 1\.\.9, found 10$"),
        ({"sizes": ()}, r"^sizes: expected 1\.\.3 entries, found 0$"),
        ({"sizes": [1]}, r"^sizes: expected tuple, found \[1\]$"),
        ({"pair": (0,)}, r"^pair: expected 2 entries, found 1$"),
        ({"pair": (0, True)}, r"^pair\[1\]: expected float, found True$"),
        ({"names": {"": 1}}, r"^names, name: expected one line of 1\.\.5 printable characters, found ''$"),
        ({"names": {"a": 4}}, r"^names\.a: expected 0\.\.3, found 4$"),
        ({"rate": 1.0}, r"^rate: expected 0\.\.1 \(1 excluded\), found 1\.0$"),
        ({"rate": float("inf")}, r"^rate: expected 0\.\.1 \(1 excluded\), found inf$"),
        ({"sizes": (0,), "rate": -1.0}, r"^sizes\[0\]: expected 1\.\.9, found 0; rate: expected .*, found -1\.0$"),
    ],
)
def test_messages(values, message):
    with pytest.raises(ValueError, match=message):
        Example(**values)


def test_names_that_stand_in_two_places_agree():
    assert BACKBONE_FAMILIES.keys() == BACKBONES.keys() and set(MS_DEFORM_ATTN_BACKENDS) == BACKENDS.keys()


def test_what_is_inside_is_taken():
    Example(sizes=(1, 9), pair=(1, 1), names={"a": 0, "b": 3}, rate=0)
    assert InferenceConfig(score_threshold=1).score_threshold == 1


def test_all_problems_of_a_section_in_one_message():
    content = to_plain(ModelConfig()) | {"hidden_size": "x", "num_heads": 1.5, "layers": 3}
    with pytest.raises(ValueError) as error:
        from_mapping(ModelConfig, content, "config.model")
    text = str(error.value)
    assert "config.model.hidden_size: expected int, found 'x' of type str" in text
    assert "config.model.num_heads: expected int" in text and "config.model.layers: no such key" in text
