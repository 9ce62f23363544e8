"""Label images whose colours are classes: convert them to indexed PNG of label values."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masam import atomic
from masam.errors import InputError
from masam.io import gate
from masam.io.packages import require_package
from masam.io.video.label_frames import write_labels
from masam.labels import LabelScheme

Colour = tuple[int, int, int]

_MOST_SHOWN = 8


def rewrite_colours(source: Path, target: Path, *, colours: Mapping[Colour, int], labels: LabelScheme) -> None:
    """Convert a PNG in RGB, RGBA or with a palette to an indexed PNG of label values."""
    values = values_of(_read_rgb(source), colours, source)
    atomic.write_with(target, lambda temporary: write_labels(temporary, values, labels))


def values_of(colours: NDArray[np.uint8], scheme: Mapping[Colour, int], where: object = None) -> NDArray[np.uint8]:
    """Convert colours [H, W, C] to label values [H, W]; errors name the file ``where``.

    Channels after red, green and blue, such as opacity, are ignored.
    """
    by_code = {red << 16 | green << 8 | blue: value for (red, green, blue), value in sorted(scheme.items())}
    codes, values = np.array(list(by_code)), np.array(list(by_code.values()), np.uint8)
    pixels = colours[..., :3].astype(np.int64) @ (1 << 16, 1 << 8, 1)
    index = np.minimum(np.searchsorted(codes, pixels), len(codes) - 1)
    if (unknown := codes[index] != pixels).any():
        found, counts = np.unique(pixels[unknown], return_counts=True)
        order = np.argsort(-counts, kind="stable")[:_MOST_SHOWN]
        shown = [(int(found[n]), counts[n]) for n in order]
        listed = ", ".join(f"{(c >> 16, c >> 8 & 255, c & 255)} ({count} pixels)" for c, count in shown)
        more = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        raise InputError(
            f"{len(found)} colours do not belong to a class: {listed}{more}",
            where=where,
            fix="is it a photograph, or was it compressed with losses or resized with interpolation?",
        )
    return values[index]


def _read_rgb(path: Path) -> NDArray[np.uint8]:
    """Return the red, green and blue [H, W, 3] of a PNG."""
    data, image_module = gate.read_bytes(path), require_package("PIL.Image")
    # Pillow warns about images that inflate to more than memory may hold; here that is an error.
    with gate.library_errors(path), warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            with image_module.open(io.BytesIO(data), formats=["PNG"]) as image:
                if image.mode not in ("RGB", "RGBA", "P"):
                    raise InputError(f"expected a colour image, got mode {image.mode}", where=path)
                return np.asarray(image.convert("RGB"))  # opacity is dropped, not applied
        except OSError as error:
            # Raised by Pillow for a damaged image; the bytes are in memory, so the disk is not the cause.
            raise InputError("expected a complete PNG", where=path, fix="download the file again") from error
