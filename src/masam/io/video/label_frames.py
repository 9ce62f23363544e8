"""Label frames: indexed PNG files, whose pixel value is the label value and whose colours are the classes'."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import ConfigError, InputError, ResourceError
from masam.io import gate
from masam.io.video.frame_folder import natural_key
from masam.io.video.frames import check_frame_size, require_package
from masam.labels import LabelScheme

LABEL_ENDING = ".png"

_MAX_FILE_BYTES = 2**28
_MAX_VALUE = 255
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD_BYTES = 33

# PNG's kinds of pixels, as its header numbers them.
_GREY, _INDEXED = 0, 3
_OTHER_KINDS = {2: "RGB", 4: "grey with alpha", 6: "RGB with alpha"}


def require_indexable(scheme: LabelScheme) -> None:
    """Refuse classes that an indexed PNG cannot hold.

    Raises:
        ConfigError: A label value is above 255.
    """
    top = max(label.value for label in scheme.labels)
    if top > _MAX_VALUE:
        raise ConfigError(
            f"expected label values from 0 to {_MAX_VALUE}, which an indexed PNG holds, got {top}",
            where="labels",
            fix="give the classes smaller values",
        )


def label_files(folder: Path) -> dict[str, Path]:
    """Find the label frames of a video.

    Args:
        folder: Folder of PNG files; hidden files and others are none.

    Returns:
        Name without ending to file, in natural order.

    Raises:
        InputError: Two files have one name, which differ in the spelling of their endings.
        ResourceError: The system did not let us read.
    """
    with gate.os_errors(folder):
        files = [
            file
            for file in folder.iterdir()
            if file.suffix.lower() == LABEL_ENDING and not file.name.startswith(".") and not file.is_dir()
        ]
    found: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: (natural_key(file.stem), file.name)):
        if file.stem in found:
            raise InputError(
                f"{found[file.stem].name} and {file.name} are labels of one frame",
                where=folder,
                fix="rename or remove one",
            )
        found[file.stem] = file
    return found


def holds_colours(path: Path) -> bool:
    """Say whether a PNG file holds colours, as a picture does, instead of values or of what is no PNG.

    Raises:
        InputError: There is no such file, or it is no regular one.
        ResourceError: The system did not let us read.
    """
    head = gate.read_head(path, _HEAD_BYTES, compressed=False)
    return len(head) == _HEAD_BYTES and head.startswith(_SIGNATURE) and head[25] in _OTHER_KINDS


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Read one label frame.

    Args:
        path: An indexed PNG, or a grey one of 8 bits.

    Returns:
        [H, W] label values.

    Raises:
        InputError: The file is no such PNG, is damaged or cut off, or holds colours instead of values.
        ResourceError: Pillow is not installed, or the system did not let us read.
    """
    image_module = require_package("PIL.Image")
    data = gate.read_bytes(path, _MAX_FILE_BYTES)
    if not data.startswith(_SIGNATURE) or len(data) < _HEAD_BYTES:
        raise InputError("expected a PNG file", where=path, fix="store label frames as indexed PNG")
    width, height = (int.from_bytes(data[start : start + 4]) for start in (16, 20))
    check_frame_size(height, width, path)
    bits, kind = data[24], data[25]
    if kind in _OTHER_KINDS:
        raise InputError(
            f"expected an indexed PNG, whose pixel values are label values, got {_OTHER_KINDS[kind]}",
            where=path,
            fix="replace each colour by the value of its class in dataset.json",
        )
    if kind == _GREY and bits != 8:
        raise InputError(f"expected an indexed or 8-bit grey PNG, got grey of {bits} bits", where=path,
                         fix="store label frames as indexed PNG")  # fmt: skip
    with gate.library_errors(path):
        try:
            image: Any = image_module.open(io.BytesIO(data), formats=("PNG",))
            values = np.array(image)
        except (OSError, SyntaxError) as error:
            # The bytes are in memory: this is about them, not about the disk.
            raise InputError(
                f"expected a whole PNG ({str(error).split(' <')[0]})", where=path, fix="copy or export it again"
            ) from error
    return values.astype(np.uint8)


def write_labels(path: Path, labels: NDArray[np.uint8], scheme: LabelScheme) -> None:
    """Write one label frame and read it back; to be called inside ``atomic.write_aside``.

    Args:
        path: Ends in ``.png``.
        labels: [H, W] label values.
        scheme: Gives the classes' colours; other values are black.

    Raises:
        ResourceError: Pillow is not installed, or the file does not read back as it was written.
    """
    palette = np.zeros((_MAX_VALUE + 1, 3), np.uint8)
    for label in scheme.labels:
        palette[label.value] = label.colour
    image = require_package("PIL.Image").fromarray(labels)
    image.putpalette(palette.tobytes())
    image.save(path, format="PNG")
    if not np.array_equal(read_labels(path), labels):
        raise ResourceError("the file did not read back as it was written", where=path, fix="check the disk")
