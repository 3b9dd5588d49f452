"""Loads images in order, in one background thread, through a bounded queue."""

import queue
import threading
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

from edge_s2a.device.data.dataset import Dataset
from edge_s2a.device.data.decoding import UnusableImage

Prepared = TypeVar("Prepared")


def stream(
    dataset: Dataset, order: Iterable[int], load: Callable[[int], Prepared], capacity: int
) -> Generator[tuple[int, int, Prepared], None, None]:
    """Yields (place in `order`, index, load(index)) for each index of `order` whose image can be read; the others go to
    `dataset.skipped` and are not tried again. At most `capacity` images wait in the queue. Raises what `load` raises,
    but for UnusableImage."""
    ready: queue.Queue[tuple[int, int, Prepared] | BaseException | None] = queue.Queue(maxsize=capacity)
    stopped = threading.Event()

    def put(item: tuple[int, int, Prepared] | BaseException | None) -> bool:
        """Waits for room; False if the consumer has gone."""
        while not stopped.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for place, index in enumerate(map(int, order)):
                if dataset.is_skipped(index):
                    continue
                try:
                    prepared = load(index)
                except UnusableImage as error:
                    dataset.skip(index, str(error))
                    continue
                if not put((place, index, prepared)):
                    return
            put(None)
        except BaseException as error:  # for the consumer, which must not wait forever
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


def queue_capacity(batch: int) -> int:
    """Images that wait in the loader's queue, at most, for micro-batches of `batch`."""
    return batch + 1
