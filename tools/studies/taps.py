"""Chooses the blocks and statistics that are tapped by default, from training images alone.

    python -m tools.studies.taps [--models deit_tiny,mobilenetv2] [--threads 2]

Candidates: sets of blocks (all, the last of them, every second or third of these) times sets of statistics (class
token, mean, maximum, deviation over positions; of transformers after LayerNorm without affine), closed form in float64,
lambda by the squared error of images left out. Two judgements, neither of which reads a validation image:

- flowers5: 5, 20 and 50 images of a class drawn from the train folder, four times each, judged on 900 others of the
  train folder;
- PACS cartoon, which has no such folder: leave-one-out on 20 images of a class, drawn six times.

Prints the candidates by the mean of both at 20 images of a class. The product's default is one rule for both models,
the last half of the blocks, with the best statistics of each family.
"""

import argparse
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional

from edge_s2a.device.data.dataset import dataset_of
from edge_s2a.device.data.pixels import load_pixels
from edge_s2a.host.adapters.blocks import Block, blocks_of
from edge_s2a.host.golden import normalized
from edge_s2a.host.sources.preprocessing import preprocessing_of
from tools.studies.accuracy import MODELS, SHARED, WORK, new_model

GRID = [10 ** (half / 2) for half in range(-6, 3)]
DRAWS, HELD_OUT, LOO_DRAWS = 4, 900, 6
Table = dict[tuple[int, str], np.ndarray]  # (block, statistic) -> float32 (images, channels)


def images_of(data: str) -> list[tuple[str, int]]:
    """(path, label) of all training images, sorted by class and name."""
    folder = SHARED / "data" / data
    folder = folder / "train" if (folder / "train").is_dir() else folder
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    return [(str(file), label) for label, path in enumerate(classes) for file in sorted(path.iterdir())]


def statistics_of(output: torch.Tensor, block: Block) -> Iterator[tuple[str, torch.Tensor]]:
    if block.layout == "tokens":
        output = functional.layer_norm(output, output.shape[-1:])
        yield "class", output[:, 0]
        positions = output[:, block.prefix_tokens :]
    else:
        positions = output.flatten(2).transpose(1, 2)
    yield "mean", positions.mean(1)
    yield "maximum", positions.amax(1)
    yield "deviation", positions.std(1, unbiased=False)


@torch.inference_mode()
def table_of(model_key: str, data: str) -> Table:
    """Every statistic of every block's output, computed once and kept in build/study."""
    path = WORK / "taps" / f"{model_key}-{data}.npz"
    if path.exists():
        with np.load(path) as kept:
            return {(int(name.split(".")[0]), name.split(".")[1]): kept[name] for name in kept.files}
    mean = MODELS[model_key][3]
    model = new_model(model_key, data, 0)
    preprocessing = preprocessing_of(model, None, mean, mean)
    blocks = blocks_of(model, (3, *preprocessing.image_size))
    outputs: dict[int, torch.Tensor] = {}
    for number, block in enumerate(blocks):
        block.module.register_forward_hook(lambda _m, _i, output, number=number: outputs.update({number: output}))
    found: dict[tuple[int, str], list[np.ndarray]] = {}
    dataset = dataset_of(SHARED, [], [path for path, _ in images_of(data)])
    for start in range(0, len(dataset), 16):
        rows = range(start, min(start + 16, len(dataset)))
        model(normalized(np.stack([load_pixels(dataset, row, preprocessing) for row in rows]), preprocessing))
        for number, output in outputs.items():
            for name, value in statistics_of(output, blocks[number]):
                found.setdefault((number, name), []).append(value.numpy())
    table = {key: np.concatenate(parts) for key, parts in found.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{f"{number}.{name}": values for (number, name), values in table.items()})
    return table


def candidates(table: Table) -> Iterator[tuple[str, list[tuple[int, str]]]]:
    """(name, keys of the table)"""
    count = 1 + max(number for number, _ in table)
    names = sorted({name for _, name in table})
    late = {f"last {size}": range(count - size, count) for size in sorted({count, count * 2 // 3, -(-count // 2), 4})}
    blocks = late | {f"every second of {name}": tuple(found)[::-2] for name, found in late.items()}
    for place, chosen in blocks.items():
        for size in range(1, 1 << len(names)):
            used = [name for bit, name in enumerate(names) if size >> bit & 1]
            yield f"{place}: {'+'.join(used)}", [(number, name) for number in chosen for name in used]


def draw(labels: np.ndarray, per_class: int, seed: int) -> np.ndarray:
    chosen = []
    for label in range(labels.max() + 1):
        rows = np.flatnonzero(labels == label).tolist()
        random.Random(seed).shuffle(rows)
        chosen += rows[:per_class]
    return np.array(chosen)


def products(table: Table, train: np.ndarray, others: np.ndarray) -> dict[tuple[int, str], np.ndarray]:
    """float64 (train and others, train): inner products of standardised features."""
    result = {}
    for key, values in table.items():
        mean, deviation = values[train].mean(0), values[train].std(0)
        z = (values[np.concatenate([train, others])] - mean) / np.where(deviation > 1e-9, deviation, np.inf)
        result[key] = (z @ z[: len(train)].T).astype(np.float64)
    return result


def closed_form(kernel: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(scores of the images left out, scores of the others); kernel float64 (train and others, train)."""
    count = len(labels)
    indicators = np.eye(labels.max() + 1)[labels]
    shares = indicators.mean(0)
    values, vectors = np.linalg.eigh(kernel[:count])
    projected = vectors.T @ (indicators - shares)

    def left_out(ridge: float) -> np.ndarray:
        inverse = 1 / (np.maximum(values, 0) + ridge)
        coefficients = vectors @ (projected * inverse[:, None])
        leverage = ridge * (vectors**2 @ inverse) - 1 / count
        return indicators - ridge * coefficients / leverage[:, None]

    ridge = min(GRID, key=lambda value: ((left_out(value) - indicators) ** 2).sum())
    inverse = 1 / (np.maximum(values, 0) + ridge)
    return left_out(ridge), shares + kernel[count:] @ (vectors @ (projected * inverse[:, None]))


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    return 100 * float((scores.argmax(1) == labels).mean())


def judge(model_key: str) -> list[tuple[float, str, int, list[float], float]]:
    """(mean, candidate, features, accuracies on held-out flowers at 5, 20 and 50, left out on cartoon)"""
    flowers, cartoon = table_of(model_key, "flowers5"), table_of(model_key, "pacs_cartoon")
    labels, drawn = (np.array([label for _, label in images_of(data)]) for data in ("flowers5", "pacs_cartoon"))
    found: dict[str, dict[int, list[float]]] = {}
    for per_class in (5, 20, 50):
        for seed in range(DRAWS):
            train = draw(labels, per_class, 1000 + seed)
            others = np.random.default_rng(seed).permutation(np.setdiff1d(np.arange(len(labels)), train))[:HELD_OUT]
            parts = products(flowers, train, others)
            for name, keys in candidates(flowers):
                scores = closed_form(kernel_of(parts, flowers, keys), labels[train])[1]
                found.setdefault(name, {}).setdefault(per_class, []).append(accuracy(scores, labels[others]))
    for seed in range(LOO_DRAWS):
        train = draw(drawn, 20, seed)
        parts = products(cartoon, train, train[:0])
        for name, keys in candidates(cartoon):
            scores = closed_form(kernel_of(parts, cartoon, keys), drawn[train])[0]
            found[name].setdefault(0, []).append(accuracy(scores, drawn[train]))
    rows = []
    for name, keys in candidates(flowers):
        means = {count: float(np.mean(values)) for count, values in found[name].items()}
        features = sum(flowers[key].shape[1] for key in keys)
        rows.append(((means[20] + means[0]) / 2, name, features, [means[5], means[20], means[50]], means[0]))
    return sorted(rows, reverse=True)


def kernel_of(parts: dict[tuple[int, str], np.ndarray], table: Table, keys: Sequence[tuple[int, str]]) -> np.ndarray:
    return sum(parts[key] for key in keys) / sum(table[key].shape[1] for key in keys)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for model_key in options.models.split(","):
        print(
            f"\n**{model_key}**\n\n| blocks: statistics | features | flowers5, 5 / 20 / 50 | cartoon, left out | mean |"
        )
        print("|---|---|---|---|---|")
        for mean, name, features, flowers, cartoon in judge(model_key)[:20]:
            shown = " / ".join(f"{value:.1f}" for value in flowers)
            print(f"| {name} | {features} | {shown} | {cartoon:.1f} | {mean:.2f} |", flush=True)


if __name__ == "__main__":
    main()
