"""Docstrings as this project writes them, for Sphinx: code in single backticks, and lines such as
`xy_l0: (N, 2) top left of each tile` or `returns: (N,)` that say what a signature cannot.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

FIELD = re.compile(r"(\w+):\s+(\S.*)")
SPECIAL = re.compile(r"([\\*_|])")


def to_rst(lines: list[str], parameters: set[str]) -> Iterator[str]:
    """The lines as reStructuredText."""
    kind = "text"
    for line in lines:
        before, kind = kind, _kind(line, kind, parameters)
        if kind != before and "blank" not in (kind, before) and kind != "more":
            yield ""
        if kind == "drawing" and before != "drawing":
            yield from ("::", "")
        if kind == "field":
            name, text = FIELD.fullmatch(line).groups()  # type: ignore[union-attr]  # is a field
            yield f":{'returns' if name == 'returns' else f'param {name}'}: {_inline(text)}"
        elif kind == "more":
            yield f"    {_inline(line.strip())}"
        else:
            yield f"    {line}" if kind == "drawing" else _inline(line)
        kind = "field" if kind == "more" else kind


def _kind(line: str, before: str, parameters: set[str]) -> str:
    """What a line is: text, field, more of a field, a drawing to be kept as it is, or blank."""
    field = FIELD.fullmatch(line)
    if not line.strip():
        return "blank"
    if field and field[1] in parameters | {"returns"}:
        return "field"
    if line.startswith(" "):
        return "more" if before == "field" else "drawing"
    return "drawing" if line[0] in "├└│" else "text"


def _inline(line: str) -> str:
    """Code stays code, everything else stays letters."""
    parts = line.split("`")
    if len(parts) % 2 == 0:  # a span that goes on in the next line: leave it be
        return SPECIAL.sub(r"\\\1", line.replace("`", "'"))
    text = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            text += SPECIAL.sub(r"\\\1", part)
        else:
            goes_on = parts[index + 1][:1].isalnum()  # a word does not end with its code: `n`th
            text += f"``{part}``" + ("\\ " if goes_on else "")
    return text


NDARRAY = re.compile(r"~?numpy\.ndarray\[tuple\[[^]]*\], ~?numpy\.dtype\[(?:~?[\w.]*\.)?(\w+)\]\]")


def _signature(
    app: Sphinx, what: str, name: str, value: Any, options: Any, signature: str, returns: str
) -> tuple[str | None, str | None]:
    """Arrays as the source has them: NDArray[float32]."""
    short = [text and NDARRAY.sub(r"NDArray[\1]", text) for text in (signature, returns)]
    return short[0], short[1]


def _parameters(value: Any) -> set[str]:
    try:
        return set(inspect.signature(value).parameters)
    except (TypeError, ValueError):  # a module, a field, a builtin
        return set()


def _process(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    lines[:] = to_rst(lines, _parameters(value))


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    app.connect("autodoc-process-signature", _signature)
    return {"parallel_read_safe": True}
