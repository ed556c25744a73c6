"""Where the versions of a model lie in a Triton repository, and how one is added or swept."""

import json
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from sagdeploy.files import PARTIAL_PREFIX, sha256_of, write_json, write_whole
from sagdeploy.manifest import Manifest, diagnosis_name, extractor_name
from sagdeploy.serving.model_config import FILE_NAME, ModelConfig, config_text, read_config

log = logging.getLogger(__name__)

GRAPH_NAME = "model.onnx"
FOLDER_MODE, FILE_MODE = 0o755, 0o644
"""A server that runs as another user can read it, whatever the umask."""


@dataclass(frozen=True, slots=True)
class Place:
    """The three folders of a model; Triton takes any folder of a repository for a model."""

    repository: Path
    name: str

    @property
    def ensemble(self) -> Path:
        """Holds the manifests, and an empty folder for each version."""
        return self.repository / self.name

    @property
    def extractor(self) -> Path:
        """Holds the graphs from tiles to features."""
        return self.repository / extractor_name(self.name)

    @property
    def diagnosis(self) -> Path:
        """Holds the graphs from features to a diagnosis."""
        return self.repository / diagnosis_name(self.name)

    @property
    def folders(self) -> tuple[Path, Path, Path]:
        """All three, the ensemble last."""
        return self.extractor, self.diagnosis, self.ensemble

    @property
    def journal(self) -> Path:
        """Names the version that is being published, while it is."""
        return self.repository / f".publishing-{self.name}.json"

    def published(self) -> ModelConfig | None:
        """The ensemble's configuration, None before the first publication."""
        path = self.ensemble / FILE_NAME
        return read_config(path) if path.exists() else None

    def manifests(self) -> dict[int, Manifest]:
        """Manifests of the published versions."""
        published = self.published()
        return published.manifests() if published else {}

    def numbers(self) -> set[int]:
        """Versions that any of the three models has, published or not."""
        folders = [path for folder in self.folders if folder.is_dir() for path in folder.iterdir()]
        return {int(path.name) for path in folders if path.name.isdecimal()} | {*self.manifests()}

    def twin(self, sha256: str) -> Path | None:
        """An unharmed graph of a published version that is the same extractor."""
        for number, manifest in self.manifests().items():
            path = self.extractor / str(number) / GRAPH_NAME
            if manifest.extractor.sha256 == sha256 and path.is_file() and sha256_of(path) == sha256:
                return path
        return None


def announce(place: Place, number: int) -> None:
    """Note in the journal that a version is about to be written, and whether it is the first."""
    write_json(place.journal, {"version": number, "first": place.published() is None})


def sweep(place: Place) -> None:
    """Remove what an unfinished publication has left, and nothing else."""
    for folder in (place.repository, *place.folders):
        _remove(*folder.glob(f"{PARTIAL_PREFIX}*"))
    if not place.journal.exists():
        return
    begun = json.loads(place.journal.read_text())
    if begun["version"] not in place.manifests():
        versions = tuple(folder / str(begun["version"]) for folder in place.folders)
        _remove(*(place.folders if begun["first"] else versions))
    place.journal.unlink()


def make_folder(path: Path) -> None:
    """A folder in FOLDER_MODE, unless it is there."""
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)  # another writer may be as far as this one
        path.chmod(FOLDER_MODE)


def write_config(model: Path, config: ModelConfig) -> None:
    """Write or replace a model's configuration, in FILE_MODE, in one step."""
    with write_whole(model / FILE_NAME) as partial:
        partial.write_text(config_text(config), encoding="utf-8")
        partial.chmod(FILE_MODE)


def add_version(model: Path, number: int, graph: Path | None, *, link: bool = False) -> None:
    """A version's folder with its graph, under its name only when it is whole.

    link: let the file have two names rather than copy it
    """
    make_folder(model)
    partial = Path(mkdtemp(dir=model, prefix=PARTIAL_PREFIX))
    partial.chmod(FOLDER_MODE)
    if graph is not None and not (link and _linked(graph, partial / GRAPH_NAME)):
        shutil.copyfile(graph, partial / GRAPH_NAME)
        (partial / GRAPH_NAME).chmod(FILE_MODE)
        _flush(partial / GRAPH_NAME)
    _flush(partial)
    os.rename(partial, model / str(number))
    _flush(model)


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError as error:  # a file system that knows no links
        log.debug("%s is copied, since it cannot be linked: %s", source, error)
        return False
    return True


def _remove(*paths: Path) -> None:
    for path in paths:
        if path.is_dir():
            log.info("removing what an interrupted publication left: %s", path)
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Have a file or folder on the disk, not only in memory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
