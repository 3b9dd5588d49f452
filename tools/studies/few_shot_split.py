"""Make a few-shot ImageFolder of symbolic links: N training images a class, validation as it is.

    python -m tools.studies.few_shot_split SOURCE OUTPUT --per-class 20

SOURCE has {train,val}/<class>/ or <class>/ alone; then the rest of each class becomes validation. File
names are sorted and shuffled with random.Random(0), so that every study takes the same images.
"""

import argparse
import random
from pathlib import Path


def split_class(folder: Path, per_class: int, seed: int = 0) -> tuple[list[Path], list[Path]]:
    """(first `per_class` images of the shuffled folder, the rest)."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    random.Random(seed).shuffle(files)
    return files[:per_class], files[per_class:]


def link(files: list[Path], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        target = folder / file.name
        if not target.is_symlink():
            target.symlink_to(file.resolve())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--per-class", type=int, default=20)
    arguments = parser.parse_args()
    has_split = (arguments.source / "train").is_dir()
    source = arguments.source / "train" if has_split else arguments.source
    for folder in sorted(path for path in source.iterdir() if path.is_dir()):
        train, rest = split_class(folder, arguments.per_class)
        val = sorted((arguments.source / "val" / folder.name).iterdir()) if has_split else rest
        link(train, arguments.output / "train" / folder.name)
        link(val, arguments.output / "val" / folder.name)
        print(f"{folder.name}: {len(train)} train, {len(val)} val")


if __name__ == "__main__":
    main()
