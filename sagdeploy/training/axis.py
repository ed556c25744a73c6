"""Sides of a chart: from where to where they reach, and the round numbers along them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sagdeploy.training.metrics import Float64

TICKS = 6
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Axis:
    """What is measured along a side, and from where to where."""

    name: str
    low: float
    high: float
    is_log: bool = False

    def share(self, value: float) -> float:
        """How far along the side a value lies, 0 to 1; a share of its powers on a log axis.

        A log axis has no 0, the weight of a term that an epoch lacks: that lies at its foot.
        """
        if self.is_log:
            value = max(value, self.low)
        low, high, value = (
            math.log10(v) if self.is_log else v for v in (self.low, self.high, value)
        )
        return (value - low) / (high - low)


def axis_of(name: str, values: Sequence[Float64], *, is_log: bool = False) -> Axis:
    """An axis that holds all values, with a little room on both sides; a log axis those above 0."""
    known = np.concatenate([each[np.isfinite(each)] for each in values])
    if is_log and (known > 0).any():
        known = np.log10(known[known > 0])
        return Axis(name, 10 ** (known.min() - 0.1), 10 ** (known.max() + 0.1), is_log=True)
    low, high = float(known.min()), float(known.max())
    room = 0.04 * (high - low) or 0.5
    return Axis(name, low - room, high + room)


def ticks(axis: Axis) -> list[float]:
    """Round numbers along an axis, at most TICKS; powers of ten on a log axis."""
    if axis.is_log:
        powers = range(math.ceil(math.log10(axis.low)), math.floor(math.log10(axis.high)) + 1)
        return [10.0**power for power in powers]
    length = axis.high - axis.low
    power = 10.0 ** math.floor(math.log10(length / TICKS))
    step = next(step * power for step in STEPS if length / (step * power) <= TICKS)
    numbers = range(math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9) + 1)
    return [round(number * step, 12) for number in numbers]
