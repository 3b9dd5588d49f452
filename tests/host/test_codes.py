"""The host's torch codes and the numpy reference are the same format, whose error is what it must be."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_s2a.codec import reference
from edge_s2a.host.scheme.fit import fit_levels, lloyd_max
from edge_s2a.host.trace import codes
from edge_s2a.host.trace.operators import gelu

BITS = (2, 4, 8)
PACKED_BITS = (1, 2, 4, 8)
shapes = st.tuples(st.integers(1, 6), st.integers(1, 130))


def random_rows(shape, seed, scale=1.0):
    return (np.random.default_rng(seed).standard_normal(shape) * scale).astype(np.float32)


def test_nibble_order_is_halves_low_first():
    packed = reference.pack(np.array([[1, 2, 3, 4]], np.uint8), 4)
    assert packed.tolist() == [[1 | 3 << 4, 2 | 4 << 4]]


def test_crumb_order_is_quarters_low_first():
    packed = reference.pack(np.array([[0, 1, 2, 3]], np.uint8), 2)
    assert packed.tolist() == [[0 | 1 << 2 | 2 << 4 | 3 << 6]]


@pytest.mark.parametrize("bits", PACKED_BITS)
@given(shape=shapes, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_packing_is_lossless_and_as_small_as_promised(bits, shape, seed):
    values = np.random.default_rng(seed).integers(0, 2**bits, shape, np.uint8)
    packed = reference.pack(values, bits)
    whole_bytes = shape[1] % (8 // bits) == 0
    assert packed.nbytes == values.size * bits // 8 if whole_bytes else values.size
    np.testing.assert_array_equal(reference.unpack(packed, bits, shape[1]), values)
    np.testing.assert_array_equal(codes.pack(torch.from_numpy(values), bits).numpy(), packed)
    np.testing.assert_array_equal(codes.unpack(torch.from_numpy(packed), bits, shape[1]).numpy(), values)


@pytest.mark.parametrize("bits", BITS)
@given(shape=shapes, seed=st.integers(0, 2**32 - 1), scale=st.sampled_from([1e-3, 1.0, 50.0]))
@settings(max_examples=60, deadline=None)
def test_group_codes_of_host_equal_the_reference(bits, shape, seed, scale):
    x = random_rows(shape, seed, scale)
    packed, group_scale, minimum = reference.encode_groups(x, bits)
    saved = codes.encode_groups(torch.from_numpy(x), bits)
    np.testing.assert_array_equal(saved.scale.numpy(), group_scale)
    np.testing.assert_array_equal(saved.minimum.numpy(), minimum)
    # A quotient that lies on a rounding boundary may fall either way: at most one code apart, and rarely.
    size = reference.group_size(shape[1])
    difference = np.abs(
        reference.unpack(saved.packed.numpy(), bits, size).astype(int) - reference.unpack(packed, bits, size)
    )
    assert difference.max() <= 1
    assert difference.mean() <= 0.01
    decoded = codes.decode_groups(saved, bits, shape[1]).numpy()
    expected = reference.decode_groups(saved.packed.numpy(), group_scale, minimum, bits, shape[1])
    np.testing.assert_allclose(decoded, expected, rtol=1e-6, atol=1e-6 * scale)


@pytest.mark.parametrize("bits", BITS)
@given(shape=shapes, seed=st.integers(0, 2**32 - 1), offset=st.sampled_from([0.0, 3.0]))
@settings(max_examples=60, deadline=None)
def test_group_codes_err_by_half_a_step_and_the_rounding_of_float16(bits, shape, seed, offset):
    x = random_rows(shape, seed) + np.float32(offset)
    packed, scale, minimum = reference.encode_groups(x, bits)
    decoded = reference.decode_groups(packed, scale, minimum, bits, shape[1])
    size = reference.group_size(shape[1])
    step = np.repeat(scale[..., 0].astype(np.float32), size, axis=1)
    # float16 keeps 11 bits: minimum and range are off by at most 2^-11 of themselves.
    rounding = (np.abs(x).max() * 2 + np.ptp(x)) * 2.0**-11
    assert (np.abs(decoded - x) <= step / 2 + rounding + 1e-6).all()


def test_a_constant_group_is_exact():
    x = np.full((2, 32), 0.5, np.float32)
    np.testing.assert_array_equal(reference.decode_groups(*reference.encode_groups(x, 4), 4, 32), x)


@pytest.mark.parametrize("value", [1e5, -1e5, 1e38])
def test_values_beyond_float16_stay_finite(value):
    x = np.linspace(0, value, 32, dtype=np.float32)[None]
    assert np.isfinite(reference.decode_groups(*reference.encode_groups(x, 4), 4, 32)).all()
    assert codes.decode_groups(codes.encode_groups(torch.from_numpy(x), 4), 4, 32).isfinite().all()


def test_group_size_divides_and_is_at_most_32():
    for n in range(1, 400):
        size = reference.group_size(n)
        assert n % size == 0
        assert size <= 32
    assert reference.group_size(768) == 32
    assert reference.group_size(48) == 24


RANGES = [(-0.129, 1.129), (-0.1, 1.1), (0.0, 0.25), (0.0, 1.0), (-0.5, 1.5)]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("derivative_range", RANGES)
def test_uniform_levels_cover_the_derivatives(bits, derivative_range):
    """Half a step of error, a little more at the ends, where the range may overshoot the last level."""
    levels = reference.uniform_levels(*derivative_range, bits)
    x = np.linspace(*derivative_range, 1002, dtype=np.float32)[None]
    packed = reference.encode_levels(x, bits, levels)
    decoded = reference.decode_levels(packed, bits, x.shape[1], levels)
    assert np.abs(decoded - x).max() <= levels.decode_step * (reference.OVERSHOOT + 0.01)
    saved = codes.encode_levels(torch.from_numpy(x), bits, levels)
    # A value on the edge between two levels may fall either way.
    np.testing.assert_allclose(
        codes.decode_levels(saved, bits, x.shape[1], levels).numpy(), decoded, atol=levels.decode_step + 1e-6
    )


@pytest.mark.parametrize("derivative_range", RANGES)
def test_limits_of_the_derivative_are_exact_at_4_bits(derivative_range):
    levels = reference.uniform_levels(*derivative_range, 4)
    x = np.array([[0.0, min(1.0, derivative_range[1])]], np.float32)
    decoded = reference.decode_levels(reference.encode_levels(x, 4, levels), 4, 2, levels)
    np.testing.assert_allclose(decoded, x, atol=1e-6)


@pytest.mark.parametrize(("bits", "share"), [(2, 1.0), (4, 0.95)])
def test_fitted_levels_err_less_than_uniform_ones(bits, share):
    """On the derivatives of GELU at inputs as a transformer has them: mostly negative. (On DeiT-Tiny's own, fitted to
    each layer, the gradient errs by three quarters: docs/BENCHMARKS.md.)"""
    x = torch.randn(20000, generator=torch.Generator().manual_seed(0)) - 1
    values = gelu.derivative(x, "none")[None]
    uniform, fitted = reference.uniform_levels(-0.129, 1.129, bits), fit_levels(values[0], (-0.129, 1.129), bits)

    def error(levels):
        decoded = codes.decode_levels(codes.encode_levels(values, bits, levels), bits, values.shape[1], levels)
        return (decoded - values).norm().item()

    assert error(fitted) < share * error(uniform)
    packed = reference.encode_levels(values.numpy(), bits, fitted)
    expected = reference.decode_levels(packed, bits, values.shape[1], fitted)
    measured = codes.decode_levels(torch.from_numpy(packed), bits, values.shape[1], fitted).numpy()
    np.testing.assert_allclose(measured, expected, rtol=1e-5, atol=1e-6)  # in another order


def test_fitted_levels_come_near_lloyd_max():
    """The parabolas lose at most two fifths to the best 16 levels."""
    values = gelu.derivative(torch.randn(20000, generator=torch.Generator().manual_seed(0)) - 1, "none")
    best = lloyd_max(values.double(), torch.linspace(-0.129, 1.129, 16).double())
    nearest = best[torch.bucketize(values.double(), (best[1:] + best[:-1]) / 2)]
    levels = fit_levels(values, (-0.129, 1.129), 4)
    decoded = codes.decode_levels(codes.encode_levels(values[None], 4, levels), 4, len(values), levels)[0]
    assert (decoded - values).norm() <= 1.4 * (nearest - values).norm()
