"""Levels fitted to the values that a model really takes, decoded by arithmetic instead of a table."""

import torch
from torch import Tensor

from edge_s2a.codec.reference import Levels, Parabola
from edge_s2a.host.trace.codes import apply_parabola

LLOYD_ITERATIONS = 40
# Points over the whole range that keep the parabolas monotone where the data has no values, and their weight against
# the data's.
GRID = 200
GRID_WEIGHT = 0.02
LEAST_CURVATURE = 1e-6  # a flatter parabola is replaced by one of this curvature


def fit_levels(values: Tensor, derivative_range: tuple[float, float], bits: int) -> Levels:
    """The levels of least square error for `values` (n,) that two parabolas through zero can express.

    Lloyd-Max levels (arXiv 2202.00441 fits them to a given distribution; here it is the measured one), then, for each
    code that zero may have, a parabola that maps a value to its place among them, and one that maps a code back to the
    mean of its values: a table look-up is ten times slower on a CPU than a sum and a product, and cubics take three
    times as many operators. A derivative of zero stays zero.
    """
    low, high = derivative_range
    count = 2**bits
    values = values.double()
    levels = lloyd_max(values, torch.linspace(low, high, count, dtype=torch.float64))

    grid = torch.linspace(low, high, GRID, dtype=torch.float64)
    points = torch.cat([values, grid])
    position = interpolate(points, levels)
    # An error of position counts as the distance of the levels there.
    distance = levels.diff().clamp(min=1e-6)
    slope = distance[position.floor().long().clamp(max=count - 2)]
    weight = torch.cat([torch.ones_like(values), torch.full_like(grid, GRID_WEIGHT * len(values) / GRID)])

    def fitted(zero: int) -> tuple[float, Levels]:
        """(square error, levels with that code of zero)"""
        encode_step, encode = parabola(*least_squares(points, position - zero, weight * slope**2))
        code = ((apply_parabola(values, encode) / encode_step).round() + zero).clamp(0, count - 1)
        number, mean = group_means(values, code.long(), levels)
        straight, square = least_squares(torch.arange(count, dtype=torch.float64) - zero, mean, number)
        scale, decode = parabola(straight, square)
        decode_step = scale**-0.5  # by which codes are multiplied, so that no factor is left outside the parabola
        decode = Parabola(decode.shift * decode_step, decode.sign)
        error = (apply_parabola((code - zero) * decode_step, decode) - values).square().sum()
        return float(error), Levels(zero, encode_step, decode_step, encode, decode)

    return min((fitted(zero) for zero in range(count)), key=lambda found: found[0])[1]


def parabola(straight: float, square: float) -> tuple[float, Parabola]:
    """(straight + square x) x as a parabola, divided by the first number."""
    curvature = max(abs(square), LEAST_CURVATURE * abs(straight), LEAST_CURVATURE)
    return 1 / curvature, Parabola(straight / curvature, -1 if square < 0 else 1)


def lloyd_max(values: Tensor, levels: Tensor) -> Tensor:
    """Levels (count,) that are the means of the values nearest to them."""
    for _ in range(LLOYD_ITERATIONS):
        nearest = torch.bucketize(values, (levels[1:] + levels[:-1]) / 2)
        levels = group_means(values, nearest, levels)[1].sort().values
    return levels


def group_means(values: Tensor, group: Tensor, default: Tensor) -> tuple[Tensor, Tensor]:
    """(number, mean) of the values of each group; an empty group has its default."""
    number = torch.zeros_like(default).index_add(0, group, torch.ones_like(values))
    total = torch.zeros_like(default).index_add(0, group, values)
    return number, torch.where(number > 0, total / number.clamp(min=1), default)


def interpolate(x: Tensor, levels: Tensor) -> Tensor:
    """The place of x among the levels, linear between them, in [0, len(levels) - 1]."""
    right = torch.bucketize(x, levels).clamp(1, len(levels) - 1)
    left = right - 1
    width = (levels[right] - levels[left]).clamp(min=1e-12)
    return left + ((x - levels[left]) / width).clamp(0, 1)


def least_squares(x: Tensor, y: Tensor, weight: Tensor) -> tuple[float, float]:
    """(a, b) of least weighted square error between (a + b x) x and y."""
    root = weight.sqrt()[:, None]
    powers = torch.stack([x, x * x], dim=1)
    a, b = torch.linalg.lstsq(powers * root, y[:, None] * root, driver="gelsd").solution[:, 0].tolist()
    return a, b
