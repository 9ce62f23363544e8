"""Read a folder of image files as a video, in natural order of their names."""

from __future__ import annotations

import itertools
import re
import unicodedata
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.io import gate
from masam.io.packages import require_package
from masam.io.video.frames import Frame, FrameSource, check_frame_size

FRAME_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_JPEG = ("JPEG", "MPO")
_NUMBER = re.compile(r"(\d+)")

# EXIF tag of the orientation, and its values for quarter turns.
_ORIENTATION = 274
_QUARTER_TURNS = (5, 6, 7, 8)
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B")
_COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr")


def natural_key(name: str) -> tuple[str | int, ...]:
    """Return a sort key that puts frame2 before frame10, ignoring upper and lower case."""
    parts = _NUMBER.split(unicodedata.normalize("NFC", name).casefold())
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def has_frames(folder: Path) -> bool:
    """Return whether a folder contains an image file, by its ending."""
    with gate.os_errors(folder):
        return any(_is_frame(path) for path in folder.iterdir())


def frame_files(folder: Path) -> list[Path]:
    """Return the visible image files of a folder in natural order; InputError if the order is ambiguous."""
    with gate.os_errors(folder):
        files = [path for path in folder.iterdir() if _is_frame(path)]
    ordered = sorted(files, key=lambda path: (natural_key(path.stem), path.name))
    for one, other in itertools.pairwise(ordered):
        if natural_key(one.stem) == natural_key(other.stem):
            raise InputError(
                f"the order of {one.name} and {other.name} is ambiguous ({len(files)} frames)",
                where=folder,
                fix="rename or remove one",
            )
    return ordered


def _is_frame(path: Path) -> bool:
    return path.suffix.lower() in FRAME_ENDINGS and not path.name.startswith(".") and not path.is_dir()


def open_folder(folder: Path) -> FrameSource:
    """Open a folder of PNG, JPEG, BMP or TIFF files with one size; only their headers are read."""
    files = frame_files(folder)
    if not files:
        raise InputError(
            f"expected frames ({', '.join(FRAME_ENDINGS)}), found 0 in this folder", where=folder, fix="check the path"
        )
    sizes: list[tuple[int, int]] = []
    counts: Counter[str] = Counter()
    for number, file in enumerate(files):
        with _opened(file) as image, _pillow_errors(file):
            sizes.append(_size(image))
            counts.update(_conversions(image))
        if sizes[-1] != sizes[0]:
            raise InputError(
                f"frame {number} of {len(files)} has {sizes[-1][1]} x {sizes[-1][0]} pixels, the first one has "
                f"{sizes[0][1]} x {sizes[0][0]}",
                where=file,
                fix="convert all frames to one size",
            )

    def read() -> Iterator[Frame]:
        for index, file in enumerate(files):
            pixels = read_frame(file)
            if pixels.shape[:2] != sizes[0]:
                raise InputError(f"frame {index} of {len(files)} changed while the folder was read", where=file)
            yield Frame(index, file.stem, pixels)

    notes = tuple(f"{count} of {len(files)} frames {what}" for what, count in sorted(counts.items()))
    return FrameSource(folder, sizes[0], len(files), None, True, notes, read)


def read_frame(path: Path) -> NDArray[np.uint8]:
    """Read one PNG, JPEG, BMP or TIFF file.

    Returns:
        [H, W, 3] red, green and blue with the EXIF orientation applied; the upper 8 of 16 bits, without alpha.
    """
    with _opened(path) as image, _pillow_errors(path):
        if image.mode.startswith("I;16"):
            upper = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(upper[..., None], 3, axis=2)
        # Pillow applies the orientation of a TIFF itself.
        turned = require_package("PIL.ImageOps").exif_transpose(image) if image.format in _JPEG else image
        pixels: NDArray[np.uint8] = np.array(turned.convert("RGB"))
    return pixels


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image without reading its pixels."""
    image_module = require_package("PIL.Image")
    with gate.open_regular(path) as file:
        with _pillow_errors(path):
            image = image_module.open(file, formats=_FORMATS)
        check_frame_size(image.height, image.width, path)
        with _pillow_errors(path):
            pages, orientation = getattr(image, "n_frames", 1), _orientation(image)
        if pages > 1:
            raise InputError(f"expected one image, got {pages}", where=path, fix="store each frame as a file")
        if image.mode not in _GREY_MODES + _COLOUR_MODES or (image.mode.startswith("I;16") and orientation > 1):
            raise InputError(
                f"expected 8 bits per colour, or 16 bits without EXIF orientation, got Pillow's mode {image.mode}",
                where=path,
                fix="convert it to PNG",
            )
        yield image


@contextmanager
def _pillow_errors(path: Path) -> Iterator[None]:
    """Translate exceptions of Pillow into an InputError that names the file."""
    with gate.library_errors(path), warnings.catch_warnings():
        # Pillow warns about sizes, which check_frame_size covers, and about damaged EXIF, which is then ignored.
        warnings.simplefilter("ignore")
        try:
            yield
        except OSError as error:
            # Errors of the system have a number, those of Pillow do not.
            if error.errno is not None:
                raise
            raise InputError(
                f"expected a complete image ({str(error).split(' <')[0]})", where=path, fix="copy or export it again"
            ) from error


def _conversions(image: Any) -> Iterator[str]:
    """Yield what reading changes in an image, for a note."""
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        yield "have an alpha channel, which is ignored"
    if image.mode in _GREY_MODES:
        yield "are grey"
    if image.mode.startswith("I;16"):
        yield "have 16 bits per colour, of which the upper 8 are used"
    if _orientation(image) > 1:
        yield "are rotated according to their EXIF orientation"


def _size(image: Any) -> tuple[int, int]:
    """Return rows and columns with the orientation applied; for TIFF, Pillow does so itself."""
    is_swapped = image.format in _JPEG and _orientation(image) in _QUARTER_TURNS
    return (image.width, image.height) if is_swapped else (image.height, image.width)


def _orientation(image: Any) -> int:
    # Not for PNG: Pillow would decode the complete file, and programs that write PNG rotate the pixels themselves.
    return int(image.getexif().get(_ORIENTATION, 1)) if image.format in (*_JPEG, "TIFF") else 1
