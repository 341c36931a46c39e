"""ConfigDict sections become dataclasses strictly, and go through JSON unchanged."""

import dataclasses

import pytest

from tarvis_jax.config import check_overrides, from_mapping, load_json, save_json, to_config_dict, to_plain
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


def test_overrides_of_keys_that_do_not_exist():
    config = to_config_dict(Config())
    check_overrides(config, ["main.py", "--config=configs/base.py", "--config.train.num_steps=3", "--workdir=x"])
    with pytest.raises(ValueError, match=r"config\.train\.num_step: no such key\. Did you mean num_steps"):
        check_overrides(config, ["--config.train.num_step=3"])
    with pytest.raises(ValueError, match=r"config\.train\.num_steps\.x: no such key"):
        check_overrides(config, ["--config.train.num_steps.x=3"])
