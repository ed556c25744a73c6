"""How far probabilities can be believed, and the temperature that makes them believable."""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

TEMPERATURE_SD = 0.5
"""Of the prior on the logarithm of a temperature: most models need 0.4 to 2.7."""

TEMPERATURES = (0.05, 20.0)
"""Between which the temperature is sought."""

Float64 = NDArray[np.float64]


def calibrated(logits: Float64, temperature: float) -> Float64:
    """(n, C) probabilities of (n, C) logits at a temperature."""
    probabilities: Float64 = softmax(logits / temperature, axis=1)
    return probabilities


def fit_temperature(logits: Float64, labels: NDArray[np.intp]) -> float:
    """The temperature at which validation slides are most likely, held near 1 by a few.

    The prior on its logarithm is normal around 0: ten slides, nine of them right, do not make
    a model certain, while it is nothing beside hundreds. 1 where every slide is right: the
    likelihood then only grows with the confidence, and the slides say nothing about how
    confident to be.
    """
    if not len(labels) or (logits.argmax(axis=1) == labels).all():
        return 1.0

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=1)
        likelihood = scaled[np.arange(len(labels)), labels].sum()
        return float(log_temperature**2 / (2 * TEMPERATURE_SD**2) - likelihood)

    bounds = tuple(np.log(TEMPERATURES))
    return float(np.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x))
