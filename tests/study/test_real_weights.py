"""DeiT-Tiny with its real weights on real photos. The inputs lie beside the project, in ../shared or where
EDGE_S2A_SHARED points; they are not part of it."""

import subprocess
import sys

import numpy as np
import pytest

from tests.helpers.commands import run_command, run_measured
from tests.helpers.paths import PROJECT, SHARED

WEIGHTS = SHARED / "weights" / "deit_tiny_patch16_224.safetensors"
FLOWERS = SHARED / "data" / "flowers5"
COSINE = 0.9985

pytestmark = pytest.mark.skipif(
    not (WEIGHTS.exists() and FLOWERS.exists()), reason=f"real weights and images are not at {SHARED}"
)


def test_4_bit_gradients_point_where_exact_ones_do():
    """Sixteen photos, all biases and the head: cosine of the whole gradient to torch's exact one."""
    import torch
    from torch.func import functional_call

    from edge_s2a.device.data.dataset import open_dataset
    from edge_s2a.device.data.pixels import load_pixels
    from edge_s2a.host.golden import normalized
    from edge_s2a.host.pack import adapt
    from edge_s2a.host.trace.capture import loss_and_gradients, soft_cross_entropy
    from edge_s2a.options import PackOptions

    adapted = adapt(
        PackOptions("deit_tiny_patch16_224", "unused.s2a", num_classes=5, weights=WEIGHTS, weight_format="fp32")
    )
    dataset = open_dataset(FLOWERS, "train", None, 5)
    chosen = np.random.default_rng(0).permutation(len(dataset))[:16].tolist()
    pixels = np.stack([load_pixels(dataset, index, adapted.preprocessing) for index in chosen])
    image = normalized(pixels, adapted.preprocessing)
    labels = torch.from_numpy(dataset.labels[chosen].astype(int))
    target = torch.nn.functional.one_hot(labels, 5).float() / 16

    loss = soft_cross_entropy(functional_call(adapted.model, adapted.adapter, (image,)), target)
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(adapted.adapter.values()))])
    gradients = loss_and_gradients(adapted.model, adapted.adapter, image, target, adapted.scheme)[2:]
    approximate = torch.cat([g.flatten() for g in gradients])
    cosine = torch.nn.functional.cosine_similarity(exact, approximate, dim=0).item()
    error = ((approximate - exact).norm() / exact.norm()).item()
    print(f"\n4-bit gradient of DeiT-Tiny: cosine {cosine:.5f}, relative error {error:.3f}")
    assert COSINE <= cosine < 1


@pytest.mark.study
@pytest.mark.timeout(1200)
def test_deit_tiny_learns_flowers_within_192_mib(tmp_path):
    """The command of the README: 20 images per class, 15 epochs, at least 82 % on the validation set."""
    split = [sys.executable, "tools/studies/few_shot_split.py", FLOWERS, tmp_path / "flowers", "--per-class", "20"]
    subprocess.run(split, check=True, cwd=PROJECT, stdout=subprocess.DEVNULL)
    artifact = tmp_path / "deit.s2a"
    packed = run_command(
        "pack", "deit_tiny_patch16_224", "--weights", WEIGHTS, "--num-classes", 5, "--adapter", "bias+lowrank",
        "--output", artifact,
    )  # fmt: skip
    assert packed.returncode == 0, packed.stderr
    done, peak = run_measured(
        "train", artifact, "--data", tmp_path / "flowers", "--memory-budget", "192MiB", "--epochs", 15,
        "--lr", 3e-3, "--output", tmp_path / "run", "--json", timeout=1000,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = done.json
    print(
        f"\nflowers5, 20 images per class: {100 * summary['val_accuracy']:.1f} % "
        f"(best {100 * summary['best_accuracy']:.1f} %), "
        f"micro-batch {summary['micro_batch_size']}, {summary['seconds']:.0f} s, predicted "
        f"{summary['predicted_peak_bytes'] / 2**20:.1f} MiB, measured {peak / 2**20:.1f} MiB of 192"
    )
    assert summary["val_accuracy"] >= 0.82
    assert peak <= 192 << 20
