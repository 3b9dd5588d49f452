"""What a device has learned in one pass, as plain data: the images it keeps, the sums of others, and the classifier."""

from dataclasses import dataclass

import numpy as np

from edge_s2a.artifact.rows import Rows
from edge_s2a.codec.features import Layout

DIGEST_BYTES = 16
MOST_CONFUSED = 100
# Shares of images of known classes that may be taken for unknown, and numbers of recent images.
UNKNOWN_RATES = (0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.02, 0.01, 0.005)
DRIFT_IMAGES = tuple(1 << power for power in range(11))


@dataclass(frozen=True)
class Kept:
    """Images whose features are kept, the oldest first."""

    digests: np.ndarray  # uint8 (images, DIGEST_BYTES): the first bytes of the SHA-256 of each image
    labels: np.ndarray  # int64 (images,)
    codes: Rows  # uint8 (images, Layout.row_bytes), see edge_s2a.codec.features


@dataclass(frozen=True)
class Folded:
    """Images of which only sums are left, over the features of the last `groups` groups."""

    groups: int
    gram: Rows  # float64 (columns (columns + 1) / 2,): the rows of the upper triangle of the sum of x x^T
    sums: np.ndarray  # float64 (classes, columns): the sum of x over the images of each class
    digests: np.ndarray  # uint8 (images, DIGEST_BYTES)
    labels: np.ndarray  # int64 (images,)


@dataclass(frozen=True)
class State:
    """All that was learned. Every class has an image, kept or folded; the classes are sorted by name."""

    layout: Layout
    classes: list[str]
    kept: Kept
    folded: Folded | None

    @property
    def counts(self) -> np.ndarray:
        """int64 (classes,): the images of each class."""
        labels = [self.kept.labels] + ([self.folded.labels] if self.folded else [])
        return np.bincount(np.concatenate(labels), minlength=len(self.classes))


@dataclass(frozen=True)
class Measured:
    """What the classifier does with images that were left out of it, one at a time: those that are kept, or a sample of
    them, each with the weight that makes its class count as often as it was learned, or all classes alike. Classes of
    one image do not count."""

    accuracy: float
    log_loss: float  # of the probabilities
    calibration_error: float  # expected, 15 bins
    confusion: list[list[int]] | None  # [class][likeliest class]: images; None for more classes than MOST_CONFUSED


@dataclass(frozen=True)
class Familiar:
    """What images that were learned look like, by which others are told apart (edge_s2a.device.closed_form.unknown and
    drift)."""

    means: np.ndarray  # float32 (classes, width): of each feature over each class
    within: np.ndarray  # float32 (width,): deviation of each feature inside the classes; 0 for ignored ones
    scales: np.ndarray  # float32 (2, 2): mean and deviation of the two parts of the score of unknown images
    unknown: np.ndarray  # float32 (UNKNOWN_RATES,): the score that this share of left-out images exceeds
    drift: np.ndarray  # float32 (DRIFT_IMAGES,): the statistic that 1 % of draws of so many left-out images exceed


@dataclass(frozen=True)
class Head:
    """The classifier: probabilities are softmax((weight x + bias) / temperature) of features x."""

    classes: list[str]
    counts: np.ndarray  # int64 (classes,): images
    weight: np.ndarray  # float32 (classes, width); 0 for features that are ignored
    bias: np.ndarray  # float32 (classes,)
    mean: np.ndarray  # float32 (width,), of each feature over all images
    deviation: np.ndarray  # float32 (width,); 0 for features that are ignored
    kind: str  # "dual" or "primal": how it was solved for
    groups: int  # the last groups of features that it uses
    ridge: float  # lambda: what was added to the diagonal
    temperature: float
    measured: Measured | None  # None if no image can be left out
    familiar: Familiar | None  # None likewise

    @property
    def images(self) -> int:
        return int(self.counts.sum())
