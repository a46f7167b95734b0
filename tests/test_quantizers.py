"""Integers and palettes: zeros, idempotence, dead rows, noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from idp_deploy.errors import ConversionError, UsageError
from idp_deploy.quantizers import (
    dequantize_int8,
    dequantize_palette,
    palettize,
    quantize_int8,
    restrict,
    signal_to_noise_db,
)

ordinary = st.one_of(
    st.just(0.0),
    st.floats(2.0**-20, 2.0**20, width=32),
    st.floats(-(2.0**20), -(2.0**-20), width=32),
)
weights = hnp.arrays(np.float32, hnp.array_shapes(min_dims=1, max_dims=4, max_side=7), elements=ordinary)
factors = st.sampled_from([-7.3, -1.0, -0.031, 0.17, 1.0, 3.1415, 900.0])


@given(weights, st.data())
def test_int8_keeps_zeros_and_stays_within_half_a_step(w: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(-w.ndim, w.ndim - 1))
    q, scale = quantize_int8(w, axis)
    assert q.dtype == np.int8
    assert scale.dtype == np.float32
    assert scale.shape == (w.shape[axis],)
    assert (q[w == 0] == 0).all()
    assert q.min(initial=0) >= -127
    step = np.expand_dims(scale, tuple(a for a in range(w.ndim) if a != axis % w.ndim))
    assert (np.abs(dequantize_int8(q, scale, axis) - w.astype(np.float64)) <= step * 0.50001).all()


@given(weights, st.data())
def test_int8_again_gives_the_same_integers_after_any_channel_factor(w: np.ndarray, data: st.DataObject) -> None:
    axis = data.draw(st.integers(0, w.ndim - 1))
    q, scale = quantize_int8(w, axis)
    extents = [1] * w.ndim
    extents[axis] = -1
    factor = np.array([data.draw(factors) for _ in range(w.shape[axis])], np.float32).reshape(extents)
    again, _ = quantize_int8(dequantize_int8(q, scale, axis) * factor, axis)
    assert (again == q * np.sign(factor)).all()


def test_a_dead_row_has_scale_one() -> None:
    q, scale = quantize_int8(np.array([[0.0, 0.0], [2.0, -4.0]], np.float32))
    assert scale.tolist() == [1.0, np.float32(4.0 / 127)]
    assert q.tolist() == [[0, 0], [64, -127]]


def test_subnormal_weights_do_not_make_a_zero_scale() -> None:
    q, scale = quantize_int8(np.array([[1e-41, -1e-44]], np.float32))
    assert scale[0] > 0
    assert np.isfinite(dequantize_int8(q, scale)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    w = np.array([[1.0, bad]], np.float32)
    with pytest.raises(ConversionError, match="1 of 2 values"):
        quantize_int8(w)
    with pytest.raises(ConversionError, match="1 of 2 values"):
        palettize(w)


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (1,)])
def test_empty_weights_are_fine(shape: tuple[int, ...]) -> None:
    q, scale = quantize_int8(np.zeros(shape, np.float32))
    assert q.shape == shape
    assert (scale == 1.0).all()
    indices, lut = palettize(np.zeros(shape, np.float32))
    assert indices.shape == shape
    assert lut.tolist() == [0.0] * 16


@given(weights, st.integers(1, 8))
def test_a_palette_keeps_exactly_the_zeros_and_palettizes_to_itself(w: np.ndarray, bits: int) -> None:
    indices, lut = palettize(w, bits=bits)
    assert lut.shape == (1 << bits,)
    assert lut[0] == 0.0
    assert ((indices == 0) == (w == 0)).all()
    values = dequantize_palette(indices, lut)
    assert ((values == 0) == (w == 0)).all()
    indices_again, lut_again = palettize(values, bits=bits)
    assert (dequantize_palette(indices_again, lut_again) == values).all()


@given(hnp.arrays(np.float32, st.integers(1, 200), elements=ordinary))
def test_a_palette_is_never_worse_than_the_nearest_entry(w: np.ndarray) -> None:
    indices, lut = palettize(w)
    kept = w != 0
    best = np.abs(w[kept, None].astype(np.float64) - lut[None, 1:]).min(axis=1, initial=np.inf)
    assert np.abs(w[kept] - dequantize_palette(indices, lut)[kept].astype(np.float64)) == pytest.approx(best)


def test_the_mask_decides_what_is_stored() -> None:
    w = np.array([1.0, 2.0, 3.0, 0.0], np.float32)
    indices, lut = palettize(w, np.array([True, False, True, True]))
    assert dequantize_palette(indices, lut).tolist() == [1.0, 0.0, 3.0, 0.0]


def test_a_centre_between_both_signs_does_not_become_a_zero() -> None:
    w = np.concatenate([np.full(100, -8.0), np.full(100, 8.0), [-1.0, 1.0]]).astype(np.float32)
    indices, lut = palettize(w, bits=2)
    assert (dequantize_palette(indices, lut) != 0).all()


def test_gaussian_weights_come_close_to_the_best_possible_palette() -> None:
    w = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    decibel = signal_to_noise_db(w, dequantize_palette(*palettize(w)))
    assert 19.5 < decibel < 20.3  # Lloyd–Max with 15 levels: 19.68 dB in the limit; 16 levels: 20.22 dB
    q, scale = quantize_int8(w.reshape(200, 1000))
    assert signal_to_noise_db(w.reshape(200, 1000), dequantize_int8(q, scale)) > 38


def test_the_number_of_bits_is_checked() -> None:
    with pytest.raises(UsageError, match="9 bits"):
        palettize(np.ones(3, np.float32), bits=9)


def test_signal_to_noise_at_its_ends() -> None:
    one, zero = np.ones(4, np.float32), np.zeros(4, np.float32)
    assert signal_to_noise_db(one, one) == math.inf
    assert signal_to_noise_db(zero, zero) == math.inf
    assert signal_to_noise_db(zero, one) == -math.inf
    assert signal_to_noise_db(one, zero) == 0.0
    assert signal_to_noise_db(one, one * np.inf) == -math.inf


@given(weights.map(lambda w: w.reshape(len(w), -1)), st.integers(4, 255))
def test_restricted_integers_are_few_keep_zeros_and_scales_and_stay(w: np.ndarray, values: int) -> None:
    q, scale = quantize_int8(w)
    few = restrict(q, values)
    assert few.dtype == np.int8
    assert len(np.unique(few)) <= max(values, len(np.unique(q)) if len(np.unique(q)) <= values else 0)
    np.testing.assert_array_equal(few == 0, q == 0)
    np.testing.assert_array_equal(restrict(few, values), few)
    again, scale_again = quantize_int8(dequantize_int8(few, scale))
    np.testing.assert_array_equal(again, few)
    np.testing.assert_allclose(scale_again, scale, rtol=1e-6)


def test_of_random_weights_sixteen_values_keep_twenty_decibels() -> None:
    w = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
    q, scale = quantize_int8(w)
    noise = {values: signal_to_noise_db(w, dequantize_int8(restrict(q, values), scale)) for values in (4, 8, 16, 32)}
    assert 19 < noise[16] < 24
    assert sorted(noise.values()) == list(noise.values())


@pytest.mark.parametrize("values", [-1, 0, 3, 256])
def test_a_number_of_values_that_cannot_be_is_refused(values: int) -> None:
    with pytest.raises(UsageError, match="choose between 4 and 255"):
        restrict(np.zeros(3, np.int8), values)
