from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sagdeploy.errors import AnnotationError
from sagdeploy.guidance.masks import read_mask

WHITE = np.zeros((30, 50), np.uint8)
WHITE[3:10, 20:45] = 255


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_white_is_region_whatever_the_format(tmp_path: Path, suffix: str, mode: str) -> None:
    path = tmp_path / f"mask{suffix}"
    Image.fromarray(WHITE).convert(mode).save(path)
    assert (read_mask(path) == (WHITE > 0)).all()


def test_a_mask_of_ones_is_a_mask(tmp_path: Path) -> None:
    Image.fromarray(WHITE // 255).save(tmp_path / "mask.png")
    assert (read_mask(tmp_path / "mask.png") == (WHITE > 0)).all()


def test_a_black_mask_holds_nothing(tmp_path: Path) -> None:
    Image.fromarray(WHITE * 0).save(tmp_path / "mask.png")
    assert not read_mask(tmp_path / "mask.png").any()


def test_masks_that_cannot_be_meant_are_refused(tmp_path: Path) -> None:
    Image.fromarray(WHITE.astype(np.uint16) * 200).save(tmp_path / "deep.png")
    Image.fromarray(WHITE).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:60])
    (tmp_path / "text.png").write_text("hello")
    Image.new("1", (10_000, 9_500)).save(tmp_path / "large.png")
    for name, reason in [
        ("deep", "8 bits"),
        ("cut", "cannot be read"),
        ("text", "cannot be read"),
        ("large", "too many pixels"),
        ("missing", "is no file"),
    ]:
        with pytest.raises(AnnotationError, match=reason) as caught:
            read_mask(tmp_path / f"{name}.png")
        assert caught.value.hint
