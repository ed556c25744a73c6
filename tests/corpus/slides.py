"""Slides that are none, or cannot be diagnosed, with the exit code and message that they give."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from tests.bigtiff import HEIGHT, LENGTHS, OFFSETS, TILE_HEIGHT, TILE_WIDTH, WIDTH, with_tag
from tests.corpus.kit import Kit
from tests.corpus.makers import (
    bomb,
    called,
    changing,
    cut,
    folder,
    half_missing,
    large_and_flat,
    level_missing,
    listening,
    looped,
    many_levels,
    picture,
    pipe,
    stained,
    stripped,
    tag,
    tiled,
    tiny,
    zeroed,
)


@dataclass(frozen=True, slots=True)
class Case:
    """One bad input, and how the command that is given it must end."""

    name: str
    make: Callable[[Kit], list[str]]
    """Makes the input, and returns the command line."""

    code: int
    message: str
    """A regular expression that the one line of the slide, or of the error, fits."""


def spoilt(name: str, spoil: Callable[[bytes], bytes], code: int, message: str) -> Case:
    """A good slide whose bytes were changed."""

    def make(kit: Kit) -> list[str]:
        path = kit.good()
        path.write_bytes(spoil(path.read_bytes()))
        return kit.predict(path)

    return Case(name, make, code, message)


def file(name: str, content: bytes, message: str, suffix: str = "svs") -> Case:
    """A file that is no slide."""
    return Case(name, lambda kit: kit.predict(kit.file(f"slide.{suffix}", content)), 3, message)


def described(name: str, message: str, **changes: object) -> Case:
    """A good slide whose metadata will not do."""
    return Case(name, lambda kit: kit.predict(kit.svs(**changes)), 4, message)


def flat(name: str, colour: tuple[int, int, int]) -> Case:
    """A slide of one colour."""
    return Case(name, lambda kit: kit.predict(kit.flat(colour)), 4, "no tissue")


def cases() -> Iterator[Case]:
    """All of them, by what is wrong."""
    yield from _no_slides()
    yield from _damaged()
    yield from _lying()
    yield from _without_scale()
    yield from _without_tissue()
    yield from _unusual()


def _no_slides() -> Iterator[Case]:
    yield file("empty", b"", "empty file")
    yield file("text", b"hello\n", r"not a slide: it starts with b'hello\\n'")
    yield file("pdf", b"%PDF-1.7\n", "not a slide")
    yield file("zip", b"PK\3\4" + bytes(100), "not a slide")
    yield file("gzip", b"\x1f\x8b\x08" + bytes(100), "not a slide")
    yield file("jpeg", picture("JPEG"), "not a slide")
    yield file("png", picture("PNG"), "not a slide")
    yield file("tiff-magic-alone", b"II*\0", "truncated|not tiled")
    yield file("bigtiff-magic-alone", b"II+\0\x08\0\0\0", "truncated|not tiled")
    yield file("zeros", bytes(100_000), "not a slide")
    yield file("mrxs-without-folder", picture("JPEG"), "slide", "mrxs")
    yield file("dicom-preamble-alone", bytes(128) + b"DICM", "slide", "dcm")
    yield Case("missing", lambda kit: kit.predict(kit.folder / "slide.svs"), 3, "No such file")
    yield Case("folder", folder, 3, "a folder, not a slide")
    yield Case("fifo", pipe, 3, "not a regular file")
    yield Case("socket", listening, 3, "not a regular file")
    yield Case("device", lambda kit: kit.predict(kit.link("/dev/zero")), 3, "not a regular file")
    yield Case("dangling-link", lambda kit: kit.predict(kit.link("gone.svs")), 3, "No such file")
    yield Case("link-to-itself", lambda kit: kit.predict(kit.link("slide.svs")), 3, "symbolic link")
    yield Case("changing", changing, 3, "changed while it was read")
    yield Case("strips-not-tiles", stripped, 3, "not tiled")


def _damaged() -> Iterator[Case]:
    for share in (0.001, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9):
        yield spoilt(f"cut-to-{share:.1%}", cut(share), 3, "truncated|damaged")
    for lost in (200, 600, 3000):
        yield spoilt(f"cut-by-{lost}", lambda data, n=lost: data[:-n], 3, "truncated|damaged")  # type: ignore[misc]
    yield spoilt("header-lost", lambda data: bytes(16) + data[16:], 3, "not a slide")
    yield spoilt("first-page-lost", zeroed(0), 3, "not a slide")
    yield spoilt("last-page-lost", zeroed(0.9999), 3, "truncated|damaged")
    yield spoilt("pages-of-pixels-lost", zeroed(0.1, 8), 3, "damaged|decode")
    yield spoilt("directory-looped", looped, 3, "")
    yield spoilt("tiles-beyond-the-end", tag(OFFSETS, 1 << 40), 3, "damaged")
    yield spoilt("tiles-in-the-header", tag(OFFSETS, 0), 3, "damaged")
    yield spoilt("tiles-too-long", tag(LENGTHS, 1 << 40), 3, "damaged")
    yield spoilt("tiles-of-one-byte", tag(LENGTHS, 1), 3, "damaged")


def _lying() -> Iterator[Case]:
    yield spoilt("width-of-none", tag(WIDTH, 0), 3, "")
    yield spoilt("two-thousand-million-px", tag(WIDTH, 2_000_000_000), 3, "")
    yield spoilt(
        "two-hundred-thousand-px-each-way",
        lambda data: with_tag(with_tag(data, WIDTH, 200_000), HEIGHT, 200_000), 3, "",
    )  # fmt: skip
    yield spoilt("tiles-of-thirty-million-px", tag(TILE_HEIGHT, 33_554_688), 3, "")
    yield spoilt("tiles-of-no-px", tag(TILE_WIDTH, 0), 3, "")
    yield spoilt("tiles-of-sixteen-px", tag(TILE_WIDTH, 16), 3, "")
    yield Case("bomb", bomb, 3, "more than any scanner makes")
    yield Case("a-thousand-levels", many_levels, 3, "declares 1001 levels")


def _without_scale() -> Iterator[Case]:
    for text in ("0", "-0.5", "nan", "inf", "1e9", "forty", "", "0.001", "4"):
        yield described(f"mpp-{text}", "--mpp", mpp=text)
    yield spoilt("mpp-missing", lambda data: re.sub(rb"MPP = 0.5", rb"XPP = 0.5", data), 4, "--mpp")
    for value in ("0", "-1", "nan", "400", "0.001"):
        yield Case(
            f"mpp-forced-to-{value}",
            lambda kit, value=value: kit.predict(kit.good(), "--mpp", value),  # type: ignore[misc]
            2,
            "not a plausible number",
        )
    yield described("scanned-too-coarse", "too coarse", mpp=1.9)


def _without_tissue() -> Iterator[Case]:
    yield flat("all-white", (255, 255, 255))
    yield flat("all-black", (0, 0, 0))
    yield flat("all-grey", (243, 243, 243))
    yield flat("pen-alone", (30, 160, 60))
    yield spoilt("no-tile-scanned", tag(LENGTHS, 0), 4, "no tissue")
    yield Case("largest-level-missing", level_missing, 4, r"100\.0 % .*missing from the file")
    yield Case("sixteen-px", lambda kit: kit.predict(tiny(kit, 16)), 4, "tiles|tissue")
    yield Case("grey-tiff", tiled("uint8", "minisblack"), 4, "tissue")


def _unusual() -> Iterator[Case]:
    """What is unusual, but no fault."""
    yield spoilt("half-of-the-tiles-missing", half_missing, 0, r"; missing_pixels: 3\d\.\d % of")
    for lost in (1, 8, 40):  # of what the smaller level says of itself
        yield spoilt(f"cut-by-{lost}", lambda data, n=lost: data[:-n], 0, "")  # type: ignore[misc]
    comma = lambda kit: kit.predict(kit.svs(mpp="0,499"))  # noqa: E731
    yield Case("mpp-with-a-comma", comma, 0, "")
    yield Case("large-without-pyramid", large_and_flat, 0, "")
    yield Case("brown-stain", lambda kit: kit.predict(stained(kit, (120, 70, 20))), 0, "")
    yield Case("sixteen-bits", tiled("uint16", "rgb"), 0, "")
    for name in (
        "我 的.svs",
        "a'b\"c;rm -rf $HOME.svs",
        "line\nfeed.svs",
        "\x1b[31mred.svs",
        b"\xff\xfe.svs",
    ):
        yield Case(f"called-{name!a}", called(name), 0, "")
    yield Case("a-long-name", called("x" * 250 + ".svs"), 0, "")
    yield Case(
        "two-of-one-name", lambda kit: kit.predict(kit.good(), kit.folder / "slide.svs"), 0, ""
    )
