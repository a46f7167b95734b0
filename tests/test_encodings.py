"""Every encoding gives back what it was given, costs what it says, and lays out the bytes that files already hold."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from idp_deploy.encodings import BASE, ENCODINGS, ESCAPE, Encoded, bound_bytes, encode, size_bytes, smallest
from idp_deploy.errors import ConversionError, UsageError

KINDS = list(ENCODINGS)
SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7)
DTYPES = st.sampled_from([np.float32, np.float16, np.float64, np.int8, np.uint8, np.int32])


def decode(encoded: Encoded) -> np.ndarray:
    """The tensor that was encoded, by the table in the docstring of `encodings`."""
    parts, out = encoded.parts, np.full(int(np.prod(encoded.shape, dtype=np.int64)), encoded.fill, encoded.dtype)
    if encoded.kind == "dense":
        out[:] = parts["values"]
    elif encoded.kind == "bitmask":
        out[np.unpackbits(parts["bits"], count=out.size, bitorder="little").astype(bool)] = parts["values"]
    elif encoded.kind == "gaps8":
        out[np.cumsum(parts["gaps"], dtype=np.int64)] = parts["values"]
    elif encoded.kind == "gaps5":
        triples = parts["triples"].astype(np.int64)
        distances = np.concatenate([triples % BASE, triples // BASE % BASE, triples // BASE**2])
        out[np.cumsum(distances)[: parts["values"].size]] = parts["values"]
    else:
        assert encoded.kind == "gaps4"
        codes = np.stack([parts["codes"] & 15, parts["codes"] >> 4], axis=1).reshape(-1).astype(np.int64)
        stores = codes != ESCAPE
        out[(np.cumsum(codes + stores) - 1)[stores]] = parts["values"]
    return out.reshape(encoded.shape)


def bits(array: np.ndarray) -> bytes:
    return np.ascontiguousarray(array).tobytes()


@st.composite
def masked(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Any bytes as values (NaN payloads, −0.0, infinities among them), zero where the mask is False."""
    shape, dtype = draw(SHAPES), np.dtype(draw(DTYPES))
    count = int(np.prod(shape, dtype=np.int64))
    raw = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    mask = draw(hnp.arrays(bool, shape))
    values = np.frombuffer(raw, dtype).reshape(shape).copy()
    values[~mask] = 0
    return values, mask


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120)
@given(case=masked())
def test_round_trip_is_bit_exact_and_costs_what_it_says(kind, case):
    values, mask = case
    encoded = encode(kind, values, mask)
    decoded = decode(encoded)
    assert (decoded.shape, decoded.dtype) == (values.shape, values.dtype)
    assert bits(decoded) == bits(values)
    assert encoded.size_bytes == size_bytes(kind, mask, values.dtype.itemsize * 8)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25)
@given(
    positions=st.lists(st.integers(0, 5000), max_size=12, unique=True),
    size=st.integers(5001, 6000),
    fill=st.sampled_from([0, 131]),
)
def test_long_gaps(kind, positions, size, fill):
    values = np.full(size, fill, np.uint8)
    values[positions] = 7
    encoded = encode(kind, values, fill=fill)
    assert bits(decode(encoded)) == bits(values)
    assert encoded.size_bytes == size_bytes(kind, values != fill, 8)


@pytest.mark.wide
@pytest.mark.parametrize("gap", [0, 1, 14, 15, 16, 29, 30, 31, 254, 255, 256, 509, 510, 511, 512, 765])
@pytest.mark.parametrize("kind", KINDS)
def test_gaps_at_the_edges_of_a_code(kind, gap):
    for lead in (0, gap):
        values = np.zeros(lead + gap + 2, np.float32)
        values[lead], values[-1] = 3.0, -4.0
        assert decode(encode(kind, values)).tolist() == values.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "values",
    [
        np.zeros((0, 3), np.float32),
        np.zeros((), np.float32),
        np.float32(2.5).reshape(()),
        np.zeros((5, 7), np.float32),
        np.ones((5, 7), np.float32),
    ],
    ids=["empty", "scalar-zero", "scalar", "all-zero", "no-zero"],
)
def test_degenerate_tensors(kind, values):
    assert bits(decode(encode(kind, values))) == bits(values)


@pytest.mark.parametrize("kind", KINDS)
def test_signed_zero_and_nan(kind):
    values = np.array([[np.nan, -0.0, 0.0, np.inf]], np.float32)
    default = decode(encode(kind, values))
    assert np.isnan(default[0, 0])
    assert not np.signbit(default[0, 1])
    kept = decode(encode(kind, values, np.array([[True, True, False, True]])))
    assert bits(kept) == bits(values)


@pytest.mark.parametrize("kind", KINDS)
def test_stored_zero_is_not_lost(kind):
    values, mask = np.array([0.0, 0.0, 1.0], np.float32), np.array([True, False, True])
    encoded = encode(kind, values, mask)
    assert encoded.parts["values"].size == (3 if kind in ("dense", "gaps5") else 2)  # gaps5 makes it threes
    assert decode(encoded).tolist() == [0.0, 0.0, 1.0]


GOLDEN = {
    "dense": {"values": "0000070000000500"},
    "bitmask": {"bits": "44", "values": "0705"},
    "gaps8": {"gaps": "0204", "values": "0705"},
    "gaps5": {"triples": "2919", "values": "000705"},  # 2 and 4 as 1, 1 and 4: threes
    "gaps4": {"codes": "32", "values": "0705"},
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_golden_bytes(kind):
    row = np.array([0, 0, 7, 0, 0, 0, 5, 0], np.int8)
    assert {name: bits(part).hex() for name, part in encode(kind, row).parts.items()} == GOLDEN[kind]


def test_golden_bytes_of_fillers_and_escapes():
    values = np.zeros(600, np.int8)
    values[[300, 331, 599]] = 1, 2, 3
    gaps8 = encode("gaps8", values).parts
    assert gaps8["gaps"].tolist() == [255, 45, 31, 255, 13]
    assert gaps8["values"].tolist() == [0, 1, 2, 0, 3]
    # 300 = 7 · 39 + 27, 268 = 6 · 39 + 34: sixteen distances, two of them cut in two, in three runs of six
    gaps5 = encode("gaps5", values).parts
    assert gaps5["values"].tolist() == [0] * 9 + [1, 2] + [0] * 6 + [3]
    assert gaps5["triples"].tolist() == [
        a + 40 * b + 1600 * c
        for a, b, c in zip([38, 1, 38, 1, 39, 39], [39, 39, 39, 27, 31, 39], [39] * 5 + [34], strict=True)
    ]
    # 300 zeros: 20 escapes then 0; 30 zeros: 2 escapes then 0; 267 zeros: 17 escapes then 12
    codes = [15] * 20 + [0] + [15] * 2 + [0] + [15] * 17 + [12]
    packed = encode("gaps4", values).parts["codes"]
    assert np.stack([packed & 15, packed >> 4], 1).reshape(-1).tolist() == codes


@settings(max_examples=60)
@given(mask=hnp.arrays(bool, SHAPES))
def test_distances_of_gaps5_come_in_threes_where_two_gaps_have_room_for_a_filler(mask):
    values = mask.astype(np.int8)
    parts = encode("gaps5", values).parts
    triples = parts["triples"].astype(np.int64)
    distances = np.concatenate([triples % BASE, triples // BASE % BASE, triples // BASE**2])[: parts["values"].size]
    wide = np.count_nonzero(np.diff(np.flatnonzero(mask), prepend=0) > 1)
    assert parts["values"].size % 3 == 0 or wide < 2
    assert np.all(np.diff(np.cumsum(distances)) > 0)  # no place is written twice


@settings(max_examples=60)
@given(mask=hnp.arrays(bool, SHAPES), bits_=st.sampled_from([4, 8, 16, 32]))
def test_smallest_never_costs_more_than_dense(mask, bits_):
    kinds = ("bitmask", "gaps8", "gaps5", "gaps4")
    chosen = smallest(mask, bits_, kinds)
    assert chosen in ("dense", *kinds)
    assert size_bytes(chosen, mask, bits_) <= size_bytes("dense", mask, bits_)
    assert size_bytes(chosen, mask, bits_) <= min(size_bytes(kind, mask, bits_) for kind in kinds)


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9, 0.95])
def test_gaps4_stays_near_the_bound_of_positions(share):
    rng = np.random.default_rng(7)
    mask = rng.random((512, 512)) >= share
    positions = size_bytes("gaps4", mask, 0)
    bound = bound_bytes(mask.size, int(mask.sum()), 0)
    assert positions >= bound
    if share == 0.9:
        assert positions <= 1.08 * bound


def test_bound_of_nothing_and_everything():
    assert bound_bytes(0, 0, 32) == 0
    assert bound_bytes(100, 0, 32) == 0
    assert bound_bytes(100, 100, 32) == 400


@pytest.mark.parametrize("kind", ["", "zip", "gaps4:", "dense:x"])
def test_unknown_kind(kind):
    with pytest.raises(UsageError, match="unknown encoding"):
        encode(kind, np.ones((4, 4)))


def test_a_mask_may_not_drop_values():
    with pytest.raises(ConversionError, match="drops 1 entries"):
        encode("gaps8", np.array([1.0, 2.0]), np.array([True, False]))
    with pytest.raises(ConversionError, match="shape"):
        encode("gaps8", np.array([1.0, 2.0]), np.array([True]))
