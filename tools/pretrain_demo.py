"""Train the small ViT that ships with the project, on images this script renders itself.

The images are single letters and signs (no digits) drawn with Pillow's built-in font under random
rotation, shear, scale, stroke width, contrast, blur and resolution. The quick start then transfers the
model to real handwritten digits, which it has never seen. Command that made the shipped checkpoint:

    python -m tools.pretrain_demo --seed 0 --output demo/vit_demo.safetensors
"""

import argparse
import json
import math
import multiprocessing
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from safetensors.torch import save_file
from torch.nn import functional

SYMBOLS = "ABCDEFGHIJKLMNPQRSTUVWXYZabdefghknqrty+=?&@#%*<>"
IMAGE_SIZE = 32
MODEL_KWARGS = {
    "img_size": IMAGE_SIZE, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3,
}  # fmt: skip


def render(seed: int) -> tuple[np.ndarray, int]:
    """One grey image, uint8 (32, 32), and its label."""
    rng = np.random.default_rng(seed)
    label = int(rng.integers(len(SYMBOLS)))
    canvas = 64
    image = Image.new("L", (canvas, canvas), 0)
    font = ImageFont.load_default(size=int(rng.uniform(34, 52)))
    ImageDraw.Draw(image).text(
        (canvas / 2, canvas / 2), SYMBOLS[label], fill=255, font=font, anchor="mm",
        stroke_width=int(rng.integers(0, 4)),
    )  # fmt: skip
    angle, shear = rng.normal(0, 0.16), rng.normal(0, 0.18)
    scale_x, scale_y = rng.uniform(0.8, 1.35, 2)
    cosine, sine = math.cos(angle), math.sin(angle)
    a, b, d, e = cosine * scale_x, (sine + shear) * scale_x, -sine * scale_y, cosine * scale_y
    half = canvas / 2
    shift_x, shift_y = rng.normal(0, 3, 2)
    image = image.transform(
        (canvas, canvas), Image.Transform.AFFINE,
        (a, b, half - a * half - b * half + shift_x, d, e, half - d * half - e * half + shift_y),
        Image.Resampling.BILINEAR,
    )  # fmt: skip
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.5)))
    # Cameras and scanners differ in resolution: go through a coarse grid half of the time.
    coarse = int(rng.integers(8, 17)) if rng.random() < 0.5 else IMAGE_SIZE
    image = image.resize((coarse, coarse), Image.Resampling.BOX)
    image = image.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, np.float32) / 255
    pixels = pixels * rng.uniform(0.6, 1.0) + rng.uniform(0, 0.1)
    pixels += rng.normal(0, rng.uniform(0, 0.05), pixels.shape)
    if rng.random() < 0.3:
        pixels = 1 - pixels
    return (pixels.clip(0, 1) * 255).astype(np.uint8), label


def render_many(first_seed: int, count: int, workers: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images uint8 (count, 32, 32) and labels int64 (count,)."""
    with multiprocessing.Pool(workers) as pool:
        drawn = pool.map(render, range(first_seed, first_seed + count), chunksize=500)
    images, labels = zip(*drawn, strict=True)
    return torch.from_numpy(np.stack(images)), torch.tensor(labels)


def to_input(images: torch.Tensor) -> torch.Tensor:
    """uint8 (n, 32, 32) -> float32 (n, 3, 32, 32) normalised with mean 0.5 and deviation 0.5."""
    return ((images.float() / 255 - 0.5) / 0.5)[:, None].expand(-1, 3, -1, -1)


@torch.inference_mode()
def accuracy(model: torch.nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    model.eval()
    correct = sum(
        (model(to_input(x)).argmax(1) == y).sum().item()
        for x, y in zip(images.split(500), labels.split(500), strict=True)
    )
    model.train()
    return correct / len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--images", type=int, default=60000)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()

    torch.manual_seed(arguments.seed)
    start = time.time()
    train_images, train_labels = render_many(10_000_000 * arguments.seed, arguments.images, arguments.workers)
    val_images, val_labels = render_many(10_000_000 * arguments.seed + arguments.images, 4000, arguments.workers)
    print(f"rendered in {time.time() - start:.0f} s", flush=True)

    model = timm.create_model("vit_tiny_patch16_224", num_classes=len(SYMBOLS), **MODEL_KWARGS)
    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.lr, weight_decay=0.05)
    steps_per_epoch = len(train_labels) // arguments.batch_size
    total_steps = arguments.epochs * steps_per_epoch
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=arguments.lr, total_steps=total_steps, pct_start=0.1
    )
    for epoch in range(arguments.epochs):
        order = torch.randperm(len(train_labels))
        running = 0.0
        for step in range(steps_per_epoch):
            index = order[step * arguments.batch_size : (step + 1) * arguments.batch_size]
            loss = functional.cross_entropy(
                model(to_input(train_images[index])), train_labels[index], label_smoothing=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            running += loss.item()
        val = accuracy(model, val_images, val_labels)
        print(
            f"epoch {epoch + 1}: loss {running / steps_per_epoch:.3f}, "
            f"val accuracy {100 * val:.1f} %, {time.time() - start:.0f} s",
            flush=True,
        )

    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    # The old head belongs to the letters; packing replaces it.
    state = {
        name: tensor.detach().contiguous()
        for name, tensor in model.state_dict().items()
        if not name.startswith("head.")
    }
    save_file(state, arguments.output)
    description = {
        "model": "vit_tiny_patch16_224",
        "model_kwargs": MODEL_KWARGS,
        "image_size": IMAGE_SIZE,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "seed": arguments.seed,
        "epochs": arguments.epochs,
        "images": arguments.images,
        "symbols": SYMBOLS,
        "val_accuracy": round(val, 4),
    }
    arguments.output.with_suffix(".json").write_text(json.dumps(description, indent=1) + "\n")
    print(f"wrote {arguments.output} ({arguments.output.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
