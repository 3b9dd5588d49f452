"""The learning rate and sizes: plain functions against their formulas."""

import math

import pytest

from edge_s2a.device.optim.schedule import learning_rate
from edge_s2a.errors import UserError
from edge_s2a.run.times import format_time
from edge_s2a.sizes import parse_size


def test_warm_up_is_linear_and_reaches_the_peak():
    rates = [learning_rate(step, 1.0, 4, 20) for step in range(5)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


def test_cosine_falls_to_almost_zero():
    rates = [learning_rate(step, 2.0, 0, 10) for step in range(10)]
    assert rates == pytest.approx([1 + math.cos(math.pi * step / 10) for step in range(10)])


def test_more_warm_up_than_steps_never_passes_the_peak():
    assert all(0 < learning_rate(step, 1.0, 50, 10) <= 0.2 for step in range(10))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192MiB", 192 << 20),
        ("0.5GiB", 1 << 29),
        ("200MB", 200_000_000),
        ("123", 123),
        (" 1 KiB ", 1024),
        ("2g", 2 << 30),
    ],
)
def test_sizes(text, expected):
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "MiB", "-5MiB", "5 potatoes", "1e9", "nan"])
def test_wrong_sizes_are_refused(text):
    with pytest.raises(UserError, match="not a size"):
        parse_size(text)


def test_times():
    assert [format_time(seconds) for seconds in (5, 65, 3671)] == ["0:05", "1:05", "1:01:11"]
