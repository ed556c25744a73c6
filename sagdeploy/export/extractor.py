"""The extractor of a folder of bags: one ONNX file, which training and serving both run."""

from dataclasses import dataclass
from pathlib import Path

from sagdeploy.bags.card import CARD_FILE, read_card, write_card
from sagdeploy.errors import BagError, ConfigError
from sagdeploy.export.graph import export_extractor
from sagdeploy.export.parity import extractor_parity
from sagdeploy.export.wrap import IMAGENET_MEAN, IMAGENET_STD, wrap_onnx
from sagdeploy.files import name_from, sha256_of
from sagdeploy.manifest import ExtractorCard
from sagdeploy.models.extractors import IMAGENET, IMAGENET_URL, RECIPES, build_extractor
from sagdeploy.pipeline.bagging import Extraction
from sagdeploy.pipeline.extract import EXTRACTOR_FILE
from sagdeploy.serving.local import FileEngine
from sagdeploy.serving.runtime import extractor_card
from sagdeploy.slides.tiling import TilePlan


@dataclass(frozen=True, slots=True)
class ExtractorSource:
    """Where an extractor comes from."""

    name: str
    """One of ours, or an ONNX file."""

    weights: Path | None = None
    """For one of ours that needs weights."""

    mean: tuple[float, float, float] = IMAGENET_MEAN
    """What an ONNX file without preprocessing of its own expects, of RGB in 0 to 1."""

    std: tuple[float, float, float] = IMAGENET_STD
    tile_px: int | None = None
    """Side of the tiles of an ONNX file that takes any."""

    @property
    def is_file(self) -> bool:
        """Whether it is an ONNX file."""
        return self.name.endswith(".onnx")


def prepare_extractor(source: ExtractorSource, bags: Path) -> ExtractorCard:
    """Write the extractor and its card into the folder of the bags, unless they are there.

    Whoever shares the folder holds `sole_writer` of it meanwhile.
    Raises BagError where the folder holds bags of another extractor.
    """
    if (bags / CARD_FILE).exists() and (card := read_card(bags)):
        if (bags / EXTRACTOR_FILE).exists() and _is_same(source, card):
            return card
        raise BagError(
            f"{bags}: holds bags of the extractor {card.name} ({card.weights})",
            hint="choose another --out, or the same --extractor and --weights",
        )
    card = _from_file(source, bags) if source.is_file else _of_ours(source, bags)
    write_card(bags, card)
    return card


def local_extraction(
    source: ExtractorSource, bags: Path, plan: TilePlan, *, trust_mpp: bool = False
) -> Extraction:
    """An extraction in this process, by an extractor that is written beside the bags."""
    card = prepare_extractor(source, bags)
    engine = FileEngine(bags / EXTRACTOR_FILE, card.sha256 or None)
    return Extraction(engine, card.name, card, plan, trust_mpp)


def _of_ours(source: ExtractorSource, bags: Path) -> ExtractorCard:
    if source.name not in RECIPES:
        raise ConfigError(
            f"no extractor is called {source.name!r}",
            hint=f"take {', '.join(RECIPES)} or a file that ends in .onnx",
        )
    extractor = build_extractor(source.name, source.weights)
    facts = extractor.card
    path = export_extractor(extractor, bags / EXTRACTOR_FILE, tile_px=facts.tile_px)
    card = extractor_card(path, name=facts.name, weights=facts.weights)
    return card.model_copy(update={"parity": extractor_parity(extractor, path)})


def _from_file(source: ExtractorSource, bags: Path) -> ExtractorCard:
    file = Path(source.name)
    if not file.is_file():
        raise ConfigError(f"{file}: no such file")
    path = wrap_onnx(
        file,
        bags / EXTRACTOR_FILE,
        mean=source.mean,
        std=source.std,
        tile_px=source.tile_px,
    )
    weights = f"{file.name}, sha256 {_mark(source)}"
    return extractor_card(path, name=name_from(file.stem), weights=weights)


def _is_same(source: ExtractorSource, card: ExtractorCard) -> bool:
    name = name_from(Path(source.name).stem) if source.is_file else source.name
    return name == card.name and _mark(source) in card.weights


def _mark(source: ExtractorSource) -> str:
    """What a card says of these weights and options, and of no others."""
    if source.is_file:
        mean, std = (" ".join(f"{v:g}" for v in values) for values in (source.mean, source.std))
        return f"{_digest(Path(source.name))}, given mean {mean}, std {std}"
    if str(source.weights) == IMAGENET:
        return IMAGENET_URL.rpartition("/")[2]
    return _digest(source.weights) if source.weights else ""


def _digest(file: Path) -> str:
    return sha256_of(file)[:12] if file.is_file() else "missing"
