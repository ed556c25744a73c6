"""Nuclei, drawn once and stamped many times."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sagdeploy.slides.anatomy import KINDS
from sagdeploy.slides.textures import smoothed

SHAPES = 64
"""Different nuclei of a kind; number k lies at k / SHAPES of a half turn."""


@dataclass(frozen=True, slots=True)
class NucleusLook:
    """What the nuclei of one kind of cell have in common."""

    diameter_um: float
    spread: float
    """Standard deviation of the diameter, as a share of it."""

    elongation: float
    """Length over width."""

    darkness: float
    """Optical density of the haematoxylin, where chromatin is even."""

    clumps: float
    """Contrast of the chromatin's texture."""

    clump_um: float
    """Size of the chromatin's grains."""

    wobble: float
    """Unevenness of the outline."""

    nucleolus: float
    """Optical density of the nucleolus above that of the chromatin."""


LOOKS = {
    "stroma": NucleusLook(5.2, 0.17, 4.4, 1.25, 0.14, 0.6, 0.06, 0.0),
    "lymphocyte": NucleusLook(5.9, 0.08, 1.10, 1.60, 0.26, 0.7, 0.03, 0.0),
    "epithelium": NucleusLook(6.6, 0.12, 1.40, 0.95, 0.20, 0.6, 0.05, 0.2),
}
_MILD = NucleusLook(6.3, 0.05, 1.15, 0.70, 0.12, 0.55, 0.02, 0.05)
_SEVERE = NucleusLook(11.4, 0.22, 1.45, 1.22, 0.36, 0.95, 0.09, 1.0)


def lesion_look(grade: float) -> NucleusLook:
    """Nuclei of the lesion, from small, pale and alike (0) to large, dark and unlike (1)."""
    pairs = zip(_fields(_MILD), _fields(_SEVERE), strict=True)
    return NucleusLook(*(mild + grade * (severe - mild) for mild, severe in pairs))


def lesion_spacing_um(grade: float) -> float:
    """Distance between neighbouring cells of the lesion."""
    return 9.0 + 4.0 * grade


def look_of(kind: str, grade: float) -> NucleusLook:
    """Look of a kind's nuclei; the grade matters to the lesion's alone."""
    return lesion_look(grade) if kind == "lesion" else LOOKS[kind]


@lru_cache(maxsize=32)
def draw_nuclei(look: NucleusLook, mpp: float, seed: int) -> NDArray[np.float32]:
    """Stamps of one look: (SHAPES, 2, side, side), side odd.

    Of the two planes the first is how much of a pixel is nucleus, the second its optical
    density of haematoxylin.
    """
    rng = np.random.default_rng(seed)
    reach = look.diameter_um / mpp * (1 + 2 * look.spread) * np.sqrt(look.elongation) / 2
    half = int(np.ceil(reach * (1 + 2 * look.wobble))) + 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1] * 1.0
    size = np.clip(rng.normal(1, look.spread, SHAPES), 1 - 2 * look.spread, 1 + 2 * look.spread)
    radius = (size * look.diameter_um / mpp / 2)[:, None, None]
    angle = (np.arange(SHAPES) * np.pi / SHAPES)[:, None, None]
    u, v = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    stretch = np.sqrt(look.elongation * rng.uniform(0.9, 1.1, (SHAPES, 1, 1)))
    u, v = u / (radius * stretch), v * stretch / radius
    around = np.arctan2(v, u)
    rim = np.ones_like(u)
    for wave in (2, 3, 4):
        phase = rng.uniform(0, 2 * np.pi, (SHAPES, 1, 1))
        rim += 2 * look.wobble / wave * np.cos(wave * around + phase)
    inside = (1 - np.hypot(u, v) / rim) * radius  # pixels below the membrane
    body = np.clip(inside / 1.6 + 0.5, 0, 1)
    grains = smoothed(
        rng.standard_normal(u.shape), along_px=look.clump_um / mpp, across_px=look.clump_um / mpp
    )
    membrane = np.exp(-((inside - 1) ** 2) / 1.5)
    density = 1 + look.clumps * (grains + 0.8 * membrane)
    density *= look.darkness * rng.normal(1, 0.4 * look.clumps, (SHAPES, 1, 1)).clip(0.6, 1.6)
    spot = rng.uniform(-0.35, 0.35, (2, SHAPES, 1, 1))
    nearness = (u - spot[0]) ** 2 + (v - spot[1]) ** 2
    density += look.nucleolus * np.exp(-nearness / 0.045)
    return np.stack([body, body * density.clip(0.1, 2.6)], axis=1).astype(np.float32)


def shape_of(turn: NDArray[np.float64]) -> NDArray[np.int64]:
    """Which stamp lies in a direction given in half turns, (N,)."""
    return (turn * SHAPES).astype(np.int64)


def stamps(grade: float, mpp: float) -> tuple[NDArray[np.float32], ...]:
    """Stamps of every kind of cell, in the order of KINDS."""
    return tuple(draw_nuclei(look_of(kind, grade), mpp, seed) for seed, kind in enumerate(KINDS))


def _fields(look: NucleusLook) -> tuple[float, ...]:
    return tuple(getattr(look, name) for name in NucleusLook.__dataclass_fields__)
