"""Chooses, on calibration images, how saved tensors are coded and which layers compute in int8."""
