"""The check that a GPU runs first: it tells right from wrong and goes on after what fails."""

import json

import jax.numpy as jnp

from benchmarks import correct, summary
from benchmarks.common import write_json
from tests.kernels.ms_deform_attn import cases


def first_row(monkeypatch, operator) -> dict:
    """That of the forward pass in float32, with another operator in place of ours."""
    monkeypatch.setattr(correct, "ms_deform_attn", operator)
    return next(correct.rows(["xla"], ["odd"]))


def test_right_wrong_and_failed(monkeypatch):
    case = correct.make_case("odd", "float32")
    oracle = jnp.asarray(cases.oracle_forward(case, cases.make_inputs(case)))

    right = first_row(monkeypatch, lambda *args, **kwargs: oracle)
    assert right["is_right"] and right["distances"]["out"] < 1e-6
    assert (right["backend"], right["dtype"], right["pass"]) == ("xla", "float32", "forward")

    wrong = first_row(monkeypatch, lambda *args, **kwargs: oracle * 1.0001)
    assert not wrong["is_right"] and 0.9e-4 < wrong["distances"]["out"] < 1.1e-4

    assert not first_row(monkeypatch, lambda *args, **kwargs: oracle.at[0, 0, 0].set(jnp.nan))["is_right"]

    def crash(*args, **kwargs):
        raise RuntimeError("an illegal memory access")

    failed = first_row(monkeypatch, crash)
    assert not failed["is_right"] and failed["error"] == "RuntimeError: an illegal memory access"


def test_summary_of_what_is_there(tmp_path, capsys, monkeypatch):
    """Also of a run that was stopped half way; nothing but what was measured."""
    row = {"backend": "cuda", "size": "odd", "dtype": "float32", "pass": "backward"}
    write_json(tmp_path / "correct_cuda.json", {"rows": [row | {"is_right": True}, row | {"is_right": False}]})
    common = {"shape": "T3", "compared_with": "bfloat16", "direction": "forward", "cache": "warm"}
    contenders = [("cuda", 40e-6), ("triton", 80e-6), ("original CUDA op", 200e-6)]
    rows = [common | {"contender": name, "median_s": time} for name, time in contenders]
    write_json(tmp_path / "kernels.json", {"rows": [*rows, common | {"contender": "xla", "error": "no"}]})
    monkeypatch.setattr("sys.argv", ["summary", str(tmp_path)])
    summary.main()
    correctness, kernels = capsys.readouterr().out.splitlines()
    assert correctness.endswith("2 passes, WRONG in odd float32 backward")
    assert kernels.endswith("cuda 40 us, triton 80 us, original CUDA op 5.00x, xla FAILED")


def test_json_is_replaced_as_a_whole(tmp_path):
    for number in (1, 2):
        write_json(tmp_path / "a" / "rows.json", {"rows": [number]})
    assert json.loads((tmp_path / "a" / "rows.json").read_text()) == {"rows": [2]}
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["rows.json"]
