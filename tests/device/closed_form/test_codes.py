"""Codes of features: what a row decodes to, and which rows are refused."""

import numpy as np
import pytest

from edge_s2a.codec.features import FORMATS, Layout, decode, encode, is_valid
from tests.device.closed_form.images import TAPS, layout_of


def values_of(count, layout, scale=1.0):
    rng = np.random.default_rng(0)
    return (scale * rng.standard_normal((count, layout.width)) + 3 * scale).astype(np.float32)


def groups_of(layout):
    """A slice of columns for each group."""
    ends = np.cumsum(list(layout.taps.values()))
    return [slice(end - width, end) for end, width in zip(ends, layout.taps.values(), strict=True)]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_float16_rows_are_the_features_rounded(scale):
    layout = layout_of()
    features = values_of(7, layout, scale)
    rows = encode(features, layout)
    assert rows.shape == (7, layout.row_bytes)
    assert rows.dtype == np.uint8
    np.testing.assert_array_equal(decode(rows, layout), features.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e3])
def test_int8_rows_err_by_half_a_step_of_their_image_and_group(scale):
    layout = layout_of("int8")
    features = values_of(7, layout, scale)
    rows = encode(features, layout)
    assert rows.shape == (7, layout.row_bytes) == (7, 8 * len(TAPS) + layout.width)
    decoded = decode(rows, layout)
    for columns in groups_of(layout):
        group = features[:, columns]
        # Half a step, and the rounding of minimum and step to float32.
        bound = np.ptp(group, 1) / 255 / 2 + 1e-6 * np.abs(group).max(1)
        assert (np.abs(decoded[:, columns] - group).max(1) <= bound).all()


@pytest.mark.parametrize("format", FORMATS)
def test_a_row_depends_on_its_image_alone(format):
    layout = layout_of(format)
    features = values_of(5, layout)
    together = encode(features, layout)
    for number in range(5):
        np.testing.assert_array_equal(encode(features[number : number + 1], layout)[0], together[number])


@pytest.mark.parametrize("format", FORMATS)
def test_the_last_groups_decode_alone(format):
    layout = layout_of(format)
    rows = encode(values_of(5, layout), layout)
    whole = decode(rows, layout)
    for groups in range(1, len(TAPS) + 1):
        np.testing.assert_array_equal(decode(rows, layout, groups), whole[:, layout.first_column(groups) :])
    assert [layout.first_column(groups) for groups in (3, 2, 1)] == [0, 3, 7]


def test_a_constant_group_decodes_to_its_value():
    layout = Layout("int8", {"a": 4, "b": 2})
    features = np.array([[0.1, 0.1, 0.1, 0.1, -7, -7]], np.float32)
    np.testing.assert_array_equal(decode(encode(features, layout), layout), features)


@pytest.mark.parametrize("format", FORMATS)
def test_values_beyond_float16_become_its_largest(format):
    layout = Layout(format, {"a": 3})
    decoded = decode(encode(np.array([[3e38, -3e38, 0]], np.float32), layout), layout)
    np.testing.assert_allclose(decoded[0, :2], [65504, -65504], rtol=1e-6)
    assert is_valid(encode(np.array([[3e38, -3e38, 0]], np.float32), layout), layout)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_refused(format, value):
    features = values_of(2, layout_of(format))
    features[1, 4] = value
    with pytest.raises(ValueError, match="not finite"):
        encode(features, layout_of(format))


def test_rows_that_do_not_decode_to_finite_features_are_found():
    half, byte = layout_of(), layout_of("int8")
    rows = encode(values_of(3, half), half)
    assert is_valid(rows, half)
    for bits in (0x7C00, 0xFC00, 0x7E01):
        wrong = rows.copy()
        wrong.view("<u2")[1, 5] = bits
        assert not is_valid(wrong, half)
    rows = encode(values_of(3, byte), byte)
    assert is_valid(rows, byte)
    for place, value in ((0, np.nan), (0, 1e6), (0, -np.inf), (1, np.nan), (1, -1), (1, 600), (5, np.inf)):
        wrong = rows.copy()
        wrong[1, 4 * place : 4 * place + 4] = np.array([value], "<f4").view(np.uint8)
        assert not is_valid(wrong, byte)
