"""Chooses how each saved tensor is kept, by the gradient error on a calibration batch."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from edge_s2a.host.scheme.fit import fit_levels
from edge_s2a.host.trace.capture import forward, loss_and_gradients, soft_cross_entropy
from edge_s2a.host.trace.saved_tensors import Mark, Restore, SavedTensor, at_bits, encode, with_bits

BITS = (2, 4, 8)
MEAN_BITS = 4
SAMPLES = 1 << 16  # values of a tensor that its levels are fitted to
ALLOCATION_IMAGES = 4  # of the calibration batch, for there are two backward passes per tensor
# The root mean square that training gives a matrix that starts as zeros: 0.015 to 0.02 in the accuracy study.
FACTOR_DEVIATION = 0.02


def choose_scheme(
    model: nn.Module,
    adapter: dict[str, Tensor],
    image: Tensor,
    target: Tensor,
    observed: list[SavedTensor],
    saved_bits: str,
    levels: str,
) -> list[SavedTensor]:
    """The scheme to train with. image (batch, 3, height, width) and target (batch, classes) calibrate it.

    saved_bits: "2", "4", "8" or "32" for all coded tensors alike; "auto": 2, 4 or 8 each, 4 in the mean.
    levels: of derivatives: "uniform", "fitted" to the calibration batch, or "best", whichever of the two has the
    smaller gradient error on it.
    """
    bits = MEAN_BITS if saved_bits == "auto" else int(saved_bits)
    scheme = with_bits(observed, bits)
    batch = (model, adapter, image, target)
    if bits in (2, 4) and levels != "uniform" and any(entry.coding == "levels" for entry in observed):
        fitted = with_fitted_levels(*batch, scheme)
        if levels == "best":
            fitted = min(scheme, fitted, key=gradient_error_of(*batch, scheme))
        scheme = fitted
    if saved_bits != "auto":
        return scheme
    return allocate(model, adapter, image[:ALLOCATION_IMAGES], target[:ALLOCATION_IMAGES], scheme)


def gradient_error_of(
    model: nn.Module, adapter: dict[str, Tensor], image: Tensor, target: Tensor, scheme: list[SavedTensor]
) -> Callable[[list[SavedTensor]], float]:
    """A function of a scheme: |g - g'| / |g| over all adapter tensors, g' being the gradient with it and g the
    exact one. `scheme` may be any scheme of the model."""
    exact = loss_and_gradients(model, adapter, image, target, with_bits(scheme, 32))[2:]

    def error(candidate: list[SavedTensor]) -> float:
        approximate = loss_and_gradients(model, adapter, image, target, candidate)[2:]
        return (squared_distance(exact, approximate) / squared_distance(exact)) ** 0.5

    return error


def squared_distance(first: Sequence[Tensor], second: Sequence[Tensor] | None = None) -> float:
    """The squared distance between two lists of tensors, or of one list from zero."""
    differences = first if second is None else [a - b for a, b in zip(first, second, strict=True)]
    return sum(float(difference.double().square().sum()) for difference in differences)


def with_fitted_levels(
    model: nn.Module, adapter: dict[str, Tensor], image: Tensor, target: Tensor, scheme: list[SavedTensor]
) -> list[SavedTensor]:
    """The scheme with the levels of every derivative fitted to its values on the calibration batch."""
    fitted = list(scheme)

    def keep(index: int, _description: Mark, tensor: Tensor) -> Restore:
        entry = scheme[index]
        if entry.coding == "levels":
            fitted[index] = entry._replace(levels=fit_levels(sample(tensor), entry.derivative_range, entry.bits))
        return lambda: tensor

    forward(model, adapter, image, keep)
    return fitted


def sample(tensor: Tensor) -> Tensor:
    """At most SAMPLES of the values, evenly spread."""
    values = tensor.detach().flatten()
    return values[:: max(1, len(values) // SAMPLES)]


def allocate(
    model: nn.Module, adapter: dict[str, Tensor], image: Tensor, target: Tensor, scheme: list[SavedTensor]
) -> list[SavedTensor]:
    """The scheme of least estimated gradient error with 2, 4 or 8 bits for each coded tensor, and a mean over all
    values of MEAN_BITS or less.

    Errors are those of an adapter in training, not of the initial one: behind a factor of zeros a tensor does not
    matter. The error that one tensor's code causes is measured by backward passes in which it alone is coded, at 2
    and at 4 bits; errors of different tensors hardly depend on each other, so their squares are added up. From 4 bits
    to 8 it shrinks as the square of the code's own error does.
    """
    coded = [index for index, entry in enumerate(scheme) if entry.has_codes]
    if not coded:
        return scheme
    originals, backward = record(model, with_random_factors(adapter), image, target)
    exact = backward(None)
    choices: dict[int, dict[int, SavedTensor]] = {}
    errors: dict[int, dict[int, float]] = {}
    for index in coded:
        original = originals[index].detach()
        entries = {bits: of_bits(scheme[index], original, bits) for bits in BITS}
        table = {bits: squared_distance(exact, backward((index, entries[bits]))) for bits in (2, 4)}
        table[8] = table[4] * code_error(entries[8], original) / max(code_error(entries[4], original), 1e-30)
        choices[index], errors[index] = entries, table
    chosen = fewest_errors(errors, {index: scheme[index].values_per_image for index in coded})
    return [choices[i][chosen[i]] if i in chosen else entry for i, entry in enumerate(scheme)]


def with_random_factors(adapter: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """The adapter with normal values of deviation FACTOR_DEVIATION in place of matrices of zeros."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: (torch.randn(value.shape, generator=generator) * FACTOR_DEVIATION).requires_grad_()
        if value.ndim > 1 and not value.any()
        else value
        for name, value in adapter.items()
    }


def of_bits(entry: SavedTensor, original: Tensor, bits: int) -> SavedTensor:
    """The entry at another width, with fitted levels if it has any."""
    changed = at_bits(entry, bits)
    if entry.levels is None or entry.levels.decode is None or bits == 8:
        return changed
    return changed._replace(levels=fit_levels(sample(original), entry.derivative_range, bits))


def code_error(entry: SavedTensor, tensor: Tensor) -> float:
    return squared_distance([tensor], [encode(entry, tensor)()])


def record(
    model: nn.Module, adapter: dict[str, Tensor], image: Tensor, target: Tensor
) -> tuple[dict[int, Tensor], Callable[[tuple[int, SavedTensor] | None], tuple[Tensor, ...]]]:
    """(saved tensors by index, gradients of a backward pass in which the given one alone is read from its code)."""
    originals: dict[int, Tensor] = {}
    coded: list[tuple[int, SavedTensor] | None] = [None]

    def keep(index: int, _description: Mark, tensor: Tensor) -> Restore:
        originals[index] = tensor

        def restore() -> Tensor:
            choice = coded[0]
            return encode(choice[1], tensor)() if choice is not None and choice[0] == index else tensor

        return restore

    loss = soft_cross_entropy(forward(model, adapter, image, keep), target)

    def backward(choice: tuple[int, SavedTensor] | None) -> tuple[Tensor, ...]:
        coded[0] = choice
        return torch.autograd.grad(loss, list(adapter.values()), retain_graph=True)

    return originals, backward


def fewest_errors(errors: dict[int, dict[int, float]], values: dict[int, int]) -> dict[int, int]:
    """Bits for each tensor so that the sum of errors is least and the mean over values at most MEAN_BITS.

    errors: index -> {bits: squared error}; values: index -> number of values. Lagrange: each tensor takes the
    bits of least error + price * size, at the lowest price at which the total fits; what is then left over goes to
    the best single steps.
    """
    limit = MEAN_BITS * sum(values.values())

    def cost(index: int, bits: int, price: float) -> float:
        return errors[index][bits] + price * values[index] * bits

    def at_price(price: float) -> dict[int, int]:
        return {index: min((cost(index, bits, price), bits) for bits in table)[1] for index, table in errors.items()}

    def size(bits: dict[int, int]) -> int:
        return sum(values[index] * width for index, width in bits.items())

    low, high = 0.0, 1.0
    while size(at_price(high)) > limit:
        high *= 4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if size(at_price(middle)) <= limit else (middle, high)
    chosen = at_price(high)

    def gain(step: tuple[int, int]) -> float:
        index, bits = step
        return (errors[index][chosen[index]] - errors[index][bits]) / (values[index] * (bits - chosen[index]))

    while True:
        room = limit - size(chosen)
        steps = [
            (index, bits)
            for index in errors
            for bits in BITS
            if bits > chosen[index] and values[index] * (bits - chosen[index]) <= room
        ]
        if not steps or gain(best := max(steps, key=gain)) <= 0:
            return chosen
        chosen[best[0]] = best[1]
