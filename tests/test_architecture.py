"""The package reads in one direction, and each third-party library has one door."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "sagdeploy"

# The data's way. A module may import only modules named on an earlier line.
ORDER = """
errors
files
config
slides.metadata slides.library slides.tileindex slides.tally
slides.jpeg slides.jpeg2000 slides.decoded
slides.direct
slides.reader
slides.slide slides.tiling slides.wire
slides.decoder
slides.nursery slides.nursing
slides.decoding
slides.isolation
slides.tissue slides.deepzoom slides.dicom
slides.cutting slides.source
slides.lattice slides.tiff
slides.outline slides.textures slides.pyramid
slides.anatomy slides.artefacts
slides.nuclei
slides.painting
slides.synthetic
guidance.outlines guidance.masks guidance.detection
guidance.annotations
guidance.cells guidance.cellmap guidance.ndpa guidance.weights guidance.lesions guidance.density
bags.rows
bags.cohort bags.camelyon16
bags.tables
manifest
bags.bag
bags.bagfile bags.card
bags.interchange
serving.engine serving.model_config serving.patience
serving.ensemble serving.runtime serving.transport
serving.shared_memory
serving.kserve
serving.local serving.triton
serving.connect serving.environment serving.backend.model
serving.server
pipeline.outcome pipeline.inputs pipeline.run pipeline.flow pipeline.versions
pipeline.cautions pipeline.shelf
pipeline.stream
pipeline.diagnose pipeline.detection pipeline.journal pipeline.cluster
pipeline.heuristic pipeline.bagging
pipeline.describe pipeline.extract pipeline.guide pipeline.synth pipeline.predict
report.scale
report.record report.regions
report.findings report.overlay report.geojson report.ome report.tables report.heads
report.pictures
report.viewer
report.page
report.folder
view.results view.matching view.lending
view.site
view.server
resume audit
batch
doctor
models.attention models.dropout
models.self_attention models.pooling
models.abmil models.scatnet models.standardise models.mobilenet models.resnet models.stain
models.extractors models.registry
training.terms
training.loss training.metrics training.calibration training.splits training.adam
training.alignment training.intervals training.thresholds
training.tensors
training.checkpoint training.dataset
training.batch
training.inference training.state
training.controls training.faithfulness training.froc training.landmarks training.train
training.judgement
training.panel
training.predictions training.baselines
training.evaluate training.contrast
training.arm
training.workers
training.comparison training.experiment
training.axis training.svg
training.chart training.figure
training.curves training.roc training.reliability
training.table
export.attention export.pooling
export.graph
export.wrap export.pace export.parity export.centring export.samples
export.precision export.margin
export.layout export.reduction
export.repository export.extractor
export.run
demo
cli.output cli.options
cli.progress
cli.slides cli.learning cli.serving
cli.app
"""

# library -> the only modules that may import it; a name ending in "." stands for a package
DOORS = {
    "openslide": {"slides.library"},
    "simplejpeg": {"slides.jpeg"},
    "imagecodecs": {"slides.jpeg2000"},
    "skimage": {"guidance.detection"},
    "shapely": {"guidance."},
    "defusedxml": {"guidance.outlines"},
    "h5py": {"bags.bagfile"},
    "google": {"serving.model_config"},
    "onnxruntime": {"serving.runtime", "serving.backend.model", "export.precision"},
    "tritonclient": {"serving.kserve", "serving.model_config"},
    "triton_python_backend_utils": {"serving.backend.model"},
    "platformdirs": {"serving.environment"},
    "safetensors": {"models.extractors", "training.tensors"},
    "onnx": {"export."},
    "sklearn": {"guidance.cells", "training.alignment", "training.splits"},
    "torch": {"models.", "training.", "export."},
    "distributed": {"pipeline.cluster"},
    "typer": {"cli."},
    "rich": {"cli."},
}

RANK = {name: rank for rank, line in enumerate(ORDER.splitlines()) for name in line.split()}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted(ROOT.rglob("*.py"))
    if path.name not in ("__init__.py", "__main__.py")
}


def imports(path: Path) -> set[str]:
    """Absolute names that a file imports, inside functions too."""
    package = ["sagdeploy", *path.relative_to(ROOT).parent.parts]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            names |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return names


def may_open(module: str, library: str) -> bool:
    """Whether `module` is a door of `library`, or the library has none."""
    doors = DOORS.get(library, {module})
    return any(module == door or (door[-1] == "." and module.startswith(door)) for door in doors)


@pytest.mark.parametrize("module", FILES)
def test_imports_point_up_the_data(module: str) -> None:
    assert module in RANK, f"give {module} its place in ORDER"
    for name in imports(FILES[module]):
        source = name.removeprefix("sagdeploy.")
        if source != module and source in RANK:
            assert RANK[source] < RANK[module], f"{module} imports {source}, which comes later"
        library = name.split(".")[0]
        assert may_open(module, library), f"{library} is for {DOORS[library]} alone"


def test_packages_are_empty() -> None:
    for path in ROOT.glob("*/__init__.py"):
        assert not imports(path), f"{path}: import from the module, not from the package"


def test_every_place_in_the_order_is_taken() -> None:
    assert set(RANK) == set(FILES), "ORDER names modules that do not exist"
