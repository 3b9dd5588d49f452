"""The device side as a library: `Trainer` for images that a program has, `train` for folders."""

from edge_s2a.device import training_run
from edge_s2a.device.trainer import Evaluation, Prediction, Trainer
from edge_s2a.device.training_loop import TrainingStep
from edge_s2a.options import TrainOptions, accepting

__all__ = ["Evaluation", "Prediction", "Trainer", "TrainingStep", "train"]

train = accepting(TrainOptions)(training_run.train)
