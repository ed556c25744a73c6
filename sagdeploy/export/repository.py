"""Publish a model into a Triton repository, as a new version, in one step or not at all.

The step is the replacement of the ensemble's `config.pbtxt`. All that it points to is there
before, so whoever reads the folder, at any moment, finds the old version or the new one.
What a killed publication leaves is swept by the next one.
"""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from sagdeploy.errors import ConfigError, ModelError, OutputError, RepositoryError
from sagdeploy.export.layout import (
    Place,
    add_version,
    announce,
    make_folder,
    sweep,
    write_config,
)
from sagdeploy.files import check_name, sha256_of
from sagdeploy.manifest import Manifest, ManifestDraft, diagnosis_name, extractor_name
from sagdeploy.serving.ensemble import diagnosis_config, ensemble_config, extractor_config
from sagdeploy.serving.model_config import FILE_NAME, ModelConfig, read_config

log = logging.getLogger(__name__)

LOCK_NAME = ".publishing.lock"
LOCK_WAIT_S = 60.0


def publish(
    repository: Path,
    draft: ManifestDraft,
    *,
    extractor_onnx: Path,
    diagnosis_onnx: Path,
    version: int | None = None,
) -> Manifest:
    """Add a version of a model to a repository, and return its manifest.

    version: None for the next number; one that exists is refused

    Raises RepositoryError where the model does not fit the versions that are there.
    """
    _check_names(draft.name)
    if sha256_of(extractor_onnx) != draft.extractor.sha256:
        raise ModelError(f"{extractor_onnx}: is not the extractor of the manifest")
    place = Place(repository, draft.name)
    try:
        make_folder(repository)
        with _one_writer(repository):
            newest = max(place.numbers(), default=0)  # before sweeping: no number comes twice
            sweep(place)
            manifest = _manifest(draft, _number(place, version, newest), diagnosis_onnx)
            _check_fit(place, manifest)
            try:
                _write(place, manifest, extractor_onnx, diagnosis_onnx)
            finally:
                sweep(place)
    except OSError as error:
        raise OutputError(
            f"{repository}: cannot be written: {error.strerror or error}",
            hint="free space or choose another --repository",
        ) from error
    log.info("published %s version %d in %s", draft.name, manifest.version, repository)
    return manifest


def _write(place: Place, manifest: Manifest, extractor_onnx: Path, diagnosis_onnx: Path) -> None:
    """Everything that the ensemble's configuration points to, and then itself."""
    number, published = manifest.version, place.published()
    twin = place.twin(manifest.extractor.sha256)
    announce(place, number)
    add_version(place.extractor, number, twin or extractor_onnx, link=twin is not None)
    add_version(place.diagnosis, number, diagnosis_onnx)
    add_version(place.ensemble, number, None)
    if published is None:
        write_config(place.extractor, extractor_config(manifest))
        write_config(place.diagnosis, diagnosis_config(manifest))
    write_config(place.ensemble, ensemble_config(manifest, published))


def _manifest(draft: ManifestDraft, number: int, diagnosis_onnx: Path) -> Manifest:
    fields = {name: getattr(draft, name) for name in ManifestDraft.model_fields}
    return Manifest(**fields, version=number, diagnosis_sha256=sha256_of(diagnosis_onnx))


def _number(place: Place, wanted: int | None, newest: int) -> int:
    """The version to publish: `wanted` if it is free, or one that was never used."""
    if wanted is None:
        return newest + 1
    if wanted < 1:
        raise ConfigError(f"version {wanted}: versions are whole numbers from 1")
    if wanted in place.numbers():
        raise RepositoryError(
            f"{place.ensemble}: version {wanted} exists",
            hint="leave out --version for the next number",
        )
    return wanted


def _check_names(name: str) -> None:
    parts = (extractor_name, diagnosis_name)
    for full in (name, *(part(name) for part in parts)):
        check_name(full, "model")
    if name.endswith(tuple(part("") for part in parts)):
        raise ConfigError(
            f"model {name!r} would be taken for a part of another model",
            hint="choose a --name that does not end so",
        )


def _check_fit(place: Place, manifest: Manifest) -> None:
    """RepositoryError unless the new version has the tensors of those that are there."""
    there = [folder for folder in place.folders if folder.exists()]
    if not there:
        return
    if not place.manifests():
        raise RepositoryError(
            f"{there[0]}: holds a model that sagdeploy did not publish",
            hint="choose another --name",
        )
    for folder, new in (
        (place.extractor, extractor_config(manifest)),
        (place.diagnosis, diagnosis_config(manifest)),
        (place.ensemble, ensemble_config(manifest)),
    ):
        _check_tensors(new, read_config(folder / FILE_NAME))


def _check_tensors(new: ModelConfig, old: ModelConfig) -> None:
    differing = {*new.inputs, *new.outputs} ^ {*old.inputs, *old.outputs}
    if differing:
        names = ", ".join(sorted(str(tensor) for tensor in differing))
        raise RepositoryError(
            f"{new.name}: the new version does not fit the published ones: {names}",
            hint="publish it under another --name, or into a fresh --repository",
        )


@contextmanager
def _one_writer(repository: Path) -> Iterator[None]:
    try:
        with FileLock(repository / LOCK_NAME, timeout=LOCK_WAIT_S):
            yield
    except Timeout as error:
        raise OutputError(
            f"{repository}: another export is writing into it", hint="wait for it to end"
        ) from error
