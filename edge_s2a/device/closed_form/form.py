"""Chooses the form in which the ridge problem is solved, within the memory that there is."""

from dataclasses import dataclass
from typing import Literal

from edge_s2a.codec.features import Layout
from edge_s2a.device.closed_form.calibration import BLOCK_VALUES
from edge_s2a.device.closed_form.sweep import invert_bytes, matrix_bytes

# More rows at once are no faster; with fewer, products are slow.
BLOCKS = (256, 128, 64, 32, 16, 8)
MOST_LEFT_OUT = 2048  # images, of those that are kept; the accuracy of as many is known to 1 point
DRAWS_AT_ONCE = 50  # for them
MOST_DRAWN = 256  # images, of those that are left out, that thresholds for drift are drawn from
SCORING_ARRAYS = 5  # of exponentials and their products, at once
FIXED_BYTES = 1 << 18  # small arrays, and the buffers of ufuncs


Kind = Literal["dual", "primal"]


@dataclass(frozen=True)
class Form:
    """How `solve` computes."""

    kind: Kind  # inverts images x images, or features x features
    groups: int  # uses the features of the last groups of the taps
    block_rows: int  # rows and columns of matrices, and images, that are computed at once
    work_bytes: int  # that `solve` allocates at most
    sums_bytes: int = 0  # of the sums of folded images, which are in memory beside that

    @property
    def bytes(self) -> int:
        """All that the solution takes."""
        return self.work_bytes + self.sums_bytes


def choose_form(
    kept: int, folded_groups: int | None, layout: Layout, classes: int, available_bytes: int
) -> Form | None:
    """The form that uses most features within `available_bytes`, in the largest blocks; None if no form fits.

    Dual while there are no more images than features and none is folded, otherwise primal, unless only the other one
    fits. Where neither fits with all features, those of the earliest blocks of the backbone are left out first.

    kept: images whose features are kept. folded_groups: Folded.groups, or None if no image is folded.
    """
    for groups in range(len(layout.taps) if folded_groups is None else folded_groups, 0, -1):
        columns = layout.width - layout.first_column(groups)
        kinds: tuple[Kind, ...] = ("dual", "primal") if kept <= columns else ("primal", "dual")
        form = form_of(kinds, kept, groups, folded_groups is not None, layout, classes, available_bytes)
        if form is not None:
            return form
    return None


def form_of(
    kinds: tuple[Kind, ...], kept: int, groups: int, is_folded: bool, layout: Layout, classes: int, available_bytes: int
) -> Form | None:
    """The first of `kinds` that fits with the features of the last `groups` groups, in the largest blocks; None if none
    does. Sums of folded images have the primal form alone."""
    sums_bytes = sums_bytes_of(layout, groups) if is_folded else 0
    for kind in ("primal",) if is_folded else kinds:
        for block_rows in BLOCKS:
            needed = work_bytes(kind, kept, groups, block_rows, layout, classes)
            if needed + sums_bytes <= available_bytes:
                return Form(kind, groups, block_rows, needed, sums_bytes)
    return None


def sums_bytes_of(layout: Layout, groups: int) -> int:
    """Bytes of the packed triangle of the sums over the features of the last `groups` groups."""
    columns = layout.width - layout.first_column(groups)
    return 8 * (columns * (columns + 1) // 2)


def work_bytes(kind: str, kept: int, groups: int, block_rows: int, layout: Layout, classes: int) -> int:
    """What `solve` allocates at most: what it holds, and the largest of what each of its steps needs beside it."""
    columns = layout.width - layout.first_column(groups)
    size = kept if kind == "dual" else columns
    rows, width = min(block_rows, kept), min(block_rows, size)
    left_out = min(kept, MOST_LEFT_OUT)
    outputs, scores, weight = 8 * kept * classes, 8 * left_out * classes, 8 * columns * classes
    block = 8 * rows * columns
    # One block as codes and float32, or as float32 and float64; the one before it is still there.
    cut = 2 * columns if layout.format == "float16" and groups < len(layout.taps) else 0
    reading = rows * max(layout.row_bytes + cut + 4 * columns, 12 * columns) + (block if kept > rows else 0)
    scoring = SCORING_ARRAYS * 8 * min(max(BLOCK_VALUES, classes), left_out * classes) + 5 * 8 * left_out
    matrix = matrix_bytes(size, block_rows)
    if kind == "dual":
        solution, targets = outputs + scores, outputs
        summing = [block + reading, 8 * width * (2 * width + columns)]
        leaving_out = max(2 * outputs, solution)
        ending = 2 * weight + reading
    else:
        solution, targets = weight + scores, weight
        summing = [max(reading, block + 2 * 8 * width * columns)]
        leaving_out = max(2 * weight, solution + max(reading, 3 * block))
        ending = 0
    inverting = max(invert_bytes(size, block_rows), leaving_out)
    steps = [*summing, targets + solution + max(inverting, scoring, ending)]
    # Afterwards, without the matrix: the head, and passes over what is left out.
    head = 2 * weight + 4 * classes * layout.width
    drawn = min(left_out, MOST_DRAWN)
    chunk = 8 * min(rows, drawn) * columns
    chunks = (3 if drawn > rows else 2) * chunk + 8 * min(rows, drawn) ** 2
    residuals = 8 * drawn * drawn + max(chunks, 8 * DRAWS_AT_ONCE * 3 * drawn)
    describing = scores + weight + max(weight + block + reading, weight + residuals + reading, head)
    standard = weight + 7 * 8 * columns
    return standard + max(matrix + max(*steps, 2 * weight), head + describing, weight + reading) + FIXED_BYTES
