"""Label pictures whose colours are classes: to values and back, as indexed PNG."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masam import atomic
from masam.errors import InputError, ResourceError
from masam.labels import LabelScheme

Colour = tuple[int, int, int]

_MOST_SHOWN = 8


def values_of(colours: NDArray[np.uint8], scheme: Mapping[Colour, int], where: object = None) -> NDArray[np.uint8]:
    """Turn colours into label values.

    Args:
        colours: [H, W, C] red, green, blue; further channels, such as opacity, do not count.
        scheme: Label value, 0 to 255, by colour.
        where: File to name in an error.

    Returns:
        [H, W] label values.

    Raises:
        InputError: There is a colour that the scheme has not; each is listed with its number of pixels.
    """
    codes = np.array(sorted(_code(colour) for colour in scheme))
    by_code = {_code(colour): value for colour, value in scheme.items()}
    values = np.array([by_code[int(code)] for code in codes], np.uint8)
    red, green, blue = (colours[..., n].astype(np.int64) for n in range(3))
    pixels = (red << 16) | (green << 8) | blue
    place = np.minimum(np.searchsorted(codes, pixels), len(codes) - 1)
    if (unknown := codes[place] != pixels).any():
        found, counts = np.unique(pixels[unknown], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:_MOST_SHOWN]
        listed = ", ".join(f"{_decode(int(found[n]))} ({counts[n]} pixels)" for n in order)
        more = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        raise InputError(
            f"{len(found)} colours are no class: {listed}{more}",
            where=where,
            fix="is it a picture, or was it stored with losses or resized with interpolation?",
        )
    classes: NDArray[np.uint8] = values[place]
    return classes


def rewrite_colours(source: Path, target: Path, *, colours: Mapping[Colour, int], labels: LabelScheme) -> None:
    """Write a picture of colours as an indexed PNG of label values, whose palette is the label scheme's.

    Args:
        source: PNG in RGB, RGBA or with a palette.
        target: PNG to write.
        colours: Label value by colour.
        labels: The classes.

    Raises:
        InputError: The file is not such a picture, or holds a colour that is no class.
        ResourceError: A file cannot be written, or Pillow is not installed.
    """
    from masam.io.gate import read_bytes

    write_indexed(target, values_of(_read_rgb(read_bytes(source), source), colours, source), labels)


def write_indexed(path: Path, values: NDArray[np.uint8], labels: LabelScheme) -> None:
    """Write label values as an indexed PNG, which was read back before it counts.

    Args:
        path: File to write.
        values: [H, W] label values.
        labels: Their colours.

    Raises:
        ResourceError: The file cannot be written, or did not read back pixel for pixel.
    """
    from PIL import Image

    palette = np.zeros((256, 3), np.uint8)
    for label in labels.labels:
        palette[label.value] = label.colour
    image = Image.fromarray(values)
    image.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG")

    def verify(temporary: Path) -> None:
        with Image.open(temporary) as written:
            if written.mode != "P" or not np.array_equal(np.asarray(written), values):
                raise InputError("pixels differ", where=temporary)

    atomic.write_bytes(path, buffer.getvalue(), verify)


def _read_rgb(data: bytes, where: Path) -> NDArray[np.uint8]:
    """Return [H, W, 3] of a PNG; of RGBA the first three channels."""
    from masam.io.gate import library_errors

    try:
        from PIL import Image
    except ImportError as error:
        raise ResourceError("pictures need Pillow, which is not installed", fix="pip install 'masam[video]'") from error
    # Pillow warns of pictures that inflate to more than memory may hold; here that is an error.
    with library_errors(where), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
                if image.mode not in ("RGB", "RGBA", "P"):
                    raise InputError(f"expected a picture in colours, got mode {image.mode}", where=where)
                # Opacity is left out, not applied.
                return np.asarray(image.convert("RGB"))
        except OSError as error:
            # What Pillow raises of a damaged picture; the bytes are in memory, so the disk is not at fault.
            raise InputError("expected a PNG that is whole", where=where, fix="download the file again") from error


def _code(colour: Colour) -> int:
    return (colour[0] << 16) | (colour[1] << 8) | colour[2]


def _decode(code: int) -> Colour:
    return code >> 16, code >> 8 & 255, code & 255
