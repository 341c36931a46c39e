"""ConfigDict sections become dataclasses strictly, and go through JSON unchanged."""

import dataclasses

import pytest

from tarvis_jax.config import describe, from_mapping, load_config_file, load_json, save_json, to_config_dict, to_plain
from tarvis_jax.run_config import Config


@dataclasses.dataclass(frozen=True)
class Inner:
    size: tuple[int, int] = (64, 96)
    rates: tuple[float, ...] = (0.1, 0.1)
    maximum: int | None = None


@dataclasses.dataclass(frozen=True)
class Part:
    learning_rate: float = 1e-4
    num_steps: int = 10
    name: str = "a"
    remat: bool = False
    classes: tuple[tuple[str, int], ...] = (("OVIS", 25),)
    inner: Inner = Inner()
    many: tuple[Inner, ...] = (Inner(), Inner(maximum=3))
    by_name: dict[str, Inner] = dataclasses.field(default_factory=lambda: {"DAVIS": Inner(size=(1, 2))})

    def __post_init__(self):
        if self.num_steps < 1:
            raise ValueError(f"num_steps: expected at least 1, found {self.num_steps}")


def test_round_trips(tmp_path):
    part = Part(learning_rate=3e-4, inner=Inner(maximum=7))
    assert from_mapping(Part, to_config_dict(part)) == part
    save_json(tmp_path / "config.json", part)
    assert load_json(Part, tmp_path / "config.json") == part


def test_override_of_an_optional_field():
    config = to_config_dict(Part())
    config.inner.maximum = 12
    config.by_name.DAVIS.size = (3, 4)
    part = from_mapping(Part, config)
    assert part.inner.maximum == 12
    assert part.by_name["DAVIS"].size == (3, 4)
    assert from_mapping(Part, to_config_dict(Part())).inner.maximum is None


def test_whole_numbers_become_floats():
    assert from_mapping(Part, {"learning_rate": 1}).learning_rate == 1.0


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"learnin_rate": 1.0}, r"config\.learnin_rate: no such key\. Did you mean learning_rate\?.*Known keys"),
        ({"inner": {"sizes": (1, 2)}}, r"config\.inner\.sizes: no such key\. Did you mean size"),
        ({"num_steps": 1.5}, r"config\.num_steps: expected int, found 1\.5 of type float"),
        ({"num_steps": True}, r"config\.num_steps: expected int, found True of type bool"),
        ({"name": 3}, r"config\.name: expected str, found 3"),
        ({"inner": {"size": (1, 2, 3)}}, r"config\.inner\.size: expected tuple"),
        ({"many": [{"size": (1, "x")}]}, r"config\.many\[0\]\.size\[1\]: expected int, found 'x'"),
        ({"num_steps": 0}, r"config: num_steps: expected at least 1, found 0"),
    ],
)
def test_errors_name_the_key(mapping, message):
    with pytest.raises(ValueError, match=message):
        from_mapping(Part, mapping)


def test_plain_is_json_like():
    assert to_plain(Part())["by_name"] == {"DAVIS": {"size": [1, 2], "rates": [0.1, 0.1], "maximum": None}}


CONFIG_FILE = """
import ml_collections

def get_config(arg="none"):
    if arg == "bad":
        raise ValueError("no such argument")
    if arg == "bug":
        return ml_collections.ConfigDict().absent
    if arg == "nothing":
        return None
    return ml_collections.ConfigDict(
        {"rate": 0.1, "steps": 3, "name": arg, "on": False, "sizes": (1, 2), "patterns": (), "part": {"x": 1},
         "maximum": ml_collections.config_dict.placeholder(int)}
    )
"""


@pytest.fixture
def config_file(tmp_path):
    file = tmp_path / "config.py"
    file.write_text(CONFIG_FILE)
    return file


def test_config_file_with_overrides(config_file):
    assert load_config_file(str(config_file)).name == "none"
    overrides = ["rate=1", "steps=-4", "on=true", "sizes=3,4", "patterns=a/*,b", "part.x=7", "maximum=5", "steps=6"]
    config = load_config_file(f"{config_file}:a:b", [f"config.{override}" for override in overrides])
    assert config.to_dict() == {
        "rate": 1.0,
        "steps": 6,
        "name": "a:b",
        "on": True,
        "sizes": (3, 4),
        "patterns": ("a/*", "b"),
        "part": {"x": 7},
        "maximum": 5,
    }
    assert load_config_file(str(config_file), ["config.maximum=5", "config.maximum=None"]).maximum is None


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("step=3", r"^config\.step: no such key\. Did you mean steps"),
        ("part.y=3", r"^config\.part\.y: no such key\. Known keys: x"),
        ("steps.x=3", r"^config\.steps\.x: no such key"),
        ("steps", "^--config.steps: expected --config.steps=value"),
        ("steps=1.5", "^--config.steps=1.5: expected int, found 1.5 of type float"),
        ("steps=many", "expected int, found 'many' of type str"),
        ("steps=true", "expected int, found True of type bool"),
        ("on=1", "expected bool, found 1"),
        ("rate=x", "expected float"),
        ("maximum=x", "expected int"),
        ("part=3", r"^--config.part=3: expected a setting, found a section with keys x"),
    ],
)
def test_overrides_that_do_not_fit(config_file, override, message):
    with pytest.raises(ValueError, match=message):
        load_config_file(str(config_file), [f"config.{override}"])


def test_config_files_that_cannot_be_used(config_file):
    for argument, message in (
        (":bad", "config.py:bad: no such argument$"),
        (":bug", "config.py:bug: line 8: AttributeError: "),
        (":nothing", "expected a ConfigDict from get_config, found NoneType$"),
    ):
        with pytest.raises(ValueError, match=message):
            load_config_file(f"{config_file}{argument}")
    config_file.write_text("get_confg = 1")
    with pytest.raises(ValueError, match="expected a function get_config in the file, found none"):
        load_config_file(str(config_file))
    config_file.write_text("def get_config(:")
    with pytest.raises(ValueError, match="SyntaxError: "):
        load_config_file(str(config_file))
    with pytest.raises(ValueError, match="absent.py: no such file"):
        load_config_file("absent.py")


def test_description_of_every_setting():
    lines = describe(Config())
    assert "config.train.num_steps=90000" in lines and "config.model.decoder_strides=(32, 16, 8)" in lines
