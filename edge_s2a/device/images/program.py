"""Reads the images that a program has for a training: a list again and again, any other iterable once."""

import functools
import itertools
import math
import operator
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from edge_s2a.artifact.intensity import Intensity
from edge_s2a.artifact.manifest import Preprocessing
from edge_s2a.device.checkpoint import Position
from edge_s2a.device.data.collate import Collator
from edge_s2a.device.data.decoding import UnusableImage, deep_range, image_of, opened, read_image
from edge_s2a.device.data.intensity import Range, UnusableValues, range_of, rule_for, scaled, some_of
from edge_s2a.device.data.preprocessing import resize_and_crop
from edge_s2a.device.engine.base import Inputs
from edge_s2a.device.evaluate import Evaluation, Logits, evaluate_batches
from edge_s2a.device.runtime import Runtime
from edge_s2a.errors import UserError

ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray
"""A file, a Pillow image, or pixels (height, width, 3) in RGB or (height, width) in grey: uint8, or other real numbers
that `intensity` brings to 8 bits."""
Label = int | str
"""The number of a class, from 0, or its name."""
LabelledImages = Iterable[tuple[ImageLike, Label]]


class Reader:
    """Reads images and labels of any kind for one artifact, and remembers what could not be read."""

    def __init__(self, preprocessing: Preprocessing, classes: list[str], decode_limit_bytes: int):
        self.preprocessing, self.classes, self.decode_limit_bytes = preprocessing, classes, decode_limit_bytes
        self.intensity: Intensity | None = None  # of images of more than 8 bits
        self.reasons: list[str] = []  # a line for each image that could not be read
        self._skipped: dict[str, str] = {}

    def readable(self, images: LabelledImages) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number of the class, pixels as the model takes them) of those that can be read."""
        return ((label, pixels) for _, label, pixels in self._numbered(images))

    def _numbered(self, images: LabelledImages) -> Iterator[tuple[int, int, np.ndarray]]:
        """The same after the place among `images`."""
        for place, item in enumerate(items_of(images)):
            image, label = pair_of(item)
            number = self.number(label)
            try:
                yield place, number, self.pixels(image)
            except UnusableImage as error:
                self.skip(name_of(image), str(error))

    def pixels(self, image: ImageLike) -> np.ndarray:
        """Returns uint8 (height, width, 3). Raises UnusableImage, and UserError for what is no image."""
        if isinstance(image, str | os.PathLike):
            image = read_image(Path(image), self.preprocessing, self.decode_limit_bytes, intensity=self.intensity)
        elif isinstance(image, np.ndarray):
            image = image_of(self._eight_bits(image), self.preprocessing, self.decode_limit_bytes)
        elif isinstance(image, Image.Image):
            image = opened(image, self.preprocessing, self.decode_limit_bytes, self.intensity)
        else:
            raise UserError(f"an image is of type {type(image).__name__}; give a path, a Pillow image or an array")
        return resize_and_crop(image, self.preprocessing)

    def _eight_bits(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 (height, width, 3). Raises UserError where that is not what these pixels are, nor can become."""
        is_grey, is_colour = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[2] == 3
        if pixels.dtype.kind not in "uif" or not (is_grey or is_colour):
            raise UserError(
                f"an image is {pixels.dtype} {pixels.shape}; give uint8 (height, width, 3) in RGB, or (height, width) "
                "in grey"
            )
        if pixels.dtype != np.uint8 and pixels.size:
            try:
                pixels = scaled(pixels, rule_for(range_of(pixels), self.intensity))
            except UnusableValues as error:
                raise UserError(f"an image of {pixels.dtype} {error}") from error
        return np.stack([pixels] * 3, -1).astype(np.uint8) if is_grey else pixels.astype(np.uint8, copy=False)

    def required_pixels(self, image: ImageLike) -> np.ndarray:
        """The same, of an image that cannot be done without: raises UserError if it cannot be read."""
        try:
            return self.pixels(image)
        except UnusableImage as error:
            raise UserError(f"{name_of(image)}: {error}") from error

    def evaluate(self, images: LabelledImages, collator: Collator, logits: Logits) -> Evaluation:
        """Accuracy and loss on labelled images. Raises UserError if none can be read."""
        batches = self.batches(images, collator)
        result = evaluate_batches(logits, (([], inputs, labels) for _, inputs, labels in batches), self.classes)
        if not result["count"]:
            raise UserError(f"no image could be read; skipped: {self.reasons[-3:]}")
        loss = math.nan if result["loss"] is None else result["loss"]
        return Evaluation(result["accuracy"], loss, result["count"], result["balanced_accuracy"], result["recall"])

    def number(self, label: Label) -> int:
        """Returns the number of a class. Raises UserError for one that does not exist, and for what is no label."""
        if isinstance(label, str):
            if label not in self.classes:
                raise UserError(f"class {label!r} is unknown; the classes are {', '.join(self.classes[:20])}")
            return self.classes.index(label)
        try:
            number = operator.index(label)
        except TypeError as error:
            raise UserError(
                f"a label is {shown(label)}; give the number of a class, from 0 to {len(self.classes) - 1}, or its name"
            ) from error
        if isinstance(label, bool) or not 0 <= number < len(self.classes):
            raise UserError(f"label {label} is none of 0 to {len(self.classes) - 1}")
        return number

    def batches(self, images: LabelledImages, collator: Collator) -> Iterator[tuple[list[int], Inputs, np.ndarray]]:
        """Yields (places among `images`, inputs of the engine, labels int (micro-batch,)); inputs are valid until the
        next ones."""
        source = self._numbered(images)
        while part := list(itertools.islice(source, len(collator.batch))):
            for _, _, pixels in part:
                collator.add(pixels)
            yield [place for place, _, _ in part], collator.inputs(), np.array([label for _, label, _ in part])

    def skipped(self) -> dict[str, str]:
        """Returns the images that could not be read, with the reason."""
        return dict(self._skipped)

    def skip(self, name: str, reason: str) -> None:
        self._skipped[name] = reason
        if (line := f"{name}: {reason}") not in self.reasons:
            self.reasons.append(line)


def sequence_of(images: LabelledImages) -> Sequence[tuple[ImageLike, Label]] | None:
    """`images` as a sequence where they can be had by their places, again and again: a list, an array of pairs, and
    what torch calls a map-style dataset; None for what can only be iterated over."""
    if isinstance(images, Sequence):
        return images
    if hasattr(images, "__len__") and hasattr(images, "__getitem__") and not isinstance(images, Mapping):
        return Places(images)
    return None


def items_of(images: LabelledImages) -> Iterable[Any]:
    """Iterates over images of any kind; of a map-style dataset, which need not know where it ends, by its length."""
    sequence = sequence_of(images)
    found = images if sequence is None else sequence
    if isinstance(found, str | bytes | Mapping) or not isinstance(found, Iterable):
        raise UserError(f"images are {shown(images)}; give an iterable of pairs (image, label)")
    return found


def ranges_of_files(images: Sequence[tuple[ImageLike, Label]], limit_bytes: int) -> Iterator[Range]:
    """Yields which values some of the files among them have, where these are images of more than 8 bits."""
    for place in some_of(len(images)):
        image, _ = pair_of(images[place])
        if isinstance(image, str | os.PathLike) and (found := deep_range(Path(image), limit_bytes)) is not None:
            yield found


class Places(Sequence[Any]):
    """A sequence of what has no more of one than a length and places."""

    def __init__(self, images: Any):
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: Any) -> Any:
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self._images[place]


def pair_of(item: Any) -> tuple[ImageLike, Label]:
    """An image and its label. Raises UserError for anything else."""
    try:
        if not isinstance(item, str | bytes):
            image, label = item
            return image, label
    except (TypeError, ValueError):
        pass
    raise UserError(f"among the images there is {shown(item)}; give pairs (image, label)")


def shown(value: Any) -> str:
    """What a value is, in a few words."""
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {value.shape}"
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} of type {type(value).__name__}"


def name_of(image: ImageLike) -> str:
    return os.fspath(image) if isinstance(image, str | os.PathLike) else "an image"


class ProgramImages:
    """The `Images` of a sequence, in another order each pass; batches go on from one pass into the next, and
    an epoch ends with the batch that ends a pass."""

    def __init__(
        self,
        images: Sequence[tuple[ImageLike, Label]],
        reader: Reader,
        runtime: Runtime,
        rng: np.random.Generator,
        batch_size: int,
    ):
        self.images, self.reader, self.runtime = images, reader, runtime
        self.rng, self.batch_size = rng, batch_size
        self.count, self.where = len(images), None
        self.is_exhausted = False
        self._orders = 0  # passes whose order has been drawn
        self._order: list[int] = []  # of the last of them

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """int (images,)"""
        return np.array([self.reader.number(pair_of(item)[1]) for item in self.images])

    def epoch(self, position: Position) -> Generator[tuple[int, np.ndarray], None, None]:
        first_pass, unread = position.epoch, 0
        for read in itertools.count(1):
            while True:
                number, place = divmod(position.images, self.count)
                if number > 0 and (read - 1) % self.batch_size == 0:
                    return
                index = self._order_of(first_pass + number)[place]
                position.images += 1
                image = next(self.reader.readable([self.images[index]]), None)
                unread = 0 if image is not None else unread + 1
                if image is not None:
                    break
                if unread == self.count:
                    self.is_exhausted = True
                    return
            yield image

    def _order_of(self, number: int) -> list[int]:
        """Returns the indices of pass `number`; passes are asked for one after the other, those before the first are
        drawn and dropped: a training that is resumed has made them."""
        while self._orders <= number:
            self._order = self.rng.permutation(self.count).tolist()
            self._orders += 1
        return self._order

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Inputs, np.ndarray]]:
        chosen = (self.images[index] for index in indices)
        for _, inputs, labels in self.reader.batches(chosen, self.runtime.collator):
            yield inputs, labels

    def evaluate(self, predictions: BinaryIO | None = None) -> dict[str, Any]:
        batches = (
            ([str(place) for place in places], inputs, labels)
            for places, inputs, labels in self.reader.batches(self.images, self.runtime.collator)
        )
        return evaluate_batches(self.runtime.logits, batches, self.reader.classes, predictions)

    def skipped(self) -> dict[str, str]:
        return self.reader.skipped()


class StreamedImages:
    """The `Images` of an iterable that is read once, in its order: one epoch of unknown length."""

    count, labels, where = None, None, None

    def __init__(self, images: LabelledImages, reader: Reader):
        self._source = reader.readable(images)
        self.reader = reader
        self.is_exhausted = False

    def epoch(self, position: Position) -> Generator[tuple[int, np.ndarray], None, None]:
        for image in self._source:
            position.images += 1
            yield image
        self.is_exhausted = True

    def batches(self, indices: Sequence[int]) -> Iterator[tuple[Inputs, np.ndarray]]:
        raise UserError("images that are read once cannot be read again; give a sequence")

    def evaluate(self, predictions: BinaryIO | None = None) -> dict[str, Any]:
        raise UserError("images that are read once cannot be read again; give a sequence")

    def skipped(self) -> dict[str, str]:
        return self.reader.skipped()
