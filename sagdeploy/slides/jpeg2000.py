"""JPEG 2000 tiles of Aperio's slides to pixels, exactly as OpenSlide decodes them.

The same OpenJPEG does it; its time is what remains. Of the two ways that Aperio stores colours
this is the one that needs no conversion, compression 33005.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from sagdeploy.slides.tileindex import UnfitError

START_AND_SIZE = b"\xff\x4f\xff\x51"


def decode(tile: bytes, out: NDArray[np.uint8]) -> None:
    """Decode a tile into `out`, RGB (h, w, 3) or RGBX (h, w, 4); UnfitError where it is unlike.

    Needs the extra `jpeg2000`; no tile fits without it.
    """
    try:
        import imagecodecs
    except ImportError as error:
        raise UnfitError("imagecodecs is not installed") from error
    # width, height, where the picture starts on the codec's own canvas; components
    expected = (START_AND_SIZE, struct.pack(">IIII", *out.shape[1::-1], 0, 0), b"\0\3")
    if (tile[:4], tile[8:24], tile[40:42]) != expected:
        raise UnfitError(f"not {out.shape[1]} x {out.shape[0]} px of three components")
    try:
        out[:, :, :3] = imagecodecs.jpeg2k_decode(tile, numthreads=1)
    except (imagecodecs.Jpeg2kError, ValueError) as error:
        raise UnfitError(str(error)) from error
