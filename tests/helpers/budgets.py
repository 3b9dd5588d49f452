"""The training that the tests of one budget share."""

OPTIONS = ["--batch-size", 16, "--threads", 2]


def train_arguments(artifact, data, run, budget, *options) -> list:
    return [
        "train", artifact, "--data", data, "--val-data", data, "--output", run, "--epochs", 1,
        "--memory-budget", budget, *OPTIONS, *options, "--json",
    ]  # fmt: skip
