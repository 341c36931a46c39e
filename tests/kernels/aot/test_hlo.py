"""What the text of a compiled program says: a small text written by hand, and programs whose operations are known."""

import jax
import jax.numpy as jnp
import pytest

from kernels.aot import hlo
from kernels.aot.flops import count_flops

TEXT = """HloModule jit_f

%body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %all-gather.1 = f32[8,4]{1,0} all-gather(%x), replica_groups={{0,1},{2,3}}, dimensions={0}
  %fusion.1 = f32[8,4]{1,0} fusion(%x), backend_config={"estimated_cycles":"7"}
}

ENTRY %main (a: f32[8,4]) -> f32[8,4] {
  %all-reduce.1 = (f32[8,4]{1,0}, bf16[16]{0}) all-reduce(%a, %b), replica_groups=[1,4]<=[4], to_apply=%add
  %reduce-scatter.1 = f32[2,4]{1,0} reduce-scatter(%a), replica_groups=mesh['data'=2,'fsdp'=4] {'fsdp'}
  %all-gather-start.1 = (f32[2,4]{1,0}, f32[8,4]{1,0}) all-gather-start(%a), dimensions={0}
  %all-gather-done.1 = f32[8,4]{1,0} all-gather-done(%all-gather-start.1)
  %while.1 = (s32[], f32[8,4]) while(%t), condition=%cond, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  ROOT %fusion.2 = f32[8,4]{1,0} fusion(%a), backend_config={"estimated_cycles":"100"}
}
"""


def test_collectives_of_a_text():
    found = hlo.collectives(TEXT, num_devices=8)
    assert found == [
        hlo.Collective("all-reduce", 8 * 4 * 4 + 16 * 2, 4, 1),
        hlo.Collective("reduce-scatter", 8 * 4 * 4, 4, 1),  # what it starts from
        hlo.Collective("all-gather", 8 * 4 * 4, 8, 1),
        hlo.Collective("all-gather", 8 * 4 * 4, 2, 5),
    ]
    assert hlo.totals(found) == {"all-reduce": (1, 160), "all-gather": (6, 768), "reduce-scatter": (1, 128)}
    # A ring: an all-reduce sends 2 (n - 1) / n of its bytes, the others (n - 1) / n.
    assert [each.sent_bytes for each in found] == [160 * 1.5, 128 * 0.75, 128 * 7 / 8, 5 * 128 / 2]
    assert hlo.estimated_cycles(TEXT) == 100 + 5 * 7


def test_operations_of_a_gradient():
    def loss(w, x):
        x, _ = jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=5)
        return x.sum()

    shapes = jax.ShapeDtypeStruct((4, 4), jnp.float32), jax.ShapeDtypeStruct((3, 4), jnp.float32)
    product = 2 * 3 * 4 * 4
    assert count_flops(jax.jit(loss).trace(*shapes).jaxpr) == 5 * product
    assert count_flops(jax.jit(jax.grad(loss)).trace(*shapes).jaxpr) == 5 * 3 * product  # both factors have a gradient


@pytest.mark.parametrize("groups", [1, 2])
def test_operations_of_a_convolution(groups):
    def convolve(x, kernel):
        dimensions = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=dimensions, feature_group_count=groups
        )

    x = jax.ShapeDtypeStruct((2, 8, 6, 4), jnp.float32)
    kernel = jax.ShapeDtypeStruct((3, 3, 4 // groups, 10), jnp.float32)
    outputs = 2 * 4 * 3 * 10
    assert count_flops(jax.jit(convolve).trace(x, kernel).jaxpr) == 2 * outputs * 3 * 3 * 4 // groups


def test_kernels_of_a_loop_count_as_often_as_they_run():
    text = """
%body (p: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p = (s32[], /*index=5*/f32[4]{0:T(128)}) parameter(0)
  %gte = f32[4]{0} get-tuple-element(%p), index=1
  %one = f32[4]{0} fusion(%gte), kind=kLoop, calls=%f
  ROOT %two = (s32[], f32[4]{0}) custom-call(%one), custom_call_target="x"
}

ENTRY %main (a: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %first = ((f32[4]{0}), f32[4]{0}) all-reduce-start(%a), to_apply=%add
  %done = f32[4]{0} all-reduce-done(%first)
  ROOT %w = (s32[], f32[4]{0}) while(%t), condition=%c, body=%body, backend_config={"known_trip_count":{"n":"7"}}
}
"""
    assert hlo.kernels_started(text) == 1 + 7 * 2
    with pytest.raises(ValueError, match="a loop has no known number of passes: ROOT %w"):
        hlo.kernels_started(text.replace("known_trip_count", "unknown"))
