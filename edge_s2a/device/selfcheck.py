"""Replays the golden step: the engine on this machine must compute what torch computed on the host."""

from typing import TypedDict

import numpy as np

from edge_s2a.artifact.archive import Artifact
from edge_s2a.artifact.names import IMAGE, LOGITS, LOSS, TARGET, gradient, tap
from edge_s2a.device.data.preprocessing import normalize
from edge_s2a.device.engine.base import Engine
from edge_s2a.device.optim.optimizer import AdamW
from edge_s2a.errors import ArenaExhausted, CheckError, UserError

# Rounding differs between torch and the engine. In gradients it now and then tips a value into the next 4-bit code, or
# over the edge of a ReLU: measured up to 1e-3 of the whole gradient and 2e-2 of the worst tensor, where a wrong
# operator, scale or nibble order gives far more. Nothing amplifies it in the other quantities: below 1e-5.
TOLERANCES = {"taps": 1e-4, "loss": 1e-4, "logits": 1e-4, "gradients": 5e-3, "worst_gradient": 5e-2, "update": 1e-4}
# A value that tips into the next of 256 codes changes everything that follows a little, so that after a dozen blocks
# two engines differ by as much as the rounding itself: measured up to 0.035 of the logits and 0.09 of the gradient
# (ViT-B/16). Two blocks agree to 1e-6 (tests/host/test_int8.py).
INT8_TOLERANCES = {"taps": 0.1, "loss": 1e-2, "logits": 0.1, "gradients": 0.25, "worst_gradient": 0.3, "update": 1e-4}
# The error of a tensor whose gradient is nothing but rounding (an attention's key bias) is relative to this share of
# the mean gradient instead of to its own.
NOISE_SHARE = 0.01


def updated(name: str) -> str:
    """The name in the golden member of an adapter tensor after one optimizer update."""
    return f"updated:{name}"


class CheckResult(TypedDict):
    """How far the engine is from the golden step and taps. Errors are relative."""

    ok: bool
    max_relative_error: float
    errors: dict[str, float]  # of "taps"; where the artifact trains, of "loss", "logits", "gradients" and others
    tolerances: dict[str, float]  # of the same


def check(artifact: Artifact, golden: dict[str, np.ndarray], engine: Engine) -> CheckResult:
    """Runs the golden images of an artifact on `engine`, and the golden step where the artifact trains, which updates
    the adapter. golden: the tensors of its golden member.

    A step that deviates gives ok=False. Raises CheckError where the engine needs more memory than the plan promises.
    """
    try:
        batch = golden_batch(artifact, golden)
        errors = tap_errors(artifact, golden, engine, batch)
        if artifact.manifest.can_train:
            errors |= step_errors(artifact, golden, engine, batch)
    except ArenaExhausted as error:
        raise CheckError(
            f"{artifact.path}: the golden step needs more memory than planned: {error}; report this with your "
            f"{engine.name} version"
        ) from error
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"the golden step of {artifact.path} has a tensor missing or of another shape ({error}); repack the model"
        ) from error
    tolerances = INT8_TOLERANCES if artifact.manifest.int8_layers else TOLERANCES
    tolerances = {name: tolerances[name] for name in errors}
    return {
        "ok": all(errors[name] <= tolerance for name, tolerance in tolerances.items()),
        "max_relative_error": max(errors.values()),
        "errors": errors,
        "tolerances": tolerances,
    }


def golden_batch(artifact: Artifact, golden: dict[str, np.ndarray]) -> np.ndarray:
    """The golden images as the engine reads them, float32 (batch, 3, height, width)."""
    images = golden[IMAGE]
    batch = np.empty((len(images), 3, *artifact.manifest.preprocessing.image_size), np.float32)
    for pixels, row in zip(images, batch, strict=True):
        normalize(pixels, artifact.manifest.preprocessing, row)
    return batch


def tap_errors(
    artifact: Artifact, golden: dict[str, np.ndarray], engine: Engine, batch: np.ndarray
) -> dict[str, float]:
    """batch: the golden images, float32 (batch, 3, height, width)."""
    expected = np.concatenate([golden[tap(name)] for name in artifact.manifest.taps], 1)
    logits, features = engine.taps(batch)
    errors = [relative_error(features, expected)]
    if artifact.manifest.can_train:
        errors.append(relative_error(logits, golden[LOGITS]))
    return {"taps": max(errors)}


def step_errors(
    artifact: Artifact, golden: dict[str, np.ndarray], engine: Engine, batch: np.ndarray
) -> dict[str, float]:
    """batch: the golden images, float32 (batch, 3, height, width)."""
    inference_logits = engine.logits(batch)
    loss, logits, gradients = engine.training_step(batch, golden[TARGET])
    settings = artifact.manifest.golden_optimizer
    before = {name: array.copy() for name, array in engine.adapter.items()}
    # AdamW divides each element by its own size, which magnifies the rounding of small gradients: its arithmetic is
    # checked on the host's gradients.
    golden_gradients = {name: golden[gradient(name)] for name in engine.adapter}
    AdamW(engine.adapter, settings["weight_decay"]).step(golden_gradients, settings["lr"])
    return {
        "loss": relative_error(np.array(loss), golden[LOSS]),
        "logits": max(relative_error(x, golden[LOGITS]) for x in (logits, inference_logits)),
        "gradients": whole_error(gradients, golden_gradients),
        "worst_gradient": worst_error(gradients, golden_gradients),
        "update": worst_error(
            {name: array - before[name] for name, array in engine.adapter.items()},
            {name: golden[updated(name)] - before[name] for name in engine.adapter},
        ),
    }


def relative_error(measured: np.ndarray, expected: np.ndarray) -> float:
    """|measured - expected| / |expected| (Euclidean norms); infinite if not finite."""
    error = float(np.linalg.norm(measured - expected) / max(float(np.linalg.norm(expected)), 1e-12))
    return error if np.isfinite(error) else float("inf")


def whole_error(measured: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The relative error of all tensors together."""
    pairs = [(measured[name].ravel(), expected[name].ravel()) for name in expected]
    return relative_error(*(np.concatenate(arrays) for arrays in zip(*pairs, strict=True)))


def worst_error(measured: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """The largest relative error of any tensor. Errors are relative to NOISE_SHARE of the mean norm at least."""
    norms = {name: float(np.linalg.norm(array)) for name, array in expected.items()}
    mean = float(np.sqrt(np.mean([norm**2 for norm in norms.values()])))
    errors = [
        float(np.linalg.norm(measured[name] - expected[name])) / max(norms[name], NOISE_SHARE * mean, 1e-12)
        for name in expected
    ]
    worst = max(errors)
    return worst if np.isfinite(worst) else float("inf")
