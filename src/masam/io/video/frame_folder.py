"""A folder of image files, one a frame, in the order in which a person would number them."""

from __future__ import annotations

import itertools
import re
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import InputError
from masam.io import gate
from masam.io.video.frames import Frame, FrameSource, check_frame_size, require_package

FRAME_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_JPEG = ("JPEG", "MPO")
_NUMBER = re.compile(r"(\d+)")

# EXIF's tag, and its values that turn an image by a quarter.
_ORIENTATION = 274
_QUARTER_TURNS = (5, 6, 7, 8)
_GREY_MODES = ("1", "L", "LA", "La", "I;16", "I;16L", "I;16B")
_COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr")


def natural_key(name: str) -> tuple[str | int, ...]:
    """Return a key by which frame2 comes before frame10: text and numbers in turn, text whatever its case."""
    parts = _NUMBER.split(unicodedata.normalize("NFC", name).casefold())
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def has_frames(folder: Path) -> bool:
    """Say whether a folder holds an image file, by its ending.

    Raises:
        ResourceError: The system did not let us read.
    """
    with gate.os_errors(folder):
        return any(_is_frame(path) for path in folder.iterdir())


def frame_files(folder: Path) -> list[Path]:
    """Return the image files of a folder, by their ending, in natural order; hidden files are none.

    Raises:
        InputError: Two names have one place in the order, so that it is not known which comes first.
        ResourceError: The system did not let us read.
    """
    with gate.os_errors(folder):
        files = [path for path in folder.iterdir() if _is_frame(path)]
    ordered = sorted(files, key=lambda path: (natural_key(path.stem), path.name))
    for one, other in itertools.pairwise(ordered):
        if natural_key(one.stem) == natural_key(other.stem):
            raise InputError(
                f"{one.name} and {other.name} have one place in the order of the {len(files)} frames",
                where=folder,
                fix="rename or remove one",
            )
    return ordered


def _is_frame(path: Path) -> bool:
    return path.suffix.lower() in FRAME_ENDINGS and not path.name.startswith(".") and not path.is_dir()


def open_folder(folder: Path) -> FrameSource:
    """Look at a folder of frames; of each file the header alone is read.

    Args:
        folder: Folder of PNG, JPEG, BMP or TIFF files, all of one size. Other files in it are ignored.

    Raises:
        InputError: There is no frame, two have one place in the order, sizes differ, or a header is refused.
        ResourceError: Pillow is not installed, or the system did not let us read.
    """
    files = frame_files(folder)
    if not files:
        raise InputError(
            f"expected frames ({', '.join(FRAME_ENDINGS)}), got 0 in this folder", where=folder, fix="check the path"
        )
    size, notes = None, dict.fromkeys(("had an alpha channel, which is left out", "are grey"), 0)
    notes |= dict.fromkeys(("have 16 bits a colour, of which the upper 8 are used", "are turned as their EXIF says"), 0)
    dropped, grey, deep, turned = notes
    for number, file in enumerate(files):
        with _opened(file) as image, _readable(file):
            found = _size(image)
            notes[dropped] += _has_alpha(image)
            notes[grey] += image.mode in _GREY_MODES
            notes[deep] += image.mode.startswith("I;16")
            notes[turned] += _turn(image) > 1
        size = size or found
        if found != size:
            raise InputError(
                f"frame {number} of {len(files)} has {found[1]} x {found[0]} pixels, the first one has "
                f"{size[1]} x {size[0]}",
                where=file,
                fix="bring all frames to one size",
            )
    said = tuple(f"{count} of {len(files)} frames {what}" for what, count in notes.items() if count)
    rows, columns = size or (0, 0)

    def read() -> Iterator[Frame]:
        for index, file in enumerate(files):
            pixels = read_frame(file)
            if pixels.shape[:2] != (rows, columns):
                raise InputError(f"frame {index} of {len(files)} changed while the folder was read", where=file)
            yield Frame(index, file.stem, pixels)

    return FrameSource(folder, (rows, columns), len(files), None, True, said, read)


def read_frame(path: Path) -> NDArray[np.uint8]:
    """Read one image file.

    Args:
        path: PNG, JPEG, BMP or TIFF.

    Returns:
        [H, W, 3] red, green and blue, turned as EXIF says. Of 16 bits the upper 8, without alpha, grey in all three.

    Raises:
        InputError: The file is damaged, cut off, of another format or too large.
        ResourceError: Pillow is not installed, or the system did not let us read.
    """
    with _opened(path) as image, _readable(path):
        if image.mode.startswith("I;16"):
            upper = (np.asarray(image) >> 8).astype(np.uint8)
            return np.repeat(upper[..., None], 3, axis=2)
        # A TIFF is turned by Pillow as it is read.
        turned = require_package("PIL.ImageOps").exif_transpose(image) if image.format in _JPEG else image
        pixels: NDArray[np.uint8] = np.array(turned.convert("RGB"))
    return pixels


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open an image, of which no pixel is read yet."""
    image_module = require_package("PIL.Image")
    with gate.open_regular(path) as file:
        with _readable(path):
            image = image_module.open(file, formats=_FORMATS)
        check_frame_size(image.height, image.width, path)
        with _readable(path):
            pages, turn = getattr(image, "n_frames", 1), _turn(image)
        if pages > 1:
            raise InputError(f"expected one image, got {pages}", where=path, fix="store each frame as a file")
        if image.mode not in _GREY_MODES + _COLOUR_MODES or (image.mode.startswith("I;16") and turn > 1):
            raise InputError(
                f"expected 8 or 16 bits a colour, and 16 not turned, got Pillow's mode {image.mode}",
                where=path,
                fix="convert it to PNG",
            )
        yield image


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Name the file in what Pillow raises."""
    with gate.library_errors(path), warnings.catch_warnings():
        # Pillow warns of sizes, which we judge ourselves, and of damaged EXIF, without which an image is not turned.
        warnings.simplefilter("ignore")
        try:
            yield
        except OSError as error:
            # What Pillow says of the content has no number; what the system says has one.
            if error.errno is not None:
                raise
            raise InputError(
                f"expected a whole image ({str(error).split(' <')[0]})", where=path, fix="copy or export it again"
            ) from error


def _size(image: Any) -> tuple[int, int]:
    """Return rows and columns, once the image is turned; Pillow tells those of a TIFF so."""
    is_swapped = image.format in _JPEG and _turn(image) in _QUARTER_TURNS
    return (image.width, image.height) if is_swapped else (image.height, image.width)


def _turn(image: Any) -> int:
    # Pillow would decode a whole PNG to look for it, and programs that write PNG turn the pixels themselves.
    return int(image.getexif().get(_ORIENTATION, 1)) if image.format in (*_JPEG, "TIFF") else 1


def _has_alpha(image: Any) -> bool:
    return image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info
