"""Figures that have a target, by the letters of those that the project has set itself."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """What was reached, and what was to be."""

    name: str
    """P1 to P14, then what it is of."""

    value: float
    target: float
    at_most: bool = False
    spread: tuple[float, float] | None = None
    """Lowest and highest of the rounds that count."""

    @property
    def is_reached(self) -> bool:
        """Whether the target is."""
        return self.value <= self.target if self.at_most else self.value >= self.target

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """Name, value, spread and target in words."""
        spread = f"{self.spread[0]:.3g} to {self.spread[1]:.3g}" if self.spread else ""
        wanted = f"at {'most' if self.at_most else 'least'} {self.target:g}"
        missed = "" if self.is_reached else ", MISSED"
        return self.name, f"{self.value:.3g}", spread, wanted + missed


def as_text(figures: Sequence[Figure]) -> str:
    """Lines of columns."""
    rows = [figure.cells for figure in figures]
    width = max((len(name) for name, *_ in rows), default=0)
    return "\n".join(
        f"  {name:<{width}}{value:>8}  {spread:<16}{wanted}" for name, value, spread, wanted in rows
    )


def as_markdown(figures: Sequence[Figure]) -> str:
    """A table."""
    rows = ("| " + " | ".join(figure.cells) + " |" for figure in figures)
    return "\n".join(["| figure | reached | spread | target |", "|---|---|---|---|", *rows])
