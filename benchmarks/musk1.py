"""ABMIL on MUSK1 by the public commands: ten folds, five seeds, against the published figures.

    python benchmarks/musk1.py ../shared/data/mil/musk1.npz

Nothing is tuned on it: the settings are the recipe `musk1-abmil`, the last epoch is kept, and
features are standardised by the training molecules of each fold.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import h5py
import numpy as np

PUBLISHED = {"tanh": "0.892 ± 0.040", "gated": "0.900 ± 0.050"}
"""Ilse et al. 2018, five times ten folds."""

CLASSES = ("other", "musk")


def write_musk1(npz: Path, folder: Path) -> tuple[Path, Path]:
    """One file of features a molecule, and the table of their labels: (cohort.csv, bags)."""
    bags = folder / "bags"
    bags.mkdir(parents=True)
    with np.load(npz) as data:
        features, molecule, labels = data["X"], data["bag"], data["label"]
    rows = ["slide_id,label"]
    for index, label in enumerate(labels.tolist(), start=1):
        name = f"molecule_{index:02d}"
        with h5py.File(bags / f"{name}.h5", "w") as file:
            file["features"] = features[molecule == index].astype(np.float32)
        rows.append(f"{name},{CLASSES[label]}")
    cohort = folder / "cohort.csv"
    cohort.write_text("\n".join(rows) + "\n")
    return cohort, bags


def accuracies(npz: Path, kind: str, seeds: int, jobs: int) -> list[float]:
    """Accuracy of each seed, the mean over its ten folds."""
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cohort, bags = write_musk1(npz, folder)
        recipe = Path(__file__).parent.parent / "sagdeploy" / "recipes" / "musk1-abmil.toml"
        config = folder / "settings.toml"
        config.write_text(recipe.read_text().replace('"tanh"', f'"{kind}"'))
        table = [str(cohort), "--bags", str(bags)]
        run = str(folder / "run")
        _sagdeploy(
            *("train", *table, "--out", run, "--config", str(config)),
            *("--folds", "10", "--seeds", str(seeds), "--jobs", str(jobs)),
        )
        said = _sagdeploy("evaluate", run, *table, "--split", "folds", "--json")
    folds: dict[int, list[float]] = {}
    for fold in json.loads(said)["seeds"]:
        folds.setdefault(fold["seed"], []).append(fold["metrics"]["accuracy"])
    return [float(np.mean(values)) for values in folds.values()]


def _sagdeploy(*arguments: str) -> str:
    command = [sys.executable, "-m", "sagdeploy", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    """Print the table, and write it as JSON where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("npz", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = {kind: accuracies(options.npz, kind, options.seeds, options.jobs) for kind in PUBLISHED}
    print("| attention | accuracy, mean ± sd over seeds | published | seeds |\n|---|---|---|---|")
    for kind, values in found.items():
        sd = np.std(values, ddof=1) if len(values) > 1 else 0.0
        seeds = " ".join(f"{value:.3f}" for value in values)
        print(f"| {kind} | {np.mean(values):.3f} ± {sd:.3f} | {PUBLISHED[kind]} | {seeds} |")
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
