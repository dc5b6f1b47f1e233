"""scan_v5e.hlo is what the TPU compiler made for one of 16 chips, fsdp 8 x tensor 2, of
jax.grad(lambda x, w: scan(lambda x, w: tanh(x @ w), x, w).sum()) with x bfloat16 [512, 2048], its
rows over fsdp, and w bfloat16 [7, 2048, 2048], over both axes.
"""

import pathlib

import jax
import jax.numpy as jnp
import pytest

from sleep_jax.forecast.counts import count
from sleep_jax.forecast.hlo import Module

SNIPPET = """
HloModule jit_f, is_scheduled=true, num_partitions=8

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%read (stack: bf16[6,4,8], at: s32[]) -> bf16[1,4,8] {
  %stack = bf16[6,4,8]{2,1,0} parameter(0)
  %at = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %slice = bf16[1,4,8]{2,1,0} dynamic-slice(%stack, %at, %zero, %zero)
}

ENTRY %main (x: f32[16,4], stack: bf16[6,4,8], at: s32[]) -> f32[16,4] {
  %x = f32[16,4]{1,0} parameter(0)
  %stack.1 = bf16[6,4,8]{2,1,0} parameter(1)
  %at.1 = s32[] parameter(2)
  %one = bf16[1,4,8]{2,1,0:S(1)} fusion(%stack.1, %at.1), kind=kLoop, calls=%read
  %whole = f32[64,4]{1,0} all-gather(%x), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={0}
  %sum.1 = f32[16,4]{1,0} all-reduce(%x), replica_groups=[1,8]<=[8], to_apply=%add
  %part = f32[4,4]{1,0} reduce-scatter(%x), replica_groups=mesh['a'=2,'b'=4] {'b'}, to_apply=%add
  %next = f32[16,4]{1,0} collective-permute(%x), source_target_pairs={{0,1},{1,0}}
  ROOT %again = f32[16,4]{1,0} copy(%sum.1)
}
"""


def test_count_of_collectives_by_hand():
    module = Module(SNIPPET)
    assert (module.partitions, module.entry) == (8, "main")
    counts, x = count(SNIPPET), 16 * 4 * 4
    assert counts.sent == {
        "all-gather": 3 * x,
        "all-reduce": 2 * 7 / 8 * x,
        "reduce-scatter": 3 / 4 * x,
        "collective-permute": x,
    }
    assert counts.times == dict.fromkeys(counts.sent, 1)
    assert counts.flops == 0


def test_count_reads_slices_only_and_near_memory_is_free():
    x, sliced = 16 * 4 * 4, 1 * 4 * 8 * 2
    at = 4
    collectives = (x + 4 * x) + (x + x) + (x + x / 4) + (x + x)
    assert count(SNIPPET).bytes == sliced + at + collectives + 2 * x


def test_count_of_a_tpu_scan_has_every_layer():
    text = (pathlib.Path(__file__).parent / "scan_v5e.hlo").read_text()
    counts = count(text)
    rows, d, layers, both = 512 // 8, 2048, 7, 2
    assert counts.flops == both * layers * 2 * rows * d * d / 2  # half of the columns each
    weights = d * d // 16 * 2  # bytes of a chip's share of a layer
    gathered = both * layers * 7 * weights + layers * rows * d // 2 * 2
    assert counts.sent["all-gather"] == gathered
    assert counts.sent["all-reduce"] == layers * 2 * (1 / 2) * rows * d * 2
    assert counts.times == {"all-gather": 3 * layers, "all-reduce": layers}


LOOP = """
HloModule jit_f, is_scheduled=true, num_partitions=4

%body (c: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %c = (s32[], f32[8,4]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%c), index=0
  %x = f32[8,4]{1,0} get-tuple-element(%c), index=1
  %two = s32[] constant(2)
  %j = s32[] add(%i, %two)
  %y = f32[8,4]{1,0} collective-permute(%x), channel_id=1, source_target_pairs={{0,1}}
  ROOT %t = (s32[], f32[8,4]{1,0}) tuple(%j, %y)
}

%condition (c.1: (s32[], f32[8,4])) -> pred[] {
  %c.1 = (s32[], f32[8,4]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%c.1), index=0
  %limit = s32[] constant(7)
  ROOT %less = pred[] compare(%k, %limit), direction=LT
}

%start (p: f32[2,4]) -> (f32[2,4], f32[8,4]) {
  %p = f32[2,4]{1,0} parameter(0)
  %ag = f32[8,4]{1,0} all-gather(%p), channel_id=5, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %s = (f32[2,4], f32[8,4]) custom-call(%ag), custom_call_target="AsyncCollectiveStart"
}

%done (q: f32[2,4], r: f32[8,4]) -> f32[8,4] {
  %q = f32[2,4]{1,0} parameter(0)
  %r = f32[8,4]{1,0} parameter(1)
  %again = f32[8,4]{1,0} all-gather(%q), channel_id=5, replica_groups={{0,1,2,3}}, dimensions={0}
  ROOT %d = f32[8,4] custom-call(%q, %r, %again), custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (a: f32[2,4]) -> (s32[], f32[8,4]) {
  %a = f32[2,4]{1,0} parameter(0)
  %begun = (f32[2,4]{1,0}, f32[8,4]{1,0}) fusion(%a), kind=kCustom, calls=%start
  %part = f32[2,4]{1,0} get-tuple-element(%begun), index=0
  %whole = f32[8,4]{1,0} get-tuple-element(%begun), index=1
  %ended = f32[8,4]{1,0} fusion(%part, %whole), kind=kCustom, calls=%done
  %zero = s32[] constant(0)
  %first = (s32[], f32[8,4]{1,0}) tuple(%zero, %ended)
  ROOT %last = (s32[], f32[8,4]{1,0}) while(%first), condition=%condition, body=%body
}
"""


def test_count_of_a_loop_by_twos_and_a_split_collective():
    counts, array = count(LOOP), 8 * 4 * 4
    # 0, 2, 4, 6; and the gathering counts once, though two fusions name it.
    assert counts.times == {"collective-permute": 4, "all-gather": 1}
    assert counts.sent == {"collective-permute": 4 * array, "all-gather": 3 * array / 4}
    # Permuted: read and written; the counter's addition; gathered: a share read, all written.
    assert counts.bytes == 4 * (2 * array + 3 * 4) + array / 4 + array


def test_count_multiplies_a_loop_by_its_trips():
    def f(x, w):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, w)[0]

    args = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((256, 300), (5, 300, 300)))
    counts = count(jax.jit(f).lower(*args).compile().as_text())
    assert counts.flops == pytest.approx(5 * 2 * 256 * 300 * 300)
    assert not counts.sent
