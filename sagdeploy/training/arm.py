"""An arm of an experiment, and its members trained one after the other."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from sagdeploy.bags.cohort import Cohort
from sagdeploy.config import TrainSettings
from sagdeploy.errors import CohortError, ConfigError
from sagdeploy.training.controls import controlled, in_words
from sagdeploy.training.dataset import Bags, open_bags
from sagdeploy.training.splits import Partition, learning_slides, partitions
from sagdeploy.training.train import Progress, SeedTask, train_seed


@dataclass(frozen=True, slots=True)
class Member:
    """One training of an arm."""

    seed: int
    fold: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Arm:
    """What all members of an arm share; small enough to be handed to another process."""

    cohort: Cohort
    bags: Path
    run: Path
    settings: TrainSettings
    folds: int | None
    threads: int
    ram_bytes: int
    save_every_s: float

    @property
    def name(self) -> str:
        """Model and guidance in words."""
        model, guidance = self.settings.model, self.settings.guidance
        options = ", ".join(f"{key}={value}" for key, value in sorted(model.options.items()))
        scaled = ", standardised" if model.standardise else ""
        return f"{model.name}{f' ({options})' if options else ''}{scaled}, {in_words(guidance)}"

    def open(self, ram_bytes: int | None) -> Bags:
        """The bags that training may know."""
        slides = learning_slides(self.cohort)
        return open_bags(slides, self.bags, classes=self.cohort.classes, ram_bytes=ram_bytes)

    def parts(self) -> tuple[Partition, ...]:
        """One partition, or one a fold; CohortError or ConfigError where none can be trained."""
        share = self.settings.validation_share
        parts = partitions(self.cohort, folds=self.folds, validation_share=share)
        for part in parts:
            if len({slide.label for slide in part.train}) < 2:
                raise CohortError("the training slides are all of one class")
            if not part.validation and self.settings.select_by != "last":
                raise ConfigError(
                    f"select_by {self.settings.select_by!r} needs validation slides",
                    hint='set validation_share above 0, or select_by = "last"',
                )
        return parts


def train_members(arm: Arm, members: Sequence[Member], ram_bytes: int, progress: Progress) -> None:
    """Train some members one after the other, on the same bags in memory."""
    bags, parts = arm.open(ram_bytes), arm.parts()
    with _torch_threads(arm.threads):
        for member in members:
            part = parts[member.fold or 0]
            validation = bags.select(slide.slide_id for slide in part.validation)
            task = SeedTask(
                run=arm.run,
                settings=arm.settings,
                classes=len(arm.cohort.classes),
                train=controlled(
                    bags.select(slide.slide_id for slide in part.train),
                    arm.settings.guidance,
                    seed=member.seed,
                ),
                validation=validation if len(validation) else None,
                seed=member.seed,
                fold=member.fold,
                held_out=tuple(slide.slide_id for slide in part.held_out),
                save_every_s=arm.save_every_s,
            )
            train_seed(task, progress)


@contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
