"""The folder that Triton serves, answered in this process by ONNX Runtime.

An engine may be used from several threads, and callers are to use that: an extractor runs
on one thread a call, which gives more tiles a second than one call on all cores.
"""

import hashlib
import logging
import threading
from collections.abc import Collection, Sequence
from pathlib import Path

from sagdeploy.errors import ModelError, RepositoryError
from sagdeploy.files import SAFE_NAME, sha256_of
from sagdeploy.manifest import Manifest, diagnosis_name, extractor_name
from sagdeploy.serving.engine import ON_CORES, Arrays, Pace, arrived
from sagdeploy.serving.ensemble import diagnosis_config, extractor_config
from sagdeploy.serving.model_config import (
    FILE_NAME,
    ModelConfig,
    check_batch,
    check_graph,
    check_inputs,
    read_config,
)
from sagdeploy.serving.runtime import CPU, VERSION, Graph, load_graph, providers

log = logging.getLogger(__name__)

ON_GPU = Pace(batch_tiles=128, in_flight=2)

LARGE_BAG_BYTES = 16 << 20
"""Features that took the extractor so long that to load it once more is nothing. It keeps about
ten times as much for itself."""


class LocalEngine:
    """The models of a repository, as they were when first asked for."""

    def __init__(self, repository: Path) -> None:
        if not repository.is_dir():
            raise RepositoryError(
                f"{repository}: no model repository",
                hint="name one with --repository, or a server with --server",
            )
        self._repository = repository
        self._lock = threading.RLock()
        self._configs: dict[str, ModelConfig] = {}
        self._manifests: dict[str, dict[int, Manifest]] = {}
        self._graphs: dict[tuple[str, int], Graph] = {}

    def __reduce__(self) -> tuple[object, ...]:
        """Where it is, and what is published there now, for another process."""
        return arrived, (_as_published, self._repository.absolute(), _published(self._repository))

    @property
    def name(self) -> str:
        """Version and device."""
        return _name()

    @property
    def description(self) -> str:
        """Version, device and folder."""
        return f"{self.name}, {self._repository}"

    def pace(self, model: str, version: int | None = None) -> Pace:
        """The GPU's, or what was measured on cores at export."""
        measured = self.manifest(_ensemble_of(model), version).pace
        if measured is None or not _is_on_cores():
            return _usual_pace()
        return Pace(measured.batch_tiles, in_flight=0 if measured.threads else 1)

    def ensemble_tiles(self, model: str) -> int:
        """None: batches on all cores beat one request with the whole bag."""
        return 0

    def models(self) -> tuple[str, ...]:
        """Names of the ensembles that `export` has written."""
        names = sorted(path.parent.name for path in self._repository.glob(f"*/{FILE_NAME}"))
        return tuple(name for name in names if self._manifests_of(name))

    def manifest(self, model: str, version: int | None = None) -> Manifest:
        """Manifest of a version, or of the one that is served as an ensemble."""
        manifests = self._manifests_of(model)
        if not manifests:
            raise RepositoryError(
                f"{self._repository / model}: carries no manifest",
                hint="name a model that `sagdeploy export` has written",
            )
        return manifests[_choose(model, version, manifests, self._served(model))]

    def is_ready(self, model: str) -> bool:
        """Whether the model loads, its steps included; the log says why if it does not."""
        try:
            self._load(model)
        except ModelError as error:
            log.warning("%s is not ready: %s", model, error)
            return False
        return True

    def infer(self, model: str, inputs: Arrays, *, version: int | None = None) -> Arrays:
        """All outputs of a model; an ensemble runs its steps as its configuration has them.

        As in Triton, an ensemble answers for its latest version only: for an older one ask
        its extractor and diagnosis, which keep all versions.
        """
        config = self._config(model)
        check_inputs(model, config.inputs, inputs)
        if not config.steps:
            return self._run(model, version, inputs)
        served = self._served(model)
        _choose(model, version, served, served)
        return self._run_steps(config, inputs)

    def close(self) -> None:
        """Forget the loaded graphs."""
        with self._lock:
            self._graphs.clear()

    def _run_steps(self, config: ModelConfig, inputs: Arrays) -> Arrays:
        tensors, waiting = dict(inputs), list(config.steps)
        while waiting:
            ready = [step for step in waiting if tensors.keys() >= set(step.inputs.values())]
            if not ready:
                raise ModelError(f"{config.name}: no step gives what {waiting[0].model} needs")
            step = ready[0]
            waiting.remove(step)
            given = {name: tensors[source] for name, source in step.inputs.items()}
            outputs = self._run(step.model, step.version, given)
            tensors |= {target: outputs[name] for name, target in step.outputs.items()}
        return {tensor.name: tensors[tensor.name] for tensor in config.outputs}

    def _run(self, model: str, version: int | None, inputs: Arrays) -> Arrays:
        check_batch(self._config(model), inputs)
        graph = self._graph(model, version)
        if model.endswith(diagnosis_name("")) and _is_large(inputs):
            self._forget_all_but(graph)
        return graph.run(inputs)

    def _forget_all_but(self, graph: Graph) -> None:
        """Give back the memory of other graphs, until they are asked again."""
        with self._lock:
            self._graphs = {key: kept for key, kept in self._graphs.items() if kept is graph}

    def _load(self, model: str) -> None:
        steps = self._config(model).steps
        for part, number in [(s.model, s.version) for s in steps] or [(model, None)]:
            self._graph(part, number)

    def _graph(self, model: str, version: int | None) -> Graph:
        """The graph of a version, loaded once and checked against its manifest."""
        served = self._served(model)
        chosen = _choose(model, version, served, served)
        with self._lock:
            if (model, chosen) not in self._graphs:
                self._graphs[model, chosen] = self._open(model, chosen)
            return self._graphs[model, chosen]

    def _open(self, model: str, version: int) -> Graph:
        manifest = self._manifests_of(_ensemble_of(model))[version]
        config = self._config(model)
        if model == extractor_name(manifest.name):
            expected, sha256 = extractor_config(manifest), manifest.extractor.sha256
            threads = manifest.pace.threads if manifest.pace else 1
        else:
            expected, sha256, threads = diagnosis_config(manifest), manifest.diagnosis_sha256, 0
        if (config.inputs, config.outputs) != (expected.inputs, expected.outputs):
            raise ModelError(
                f"{model}: {FILE_NAME} does not fit the manifest of version {version}",
                hint="publish under another --name, or export into a fresh repository",
            )
        path = self._repository / model / str(version) / config.graph_name
        graph = load_graph(path, threads=threads, sha256=sha256)
        check_graph(config, inputs=graph.inputs, outputs=graph.outputs)
        return graph

    def _served(self, model: str) -> tuple[int, ...]:
        """Versions of a model that were published whole and that its configuration serves."""
        versions = self._manifests_of(_ensemble_of(model))
        return self._config(model).served(versions)

    def _config(self, model: str) -> ModelConfig:
        with self._lock:
            if model not in self._configs:
                if not SAFE_NAME.fullmatch(model):
                    raise RepositoryError(f"{self._repository}: no model is called {model!r}")
                self._configs[model] = read_config(self._repository / model / FILE_NAME)
            return self._configs[model]

    def _manifests_of(self, ensemble: str) -> dict[int, Manifest]:
        with self._lock:
            if ensemble not in self._manifests:
                self._manifests[ensemble] = self._config(ensemble).manifests()
            return self._manifests[ensemble]


class FileEngine:
    """One ONNX file, under whatever model's name; what `extract` needs of an engine."""

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        """Load the file; ModelError where its SHA-256 is known and another."""
        self._path = path
        self._graph = load_graph(path, sha256=sha256)

    def __reduce__(self) -> tuple[object, ...]:
        """Where its file is, and which, for another process."""
        return arrived, (FileEngine, self._path.absolute(), self._graph.sha256)

    @property
    def name(self) -> str:
        """Version and device."""
        return _name()

    @property
    def description(self) -> str:
        """Version, device and file."""
        return f"{self.name}, {self._graph.name}"

    def pace(self, model: str, version: int | None = None) -> Pace:
        """The cores', or the GPU's."""
        return _usual_pace()

    def ensemble_tiles(self, model: str) -> int:
        """None: a file is no ensemble."""
        return 0

    def models(self) -> tuple[str, ...]:
        """None: a file carries no manifest."""
        return ()

    def manifest(self, model: str, version: int | None = None) -> Manifest:
        """Always a RepositoryError."""
        raise RepositoryError(f"{self._graph.name}: a single graph, without a manifest")

    def is_ready(self, model: str) -> bool:
        """Always, since it is loaded."""
        return True

    def infer(self, model: str, inputs: Arrays, *, version: int | None = None) -> Arrays:
        """All outputs of the graph."""
        check_inputs(model, self._graph.inputs, inputs)
        return self._graph.run(inputs)

    def close(self) -> None:
        """Nothing is to be given back."""


def _as_published(repository: Path, published: str) -> LocalEngine:
    """An engine for what has just been published, which is read when it is asked for."""
    return LocalEngine(repository)


def _published(repository: Path) -> str:
    """Hash of all configurations; they hold the manifests, and these the hashes of the graphs."""
    total = hashlib.sha256()
    for path in sorted(repository.glob(f"*/{FILE_NAME}")):
        try:
            total.update(f"{path.parent.name} {sha256_of(path)}\n".encode())
        except OSError as error:
            message = f"{path.name} cannot be read: {error.strerror}"
            raise RepositoryError(message, place=str(path.parent)) from error
    return total.hexdigest()


def _is_large(features: Arrays) -> bool:
    """Whether memory for a bag should be made, which is the extractor's, and not a GPU's."""
    size_bytes = sum(tensor.nbytes for tensor in features.values())
    return size_bytes >= LARGE_BAG_BYTES and _is_on_cores()


def _usual_pace() -> Pace:
    return ON_CORES if _is_on_cores() else ON_GPU


def _is_on_cores() -> bool:
    return providers()[0] == CPU


def _name() -> str:
    return f"ONNX Runtime {VERSION} on {providers()[0].removesuffix('ExecutionProvider')}"


def _ensemble_of(model: str) -> str:
    for suffix in (extractor_name(""), diagnosis_name("")):
        if model.endswith(suffix):
            return model.removesuffix(suffix)
    return model


def _choose(model: str, version: int | None, known: Collection[int], served: Sequence[int]) -> int:
    """`version` if it is known, the newest one served for None."""
    if version is None and served:
        return served[-1]
    if version is None or version not in known:
        has = ", ".join(str(number) for number in known) or "none"
        raise RepositoryError(f"{model}: no version {version or ''} here; there is {has}")
    return version
