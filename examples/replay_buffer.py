"""Learns new classes without forgetting old ones: a bounded buffer keeps some images of every class, and each step
trains on a random batch of the buffer while new images arrive.

    python examples/replay_buffer.py model.s2a --data photos --memory-budget 192MiB

DATA/{train,val}/<class>/* arrive in two phases: first all images of one half of the classes, then all of the other.
With --capacity 0 every step trains on the newest images alone, to compare.
"""

import argparse
import random
from collections import Counter
from pathlib import Path

from edge_s2a import Trainer

Labelled = tuple[Path, str]


class ReplayBuffer:
    """At most `capacity` images, about as many of each class. A full buffer drops one of the most frequent class."""

    def __init__(self, capacity: int, seed: int = 0):
        self.images: list[Labelled] = []
        self._capacity, self._random = capacity, random.Random(seed)

    def add(self, image: Labelled) -> None:
        self.images.append(image)
        if len(self.images) > self._capacity:
            counts = Counter(name for _, name in self.images)
            most = max(counts.values())
            crowded = [index for index, (_, name) in enumerate(self.images) if counts[name] == most]
            del self.images[self._random.choice(crowded)]

    def sample(self, count: int) -> list[Labelled]:
        return self._random.sample(self.images, min(count, len(self.images)))


def images_of(folder: Path, classes: list[str]) -> list[Labelled]:
    return [(path, name) for name in classes for path in sorted((folder / name).iterdir())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", help="a file that edge-s2a pack wrote")
    parser.add_argument("--data", type=Path, required=True, help="DATA/{train,val}/<class>/*")
    parser.add_argument("--memory-budget", default="auto", help="for the whole process (default: %(default)s)")
    parser.add_argument("--capacity", type=int, default=100, help="images in the buffer (default: %(default)s)")
    parser.add_argument("--arrivals", type=int, default=4, help="new images per step (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=16, help="images per step (default: %(default)s)")
    parser.add_argument("--lr", type=float, default=3e-3, help="learning rate (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("replay.safetensors"), help="the adapter to write")
    options = parser.parse_args()
    classes = sorted(path.name for path in (options.data / "train").iterdir())
    old, new = classes[: len(classes) // 2], classes[len(classes) // 2 :]
    trainer = Trainer(
        options.artifact, memory_budget=options.memory_budget, batch_size=options.batch_size, lr=options.lr,
        classes=classes,
    )  # fmt: skip
    buffer = ReplayBuffer(options.capacity)
    for phase, arriving in (("old classes arrive", old), ("new classes arrive", new)):
        images = images_of(options.data / "train", arriving)
        random.Random(0).shuffle(images)
        for number, image in enumerate(images, 1):
            buffer.add(image)
            newest = images[max(0, number - options.batch_size) : number]
            if number == options.batch_size:  # classes are new: the head starts at the class means of what is there
                trainer.start(buffer.images or newest)
            elif number > options.batch_size and number % options.arrivals == 0:
                trainer.step(buffer.sample(options.batch_size) or newest)
        accuracies = [trainer.evaluate(images_of(options.data / "val", names)).accuracy for names in (old, new)]
        print(f"{phase}: accuracy {accuracies[0]:.3f} on old classes, {accuracies[1]:.3f} on new ones")
    trainer.save(options.output)
    print(f"buffer: {len(buffer.images)} images, {dict(sorted(Counter(name for _, name in buffer.images).items()))}")


if __name__ == "__main__":
    main()
