"""Schedules of kernels as the TPU compiler prints them."""

import textwrap

import pytest

from kernels.aot import tpu

# A loop in a loop; the inner one's branch back is followed by two bundles that still belong to it.
SCHEDULE = textwrap.dedent(
    """
    LB: loop body

         0   :  { %s1 = smov.u32 0 }
       0x1 LB: > { %s2 = sadd.s32 1, %s1 }
       0x2   :  {}
       0x3 LB: >> { %v1 = vadd.f32 %v2, %v3 /* a comment
    over two lines */ }
       0x4   : >> { %v1 = vadd.f32 %v2, %v3 }
       0x5   : > { %4 = sbr.rel (!%p1_p2) target = $region2 }
       0x6   :  {}
       0x7   : >> { %v1 = vadd.f32 %v2, %v3 }
       0x8 PF: > { %s2 = sadd.s32 1, %s1 }
       0x9   :  { %s3 = smov.u32 0 }
    """
)


def test_loops_of_a_schedule():
    inner = tpu.Loop(bundles=5)
    assert tpu.parse_schedule(SCHEDULE) == tpu.Loop(bundles=2, loops=[tpu.Loop(bundles=3, loops=[inner])])


def test_cycles_are_bundles_times_trips():
    assert tpu.parse_schedule(SCHEDULE).cycles([(10, [(2.5, [])])]) == 2 + 10 * (3 + 2.5 * 5)


def test_other_loops_than_expected():
    with pytest.raises(ValueError, match="expected 2 loops, found 1"):
        tpu.parse_schedule(SCHEDULE).cycles([(10, []), (10, [])])
