"""The card beside a folder's bags: which extractor made them."""

from pathlib import Path

from pydantic import ValidationError

from sagdeploy.config import problems
from sagdeploy.errors import BagError
from sagdeploy.files import write_json
from sagdeploy.manifest import ExtractorCard

CARD_FILE = "extractor.json"


def write_card(bags: Path, card: ExtractorCard) -> None:
    """Keep beside the bags which extractor made them."""
    write_json(bags / CARD_FILE, card.model_dump(mode="json"))


def read_card(bags: Path) -> ExtractorCard:
    """The card of the extractor that made the bags; BagError if there is none."""
    path = bags / CARD_FILE
    try:
        return ExtractorCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise BagError(
            f"{bags}: no {CARD_FILE}, so no bags of this sagdeploy", hint="run sagdeploy extract"
        ) from error
    except ValidationError as error:
        raise BagError(f"{path}: {problems(error)}", hint="run sagdeploy extract again") from error


def kept_card(bags: Path, card: ExtractorCard) -> ExtractorCard:
    """The folder's own card of the same extractor, or else `card`, which is written there.

    Whoever shares the folder holds `sole_writer` of it meanwhile.
    """
    if not (bags / CARD_FILE).exists():
        write_card(bags, card)
        return card
    kept = read_card(bags)
    if kept.sha256 != card.sha256:
        raise BagError(
            f"{bags}: holds bags of the extractor {kept.name} ({kept.weights})",
            hint="choose another --out",
        )
    return kept
