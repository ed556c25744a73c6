"""Label masks: pictures in which the regions of a slide are white."""

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sagdeploy.errors import AnnotationError

SUFFIXES = (".png", ".tif", ".tiff")


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Where a label mask is white, (h, w); it is stretched over the whole slide.

    Grey counts as white from the middle on; in a mask of 0 and 1, as label masks often are,
    1 does. AnnotationError for what is unreadable, of 16 bits, or over 89 million pixels.
    """
    hint = "save the mask as a small 8-bit PNG, white where the region is"
    if not path.is_file():
        raise AnnotationError(
            "is no file", hint="mend the path in the cohort table", place=str(path)
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "TIFF")) as picture:
                mode, values = picture.mode, np.asarray(picture.convert("L"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise AnnotationError(
            "has too many pixels for a mask", hint=hint, place=str(path)
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # all that PIL raises for damaged files
        raise AnnotationError(
            f"cannot be read as a mask: {error}", hint=hint, place=str(path)
        ) from error
    if mode[0] in "IF":
        raise AnnotationError("holds pixels of more than 8 bits", hint=hint, place=str(path))
    white: NDArray[np.bool_] = values > (0 if values.max(initial=0) == 1 else 127)
    return white
