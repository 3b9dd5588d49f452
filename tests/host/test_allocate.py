"""Bits by gradient error: the search for them, and what they gain."""

import itertools

import numpy as np
import pytest
import torch

from edge_s2a.host.golden import normalized, random_target
from edge_s2a.host.pack import adapt
from edge_s2a.host.scheme.allocate import (
    BITS,
    MEAN_BITS,
    choose_scheme,
    fewest_errors,
    gradient_error_of,
    with_random_factors,
)
from edge_s2a.host.trace.capture import observe_saved_tensors
from edge_s2a.host.trace.saved_tensors import mean_bits, with_bits
from tests.helpers.artifacts import SMALL_VIT, options_of

VIT = {**SMALL_VIT, "img_size": 64}
MOBILENET = {"model": "mobilenetv2_035", "model_kwargs": {}, "image_size": 64}


@pytest.mark.parametrize("seed", range(8))
def test_fewest_errors_comes_near_the_best_of_all_choices(seed):
    """Against every one of 3^7 choices: never over the limit, and at most a tenth above the least error."""
    rng = np.random.default_rng(seed)
    values = {index: int(rng.integers(1, 20)) for index in range(7)}
    errors = {}
    for index in values:
        at_four = 10 ** rng.uniform(-3, 1)
        errors[index] = {2: at_four * rng.uniform(12, 40), 4: at_four, 8: at_four / rng.uniform(200, 300)}
    limit = MEAN_BITS * sum(values.values())

    def total(chosen):
        return sum(errors[index][bits] for index, bits in chosen.items())

    best = min(
        total(dict(enumerate(choice)))
        for choice in itertools.product(BITS, repeat=len(values))
        if sum(values[index] * bits for index, bits in enumerate(choice)) <= limit
    )
    chosen = fewest_errors(errors, values)
    assert sum(values[index] * bits for index, bits in chosen.items()) <= limit
    assert total(chosen) <= 1.1 * best


@pytest.fixture(scope="module")
def batch():
    """(model, adapter, image, target) and what it saves."""
    adapted = adapt(options_of(model_kwargs=VIT, saved_bits="32"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    image, target = normalized(pixels, adapted.preprocessing), random_target(8, 3, 0)
    observed = observe_saved_tensors(adapted.model, adapted.adapter, (3, 64, 64))
    return (adapted.model, adapted.adapter, image, target), observed


def test_automatic_bits_err_less_than_four_bits_for_all(batch):
    """On the images they were measured on, with uniform levels for both, at no more bits in the mean."""
    arguments, observed = batch
    error = gradient_error_of(*arguments, observed)
    automatic = choose_scheme(*arguments, observed, "auto", "uniform")
    assert mean_bits(automatic) <= MEAN_BITS
    assert {entry.bits for entry in automatic if entry.has_codes} <= set(BITS)
    assert len({entry.bits for entry in automatic if entry.has_codes}) > 1
    assert error(automatic) < error(with_bits(observed, 4))


def test_automatic_bits_are_those_of_an_adapter_on_its_way():
    """Low-rank maps whose `up` is no longer zero, at other values than those with which the bits were chosen."""
    adapted = adapt(options_of(**MOBILENET, saved_bits="32", adapter="lowrank"))
    pixels = np.random.default_rng(0).integers(0, 256, (8, 64, 64, 3), np.uint8)
    image, target = normalized(pixels, adapted.preprocessing), random_target(8, 3, 0)
    observed = observe_saved_tensors(adapted.model, adapted.adapter, (3, 64, 64))
    automatic = choose_scheme(adapted.model, adapted.adapter, image, target, observed, "auto", "uniform")
    trained = with_random_factors(adapted.adapter, seed=1)
    error = gradient_error_of(adapted.model, trained, image, target, observed)
    assert mean_bits(automatic) <= MEAN_BITS
    assert error(automatic) < error(with_bits(observed, 4))


def test_best_levels_are_those_of_the_smaller_error(batch):
    arguments, observed = batch
    error = gradient_error_of(*arguments, observed)
    errors = {
        levels: error(choose_scheme(*arguments, observed, "4", levels)) for levels in ("uniform", "fitted", "best")
    }
    assert errors["best"] == min(errors["uniform"], errors["fitted"])
    assert errors["uniform"] != errors["fitted"]


def test_thirty_two_bits_are_exact(batch):
    arguments, observed = batch
    exact = choose_scheme(*arguments, observed, "32", "best")
    assert gradient_error_of(*arguments, observed)(exact) == 0
