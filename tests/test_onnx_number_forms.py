"""Which numbers an ONNX file holds of a weight: integers along either axis, a palette, float16."""

from __future__ import annotations

import numpy as np
import pytest

from idp_deploy.errors import ConversionError
from idp_deploy.formats.onnx.write.number_forms import smallest_form
from idp_deploy.formats.onnx.write.storing import Weight
from idp_deploy.quantizers import dequantize_int8, palettize, quantize_int8


def weight(values: np.ndarray) -> Weight:
    return Weight("w", values.astype(np.float32), values != 0)


RNG = np.random.default_rng(0)
SPARSE = np.where(RNG.random((64, 64)) < 0.2, RNG.normal(size=(64, 64)), 0).astype(np.float32)


@pytest.mark.parametrize("shape", [(64, 64), (64, 16, 2, 2)])
@pytest.mark.parametrize("axis", [0, 1])
def test_integers_are_found_on_either_axis(shape, axis):
    values = dequantize_int8(*quantize_int8(SPARSE.reshape(shape), axis), axis)
    form, _ = smallest_form(weight(values), "int8-weights", "auto")
    assert form.values.dtype == np.int8
    np.testing.assert_allclose(form.values * form.scale, values, rtol=1e-5)


@pytest.mark.parametrize("scheme", ["int8-weights", "lut4", None])
def test_a_weight_that_was_not_quantized_stays_as_it_is(scheme):
    form, fits = smallest_form(weight(SPARSE), scheme, "auto")
    assert form.values.dtype == np.float32
    assert fits is (scheme is None)


def test_a_palette_is_found():
    indices, lut = palettize(SPARSE)
    form, _ = smallest_form(weight(lut[indices]), "lut4", "auto")
    np.testing.assert_array_equal(form.palette[form.values], lut[indices])


def test_float16_keeps_tiny_values_and_refuses_huge_ones():
    tiny = np.where(SPARSE != 0, np.copysign(1e-12, SPARSE), 0)
    form, _ = smallest_form(weight(tiny), "fp16", "auto")
    assert form.values.dtype == np.float16
    np.testing.assert_array_equal(form.values != 0, tiny != 0)
    with pytest.raises(ConversionError, match="beyond float16"):
        smallest_form(weight(SPARSE * 1e6), "fp16", "auto")
