"""Balances classes that have different numbers of images: by weights of the loss, or by how often images are shown."""

import numpy as np

from edge_s2a.device.data.present import present


def balanced_weights(labels: np.ndarray, classes: int) -> np.ndarray:
    """float32 (classes,): weights inverse to the images of a class, 1 on average over images; 0 for a class without.
    labels: int (images,)."""
    counts = np.bincount(labels, minlength=classes)
    used = int(np.count_nonzero(counts))
    return np.divide(len(labels) / used, counts, where=counts > 0, out=np.zeros(classes)).astype(np.float32)


def balanced_order(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """int64 (images,): as many indices as there are images, at random, of each class as many as of each other, but for
    one; an image comes again only once all others of its class have. labels: int (images,)."""
    used = present(labels)
    shares = np.full(len(used), len(labels) // len(used))
    shares[rng.permutation(len(used))[: len(labels) % len(used)]] += 1
    drawn = []
    for label, share in zip(used, shares, strict=True):
        places = np.flatnonzero(labels == label)
        rounds = -(-int(share) // len(places))
        drawn.append(np.concatenate([rng.permutation(places) for _ in range(rounds)])[:share] if rounds else places[:0])
    return rng.permutation(np.concatenate(drawn))
