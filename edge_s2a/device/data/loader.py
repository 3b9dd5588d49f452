"""Images in order from one background thread through a bounded queue."""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from edge_s2a.device.data.dataset import Dataset, UnusableImage

Prepared = TypeVar("Prepared")


def stream(
    dataset: Dataset, order: Iterable[int], load: Callable[[int], Prepared], capacity: int
) -> Iterator[tuple[int, Prepared]]:
    """(index, what `load` made of it) for each index of `order` whose image can be read; others go to
    `dataset.skipped` and are not tried again. At most `capacity` images wait in the queue."""
    ready: queue.Queue = queue.Queue(maxsize=capacity)
    stopped = threading.Event()

    def put(item) -> bool:
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for index in order:
                name = str(dataset.samples[index].source)
                if name in dataset.skipped:
                    continue
                try:
                    prepared = load(index)
                except UnusableImage as error:
                    dataset.skipped[name] = str(error)
                    continue
                if not put((index, prepared)):
                    return
            put(None)
        except BaseException as error:  # handed to the consumer, which must not wait for ever
            put(error)

    thread = threading.Thread(target=work, name="edge-s2a loader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
