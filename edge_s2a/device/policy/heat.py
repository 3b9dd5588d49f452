"""Rests between steps while the device is too hot or short of power, as sysfs tells.

Jetson and Raspberry Pi slow their clocks down by themselves when they are hot or their supply sags, for everything that
runs on them. Resting between steps leaves the others alone.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from edge_s2a.run.schema import RestLine

if TYPE_CHECKING:
    from edge_s2a.device.training_loop import TrainingLoop, TrainingStep

SYSFS = Path("/sys")
# Alarms of the kernel's hardware monitors: under-voltage (Raspberry Pi's rpi_volt) and over-current (Jetson's ina3221).
POWER_ALARMS = ("in*_lcrit_alarm", "curr*_crit_alarm", "curr*_max_alarm")
# Sensors that are switched off say 0 or something far from any temperature.
POSSIBLE_C = (1.0, 150.0)
# A step's rest, in steps: as much at the limit, and as much again for each so many degrees above it.
DEGREES = 2.0
LONGEST_REST_S = 60.0


class Condition(NamedTuple):
    temperature_c: float | None  # of the hottest zone; None where no zone can be read
    is_power_short: bool


class Heat:
    """Sleeps after each step for as long as the device's condition asks for."""

    def __init__(self, limit_c: float, sleep: Callable[[float], None]):
        """limit_c: rest from this temperature on, in degrees Celsius. sleep: takes seconds."""
        self.limit_c, self.sleep = limit_c, sleep

    def after_step(self, loop: "TrainingLoop", step: "TrainingStep") -> None:
        condition = loop.condition
        seconds = rest_s(condition, self.limit_c, step.seconds)
        if seconds:
            position = loop.position
            loop.write(
                RestLine(
                    epoch=position.epoch + 1, step=position.step, seconds=seconds,
                    temperature_c=condition.temperature_c, is_power_short=condition.is_power_short,
                )
            )  # fmt: skip
            self.sleep(seconds)


def read_condition(sysfs: Path = SYSFS) -> Condition:
    zones = [value / 1000 for value in _numbers(sysfs / "class/thermal", "thermal_zone*/temp")]
    zones = [zone for zone in zones if POSSIBLE_C[0] <= zone <= POSSIBLE_C[1]]
    alarms = [value for name in POWER_ALARMS for value in _numbers(sysfs / "class/hwmon", f"hwmon*/{name}")]
    return Condition(max(zones, default=None), any(alarms))


def rest_s(condition: Condition, limit_c: float, step_s: float) -> float:
    """Seconds to rest after a step that took `step_s`: none while all is well; at the limit, or where power is short,
    as long as the step, so that the device works half of the time; longer the hotter it is."""
    shares = [1.0 if condition.is_power_short else 0.0]
    if condition.temperature_c is not None and condition.temperature_c >= limit_c:
        shares.append(1 + (condition.temperature_c - limit_c) / DEGREES)
    return min(LONGEST_REST_S, max(shares) * step_s)


def _numbers(folder: Path, pattern: str) -> list[int]:
    """The integers that the files hold; those that cannot be read are left out, as sensors come and go."""
    numbers = []
    for path in sorted(folder.glob(pattern)):
        try:
            numbers.append(int(path.read_text()))
        except (OSError, ValueError):
            continue
    return numbers
