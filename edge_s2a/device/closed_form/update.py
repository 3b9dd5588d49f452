"""Adds images to a classifier one at a time, without solving for it anew: recursive least squares.

With P = (Z^T Z / d + lambda I)^-1 of the images so far, n of them with mean feature m and mean indicator p, an image of
features z and indicator y changes the weights W by a rank-one update (Sherman and Morrison, 1950; the factor is the
intercept's):

    v = (z - m) sqrt(n / (n + 1))        t = (y - p) sqrt(n / (n + 1))
    g = P v / (d + v^T P v)              W <- W + g (t - v^T W)^T        P <- P - g (P v)^T

P stays as it was inverted, and the vectors of the images since are kept beside it. This is exact at the
standardisation, lambda and temperature of the last solution; also thresholds and what was measured are still those. All
of them change by a share of about 1 / n per image, so a full solution is due now and then (`is_stale`).
"""

import dataclasses

import numpy as np

from edge_s2a.artifact.learned import Familiar, Head, State
from edge_s2a.codec.features import decode
from edge_s2a.device.closed_form.form import Form, form_of
from edge_s2a.device.closed_form.ridge import dual, primal
from edge_s2a.device.closed_form.sample import Sample
from edge_s2a.device.closed_form.solve import balance_of, on_features
from edge_s2a.device.closed_form.standard import all_features, standardise

# A full solution is due when the images have become more by this share, or by this number: their vectors take memory.
MOST_GROWTH, MOST_ADDED = 1 / 8, 512


def update_form(state: State, available_bytes: int) -> Form | None:
    """The form in which images are added fastest within `available_bytes`: the primal one, which reads no codes; None
    if neither fits."""
    layout, is_folded = state.layout, state.folded is not None
    groups = state.folded.groups if state.folded is not None else len(layout.taps)
    vectors_bytes = 8 * MOST_ADDED * (layout.width - layout.first_column(groups))
    kept, classes = len(state.kept.labels), len(state.classes)
    return form_of(("primal", "dual"), kept, groups, is_folded, layout, classes, available_bytes - vectors_bytes)


class Update:
    """The classifier of a state, to which images are added."""

    def __init__(self, state: State, form: Form, head: Head, class_weights: str = "none"):
        """head: of `state`, from `solve` with this form and these class weights. Takes the memory of a solution, and
        holds its matrix and up to MOST_ADDED vectors of the features in use."""
        self.head = head
        """The classifier of all images so far."""
        self.added = 0
        self._layout, self._form, self._class_weights = state.layout, form, class_weights
        self._standard = standardise(state, form)
        self._counts = self._standard.counts
        nothing = Sample(np.zeros(0, int), np.zeros(0, np.int64), np.zeros(0))
        solver = (dual if form.kind == "dual" else primal)(state, form, self._standard, nothing)
        self._weight = solver.weight(solver.left_out(head.ridge)[1])
        self._inverse = solver.inverse
        self._middle = np.zeros(len(self._standard.mean))
        # P v / sqrt(d + v^T P v) of each image since; rows that are not written take no memory.
        self._vectors = np.empty((MOST_ADDED, len(self._standard.mean)))

    @property
    def is_stale(self) -> bool:
        """Whether it is time for a full solution."""
        return self.added >= min(MOST_ADDED, MOST_GROWTH * (self._counts.sum() - self.added))

    def add(self, row: np.ndarray, name: str) -> Head:
        """The classifier with one more image, which was not learned before, of class `name`, which may be new.

        row: its codes, uint8 (Layout.row_bytes,). At most MOST_ADDED images are added.
        """
        standard, images = self._standard, int(self._counts.sum())
        if name not in self.head.classes:
            self._insert(name)
        label = self.head.classes.index(name)
        features = decode(row[None], self._layout, self._form.groups)[0].astype(np.float64)
        away = (features - standard.mean) * standard.scale - self._middle
        factor = np.sqrt(images / (images + 1))
        indicator = -self._counts / images
        indicator[label] += 1
        vector = away * factor
        vectors = self._vectors[: self.added]
        moved = self._inverse(self.head.ridge, vector[:, None])[:, 0] - (vectors @ vector) @ vectors
        divisor = standard.features + vector @ moved
        self._weight += np.outer(moved / divisor, indicator * factor - vector @ self._weight)
        self._vectors[self.added] = moved / np.sqrt(divisor)
        self._middle = self._middle + away / (images + 1)
        self._counts = self._counts + (np.arange(len(self._counts)) == label)
        self.added += 1
        self.head = self._new_head(label, features)
        return self.head

    def _insert(self, name: str) -> None:
        """Makes a class without images, in its place among the sorted names."""
        classes = sorted([*self.head.classes, name])
        place = classes.index(name)
        self._counts = np.insert(self._counts, place, 0)
        self._weight = np.insert(self._weight, place, 0, axis=1)
        familiar = self.head.familiar
        if familiar is not None:
            familiar = dataclasses.replace(familiar, means=np.insert(familiar.means, place, 0, axis=0))
        self.head = dataclasses.replace(self.head, classes=classes, familiar=familiar)

    def _new_head(self, label: int, features: np.ndarray) -> Head:
        balance = balance_of(self._counts, self._class_weights)
        weight, bias = on_features(self._weight, self._middle, self._standard, balance, self._layout.width)
        familiar = self.head.familiar and self._with_mean(self.head.familiar, label, features)
        return dataclasses.replace(self.head, counts=self._counts, weight=weight, bias=bias, familiar=familiar)

    def _with_mean(self, familiar: Familiar, label: int, features: np.ndarray) -> Familiar:
        """With the mean of a class that has one more image."""
        means = familiar.means.copy()
        means[label] += (all_features(features, self._layout.width) - means[label]) / self._counts[label]
        return dataclasses.replace(familiar, means=means)
