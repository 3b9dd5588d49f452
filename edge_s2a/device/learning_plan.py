"""Plans the memory of learning in one pass: the backbone's, and that of the closed form."""

import dataclasses
from typing import NamedTuple

from edge_s2a.artifact.knowledge import Trained
from edge_s2a.codec.features import Layout
from edge_s2a.device.average import average_bytes
from edge_s2a.device.closed_form.form import Form, Kind, choose_form, sums_bytes_of, work_bytes
from edge_s2a.device.load import INFERENCE_BATCH_SIZE, Measurement
from edge_s2a.device.memory.budget import MemoryPlan
from edge_s2a.device.memory.index import NO_INDEX, IndexMemory

IMAGE_BYTES = 192  # of an image's digest, label and place, in several arrays and a table of digests
SMALLEST_BLOCK = 8


class Expected(NamedTuple):
    """What is going to be learned."""

    kept: int  # images whose features are kept
    folded: int  # images that are folded into sums
    folded_groups: int | None  # of the sums; None where there are none
    classes: int
    trained: Trained | None = None  # that answers beside the closed form
    image_index: IndexMemory = NO_INDEX  # of the images that will be read


class LearningPlan(NamedTuple):
    """What runs within a budget."""

    memory: MemoryPlan
    form: Form  # of the closed form, for what is expected

    @property
    def solving_bytes(self) -> int:
        """What the closed form may take, however many images there turn out to be: its share, and what is left."""
        return self.form.bytes + max(0, self.memory.budget_bytes - self.memory.predicted_peak_bytes)


def plan_learning(measurement: Measurement, layout: Layout, expected: Expected, budget_bytes: int) -> LearningPlan:
    """Gives the closed form as many features as there is memory for beside one image at a time, and the images what is
    then left. The plan is not feasible where not even the features of one tap fit."""
    images_bytes = IMAGE_BYTES * (expected.kept + expected.folded)

    def plan(limit_bytes: int, batch_size: int, form_bytes: int) -> MemoryPlan:
        held_bytes = {"images": images_bytes, "closed form": form_bytes} | average_bytes(expected.trained)
        return measurement.plan(limit_bytes, batch_size, held_bytes)

    # What one image at a time takes, and not a byte more.
    available_bytes = budget_bytes - plan(0, 1, 0).predicted_peak_bytes
    smallest = smallest_form(layout, expected)
    form = choose_form(expected.kept, expected.folded_groups, layout, expected.classes, available_bytes) or smallest
    memory = plan(budget_bytes, INFERENCE_BATCH_SIZE, form.bytes)
    least_bytes = plan(0, 1, smallest.bytes).minimum_budget_bytes
    return LearningPlan(dataclasses.replace(memory, minimum_budget_bytes=least_bytes), form)


def smallest_form(layout: Layout, expected: Expected) -> Form:
    """The form that takes least: on the last group of features."""
    kept, classes = expected.kept, expected.classes

    def form(kind: Kind) -> Form:
        sums_bytes = 0 if expected.folded_groups is None else sums_bytes_of(layout, 1)
        return Form(kind, 1, SMALLEST_BLOCK, work_bytes(kind, kept, 1, SMALLEST_BLOCK, layout, classes), sums_bytes)

    forms = [form("primal")] if expected.folded_groups is not None else [form("primal"), form("dual")]
    return min(forms, key=lambda form: form.bytes)
