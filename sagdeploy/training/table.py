"""A comparison of arms as files: Table 1 as Markdown, CSV and HTML, with its pictures.

table1.md  table1.csv  table1.html  roc.svg  figure4.svg
"""

import csv
import re
from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files
from io import StringIO
from pathlib import Path
from string import Template

from sagdeploy.bags.cohort import Cohort
from sagdeploy.files import write_bytes
from sagdeploy.training.comparison import ArmDifference, ArmRow, Comparison
from sagdeploy.training.figure import draw_figure
from sagdeploy.training.intervals import Interval
from sagdeploy.training.roc import draw_roc

ROC, FIGURE = "roc.svg", "figure4.svg"

CSV_COLUMNS = (
    *("row", "metric", "mean", "sd", "seeds", "difference", "seeds_low", "seeds_high", "seeds_p"),
    *("share_above", "patients_low", "patients_high", "patients_p", "holm_p", "detectable"),
    "verdict",
)


def write_comparison(
    comparison: Comparison,
    runs: Sequence[Path],
    folder: Path,
    *,
    cohort: Cohort | None = None,
    bags: Path | None = None,
) -> None:
    """Write the table and the ROC curves of some runs and, of a cohort with its bags, Fig. 4."""
    draw_roc(runs, folder / ROC, split=comparison.split)
    pictures = [ROC]
    if cohort is not None and bags is not None:
        draw_figure(cohort, bags, runs, folder / FIGURE)
        pictures.append(FIGURE)
    text = comparison.markdown()
    images = "".join(f"\n![{name}]({name})\n" for name in pictures)
    write_bytes(folder / "table1.md", f"{text}{images}".encode())
    write_bytes(folder / "table1.csv", csv_of(comparison).encode())
    drawn = [(folder / name).read_text(encoding="utf-8") for name in pictures]
    write_bytes(folder / "table1.html", html_of(text, drawn).encode())


def csv_of(comparison: Comparison) -> str:
    """Every number of a comparison, one row an arm and metric; empty where there is none."""
    text = StringIO()
    writer = csv.DictWriter(text, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for row in comparison.rows:
        writer.writerows(_numbers(row))
    for name, found in comparison.baselines.items():
        for metric, interval in found.items():
            low, high = {"patients_low": interval.low}, {"patients_high": interval.high}
            writer.writerow({"row": name, "metric": metric, "mean": interval.value} | low | high)
    return text.getvalue()


def html_of(markdown: str, pictures: Sequence[str]) -> str:
    """A page of tables, paragraphs and pictures that stands alone.

    markdown: tables with pipes and paragraphs, as Comparison.markdown writes them
    pictures: SVG
    """
    blocks = (block for block in markdown.strip().split("\n\n") if block)
    body = [_table(block) if block.startswith("|") else _paragraph(block) for block in blocks]
    figures = [f"<figure>{picture}</figure>" for picture in pictures]
    page = files("sagdeploy.training").joinpath("table.html").read_text(encoding="utf-8")
    return Template(page).substitute(body="\n".join([*body, *figures]))


def _numbers(row: ArmRow) -> Iterator[dict[str, object]]:
    for metric, mean in row.mean.items():
        found = row.differences.get(metric)
        yield {
            "row": row.arm,
            "metric": metric,
            "mean": mean,
            "sd": row.sd.get(metric, ""),
            "seeds": len(row.seeds),
        } | (_difference(found) if found else {})


def _difference(found: ArmDifference) -> dict[str, object]:
    return {
        "difference": found.value,
        **_ends("seeds", found.seeds),
        "seeds_p": found.seeds_p,
        "share_above": found.share_above,
        **_ends("patients", found.patients),
        "patients_p": found.patients_p,
        "holm_p": found.holm_p,
        "detectable": found.detectable,
        "verdict": found.verdict,
    }


def _ends(name: str, interval: Interval | None) -> dict[str, object]:
    return {f"{name}_low": interval.low, f"{name}_high": interval.high} if interval else {}


def _table(block: str) -> str:
    head, _, *rows = [
        [_inline(cell.strip()) for cell in line.strip("| ").split(" | ")]
        for line in block.splitlines()
    ]
    header = "".join(f"<th>{cell}</th>" for cell in head)
    lines = ("".join(f"<td>{cell}</td>" for cell in row) for row in rows)
    body = "\n".join(f"<tr>{line}</tr>" for line in lines)
    return f"<table><thead><tr>{header}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _paragraph(block: str) -> str:
    return f"<p>{_inline(block)}</p>"


def _inline(text: str) -> str:
    return re.sub(r"\*([^*]+)\*", r"<em>\1</em>", escape(text))
