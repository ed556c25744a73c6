"""Pages and files that are made from the package: its modules' reference, its JSON Schemas."""

import json
from importlib import import_module
from pathlib import Path

from sphinx.application import Sphinx

import sagdeploy

SUBJECTS = {  # not the command line: its help is the reference
    "": "The package's own modules",
    "slides": "Slides: reading, tissue, tiles, painting",
    "guidance": "Guidance: annotations, cells, weights of tiles",
    "bags": "Bags and cohorts: features and tables, ours and others'",
    "serving": "Serving: engines, and what a model repository says",
    "pipeline": "Pipeline: from slides to bags and diagnoses",
    "report": "Report: records, maps, pages",
    "view": "View: results in a browser",
    "models": "Models: extractors and diagnosis networks",
    "training": "Training: loss, seeds, measures, comparison",
    "export": "Export: ONNX and the model repository",
}
SCHEMAS = {
    "prediction": ("sagdeploy.report.record", "PredictionRecord"),
    "manifest": ("sagdeploy.manifest", "Manifest"),
    "settings": ("sagdeploy.config", "TrainSettings"),
    "run": ("sagdeploy.pipeline.run", "RunRecord"),
    "training-run": ("sagdeploy.training.checkpoint", "TrainingRecord"),
    "result": ("sagdeploy.training.checkpoint", "SeedResult"),
    "evaluation": ("sagdeploy.training.evaluate", "Evaluation"),
    "comparison": ("sagdeploy.training.comparison", "Comparison"),
    "bag": ("sagdeploy.bags.bag", "BagHeader"),
}
"""JSON Schemas beside the pages, by the NAME of `[...](schema:NAME)`: the class that each is of."""

ROOT = Path(sagdeploy.__file__).parent


def write_pages(app: Sphinx) -> None:
    """One page a subpackage, with all its modules; left alone where nothing has changed."""
    folder = Path(app.srcdir) / "api"
    folder.mkdir(exist_ok=True)
    for package, title in SUBJECTS.items():
        modules = sorted(p.stem for p in (ROOT / package).glob("*.py") if p.stem[0] != "_")
        parts = [f"# {title}\n"]
        for module in modules:
            name = ".".join(filter(None, ("sagdeploy", package, module)))
            directive = f"```{{eval-rst}}\n.. automodule:: {name}\n```\n"
            parts.append(f"## {name.removeprefix('sagdeploy.')}\n\n{directive}")
        page, text = folder / f"{package or 'top'}.md", "\n".join(parts)
        if not page.exists() or page.read_text() != text:
            page.write_text(text)


def write_schemas(app: Sphinx, error: Exception | None) -> None:
    """The schemas as files of the site."""
    folder = Path(app.outdir) / "schemas"
    folder.mkdir(exist_ok=True)
    for name, (module, kind) in SCHEMAS.items():
        source = ROOT.parent / "schemas" / f"{name}.schema.json"
        schema = (
            json.loads(source.read_text())
            if source.is_file()
            else getattr(import_module(module), kind).model_json_schema()
        )
        (folder / f"{name}.schema.json").write_text(json.dumps(schema, indent=2) + "\n")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("builder-inited", write_pages)
    app.connect("build-finished", write_schemas)
    return {"parallel_read_safe": True}
