"""Label frames: indexed PNG files whose pixel values are label values and whose palette has the class colours."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.errors import ConfigError, InputError, ResourceError
from masam.io import gate
from masam.io.packages import require_package
from masam.io.video.frame_folder import natural_key
from masam.io.video.frames import check_frame_size
from masam.labels import LabelScheme

_MAX_FILE_BYTES = 2**28
_MAX_VALUE = 255
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_HEAD_BYTES = 33

# Colour types of PNG.
_GREY = 0
_COLOUR_TYPES = {2: "RGB", 4: "grey with alpha", 6: "RGB with alpha"}


def require_indexable(scheme: LabelScheme) -> None:
    """Raise a ConfigError if a label value is above 255, which an indexed PNG cannot store."""
    largest = max(label.value for label in scheme.labels)
    if largest > _MAX_VALUE:
        raise ConfigError(
            f"expected label values from 0 to {_MAX_VALUE} for indexed PNG, got {largest}",
            where="labels",
            fix="use smaller label values",
        )


def label_files(folder: Path) -> dict[str, Path]:
    """Return the label frames of a video: visible PNG files by their names without ending, in natural order."""
    with gate.os_errors(folder):
        files = [file for file in folder.iterdir() if file.suffix.lower() == ".png" and not file.is_dir()]
        files = [file for file in files if not file.name.startswith(".")]
    found: dict[str, Path] = {}
    for file in sorted(files, key=lambda file: (natural_key(file.stem), file.name)):
        if file.stem in found:
            raise InputError(
                f"{found[file.stem].name} and {file.name} are labels of the same frame",
                where=folder,
                fix="rename or remove one",
            )
        found[file.stem] = file
    return found


def holds_colours(path: Path) -> bool:
    """Return whether a file is a PNG that stores colours instead of values."""
    head = gate.read_head(path, _HEAD_BYTES, compressed=False)
    return len(head) == _HEAD_BYTES and head.startswith(_SIGNATURE) and head[25] in _COLOUR_TYPES


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Read the label values [H, W] of an indexed or 8-bit grey PNG."""
    image_module = require_package("PIL.Image")
    data = gate.read_bytes(path, _MAX_FILE_BYTES)
    if not data.startswith(_SIGNATURE) or len(data) < _HEAD_BYTES:
        raise InputError("expected a PNG file", where=path, fix="store label frames as indexed PNG")
    width, height = (int.from_bytes(data[start : start + 4]) for start in (16, 20))
    check_frame_size(height, width, path)
    bits, colour_type = data[24], data[25]
    if colour_type in _COLOUR_TYPES:
        raise InputError(
            f"expected an indexed PNG, whose pixel values are label values, got {_COLOUR_TYPES[colour_type]}",
            where=path,
            fix="replace each colour by the label value of its class in dataset.json",
        )
    if colour_type == _GREY and bits != 8:
        raise InputError(
            f"expected an indexed or 8-bit grey PNG, got {bits}-bit grey", where=path, fix="store it as indexed PNG"
        )
    with gate.library_errors(path):
        try:
            image: Any = image_module.open(io.BytesIO(data), formats=("PNG",))
            values = np.array(image)
        except (OSError, SyntaxError) as error:
            # The bytes are in memory, so this is not an error of the disk.
            raise InputError(
                f"expected a complete PNG ({str(error).split(' <')[0]})", where=path, fix="copy or export it again"
            ) from error
    return values.astype(np.uint8)


def write_labels(path: Path, labels: NDArray[np.uint8], scheme: LabelScheme) -> None:
    """Write the label values [H, W] of one frame, with the colours of the scheme as palette; other values are black.

    Call it inside ``atomic.write_aside``; ResourceError if the file differs when it is read back.
    """
    palette = np.zeros((_MAX_VALUE + 1, 3), np.uint8)
    for label in scheme.labels:
        palette[label.value] = label.colour
    image = require_package("PIL.Image").fromarray(labels)
    image.putpalette(palette.tobytes())
    image.save(path, format="PNG")
    if not np.array_equal(read_labels(path), labels):
        raise ResourceError("the file did not read back as it was written", where=path, fix="check the disk")
