"""Labelled bags for training and evaluation: read once, and checked to be of one kind."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sagdeploy.bags.bag import Bag, BagHeader
from sagdeploy.bags.bagfile import mapped
from sagdeploy.bags.cohort import CohortSlide
from sagdeploy.bags.interchange import load_bag, load_header
from sagdeploy.errors import BagError, CohortError
from sagdeploy.manifest import ExtractorCard
from sagdeploy.slides.tiling import TilePlan, Tiles

RAM_BYTES = 4 * 2**30
"""Bags that take more than this on disk are mapped from there, not held."""

SHOWN = 20
"""Slides that an error names; the others are counted."""

Coverage = NDArray[np.float64] | None


@dataclass(frozen=True, slots=True, eq=False)
class LabelledBag:
    """One slide as a model sees it, with what is known about it; one entry a magnification."""

    slide_id: str
    patient_id: str
    label: int
    """Index of its class."""

    tiles: tuple[Tiles | None, ...]
    """None where other software does not say where they lie."""

    features: tuple[Tensor, ...]
    """(N, E) float32"""

    heuristic_guidance: tuple[Tensor, ...]
    """(N,) HG of Eq. 3; all 0 where absent."""

    tissue_guidance: tuple[Tensor, ...]
    """(N,) TG of Eq. 3; all 0 where absent."""

    heuristic_coverage: tuple[Coverage, ...]
    """(N,) share of each tile; only for measuring attention."""

    tissue_coverage: tuple[Coverage, ...]

    soft_label: tuple[float, ...] = ()
    """Shares of the classes, which teach in the label's place; empty where there are none."""


@dataclass(frozen=True, slots=True, eq=False)
class BagSource:
    """Where a labelled bag comes from: memory, a file that is mapped there, or its file."""

    slide: CohortSlide
    label: int
    path: Path
    slide_sha256: str | None
    """Of the slide's file; None, as is its mpp, where other software does not say."""

    slide_mpp: float | None
    slide_size_l0: tuple[int, int] | None = None
    loaded: LabelledBag | None = None
    heuristic_guidance: tuple[Tensor, ...] | None = None
    """Takes the place of the bag's own in an arm of control."""

    def load(self, *, whole: bool) -> "BagSource":
        """The source with its bag at hand: whole, or mapped from its file where that can be."""
        bag = load_bag(self.path)
        kept = bag if whole else mapped(self.path, bag)
        return replace(self, loaded=_labelled(kept, self.slide, self.label)) if kept else self

    def read(self) -> LabelledBag:
        """The bag, without looking at the disk where it is at hand."""
        bag = self.loaded or _labelled(load_bag(self.path), self.slide, self.label)
        if self.heuristic_guidance is None:
            return bag
        return replace(bag, heuristic_guidance=self.heuristic_guidance)


@dataclass(frozen=True, slots=True, eq=False)
class Bags:
    """The bags of some slides, in the order of their ids whatever the cohort's order."""

    sources: tuple[BagSource, ...]
    plan: TilePlan | None
    """None for features of other software, which does not say how it cuts slides."""

    extractor: ExtractorCard
    origin: str = ""
    """Which other software made the features."""

    def __len__(self) -> int:
        return len(self.sources)

    def __getitem__(self, index: int) -> LabelledBag:
        return self.sources[index].read()

    def __iter__(self) -> Iterator[LabelledBag]:
        return (source.read() for source in self.sources)

    @property
    def magnifications(self) -> int:
        """S, how many magnifications a slide is read at; other software has one."""
        return len(self.plan.mpp) if self.plan else 1

    @property
    def slide_ids(self) -> tuple[str, ...]:
        """Ids of the slides, without reading their bags."""
        return tuple(source.slide.slide_id for source in self.sources)

    @property
    def labels(self) -> tuple[int, ...]:
        """Classes of the slides, without reading their bags."""
        return tuple(source.label for source in self.sources)

    def select(self, slide_ids: Iterable[str]) -> "Bags":
        """These slides only, sharing what is loaded."""
        wanted = set(slide_ids)
        chosen = tuple(s for s in self.sources if s.slide.slide_id in wanted)
        return replace(self, sources=chosen)


def open_bags(
    slides: Sequence[CohortSlide],
    folder: Path,
    *,
    classes: Sequence[str],
    ram_bytes: int | None = RAM_BYTES,
) -> Bags:
    """The bags of `slides` in `folder`, in memory if they take at most `ram_bytes`.

    Others are mapped from their files, once checked; what is not ours is read again each time,
    and so is all where `ram_bytes` is None, for who wants to know of them and not to learn.
    They are ours, or feature files of TRIDENT, CLAM or STAMP with the slides' ids for names.

    CohortError where a slide has no class; BagError where bags are missing, or do not share
    extractor, plan and feature length. No other file of the folder is opened.
    """
    if not slides:
        raise CohortError("no slide to open a bag of", hint="look at the cohort's column split")
    ordered = sorted(slides, key=lambda slide: slide.slide_id)
    labels = _labels(ordered, classes)
    paths = [folder / f"{slide.slide_id}.h5" for slide in ordered]
    missing = [s.slide_id for s, path in zip(ordered, paths, strict=True) if not path.is_file()]
    if missing:
        raise BagError(
            f"{folder}: {len(missing)} of {len(ordered)} slides have no bag: {_listed(missing)}",
            hint=f"run sagdeploy extract COHORT.csv --out {folder}",
        )
    headers = [load_header(path) for path in paths]
    _check_alike(headers, folder)
    sources = [
        BagSource(slide, label, path, header.slide_sha256, header.mpp, header.slide_size_l0)
        for slide, label, path, header in zip(ordered, labels, paths, headers, strict=True)
    ]
    if ram_bytes is not None:
        fits = sum(path.stat().st_size for path in paths) <= ram_bytes
        sources = [source.load(whole=fits) for source in sources]
    return Bags(
        sources=tuple(sources),
        plan=headers[0].plan,
        extractor=headers[0].extractor,
        origin=headers[0].origin,
    )


def extractor_kind(card: ExtractorCard) -> str:
    """What tells extractors apart: the hash, or where that is not known, the name."""
    return f"{card.sha256 or card.name} {card.features}"


def _labelled(bag: Bag, slide: CohortSlide, label: int) -> LabelledBag:
    magnifications = bag.magnifications
    if not all(map(len, magnifications)):
        raise BagError(
            f"{slide.slide_id}: its bag has no tiles", hint="take the slide out of the cohort"
        )
    return LabelledBag(
        slide_id=slide.slide_id,
        patient_id=slide.patient_id,
        label=label,
        tiles=tuple(each.tiles for each in magnifications),
        features=tuple(torch.from_numpy(each.features) for each in magnifications),
        heuristic_guidance=tuple(
            torch.from_numpy(each.heuristic_guidance) for each in magnifications
        ),
        tissue_guidance=tuple(torch.from_numpy(each.tissue_guidance) for each in magnifications),
        heuristic_coverage=tuple(each.heuristic_coverage for each in magnifications),
        tissue_coverage=tuple(each.tissue_coverage for each in magnifications),
        soft_label=slide.soft_label,
    )


def _labels(slides: Sequence[CohortSlide], classes: Sequence[str]) -> list[int]:
    unknown = [slide.slide_id for slide in slides if slide.label not in classes]
    if unknown:
        raise CohortError(
            f"{len(unknown)} slides have a label that is none of {', '.join(classes)}: "
            f"{_listed(unknown)}",
            hint="mend the cohort's column label",
        )
    return [classes.index(slide.label) for slide in slides if slide.label is not None]


def _check_alike(headers: Sequence[BagHeader], folder: Path) -> None:
    extractors = [extractor_kind(header.extractor) for header in headers]
    plans = [f"{header.plan} {header.origin}" for header in headers]
    for what, kinds in [("extractor", extractors), ("tile plan", plans)]:
        pairs = zip(headers, kinds, strict=True)
        odd = [header.slide_id for header, kind in pairs if kind != kinds[0]]
        if odd:
            raise BagError(
                f"{folder}: bags of more than one {what}: {_listed(odd)} differ from "
                f"{headers[0].slide_id}",
                hint="run sagdeploy extract again for the whole cohort",
            )


def _listed(slide_ids: Sequence[str]) -> str:
    more = len(slide_ids) - SHOWN
    return ", ".join(slide_ids[:SHOWN]) + (f" and {more} more" if more > 0 else "")
