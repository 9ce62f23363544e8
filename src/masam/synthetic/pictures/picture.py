"""One labelled synthetic image: draw a scene, paint its layers, add the artefacts of a modality, degrade it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray

from masam.errors import ConfigError
from masam.synthetic.pictures.degrade import degrade
from masam.synthetic.pictures.looks import LOOKS, TEXTURE, Look, draw_body, draw_ground, draw_level, take_picture
from masam.synthetic.pictures.noise import spectrum_noise
from masam.synthetic.pictures.outlines import box_around, cover, draw_outline, positions
from masam.synthetic.pictures.scene import ARRANGEMENTS, Arrangement, Layer, draw_scene
from masam.synthetic.pictures.surface import draw_surface, paint

SMALLEST_SIDE = 32
"""Smaller images have no room for parts."""

_LEAST_SHARE = 1 / 1500
"""Smallest visible share of the image for a shape to count as an object (44 pixels of 256 x 256)."""

_ODDS: dict[Look, tuple[float, ...]] = {
    "ct": (0.2, 0.6, 0.1, 0.1),
    "mr": (0.2, 0.6, 0.1, 0.1),
    "ultrasound": (0.3, 0.4, 0.2, 0.1),
    "colour": (0.35, 0.15, 0.15, 0.35),
}
"""Probability of each arrangement, by modality."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A synthetic image and its objects.

    Attributes:
        image: [3, H, W], 0 to 1; grey images have three equal channels.
        visible: [H, W] number of the visible object, 1 to M, or 0.
        parents: For objects 1 to M the number of the object that each is part of, or 0.
        look: Modality.
        arrangement: Arrangement of the shapes.
    """

    image: Float[NDArray[np.float32], "3 H W"]
    visible: Int[NDArray[np.int16], "H W"]
    parents: tuple[int, ...]
    look: Look
    arrangement: Arrangement

    @property
    def masks(self) -> Bool[NDArray[np.bool_], "M H W"]:
        """The visible area of each object including its parts: the mask of an organ contains its lesions."""
        numbers = np.arange(len(self.parents) + 1)
        belongs = numbers[:, None] == numbers  # [object, visible number]
        # Parts have higher numbers than their parents, so one backward pass includes parts of parts.
        for number in range(len(self.parents), 0, -1):
            if parent := self.parents[number - 1]:
                belongs[parent] |= belongs[number]
        return np.stack([belongs[number][self.visible] for number in numbers[1:]])


def make_picture(
    generator: np.random.Generator, side: int, look: Look | None = None, arrangement: Arrangement | None = None
) -> Picture:
    """Make an image with at least one object, as a function of the generator's state.

    Args:
        generator: Source of randomness.
        side: Rows and columns, 32 or more.
        look: ``ct``, ``mr``, ``ultrasound`` or ``colour``; drawn by default.
        arrangement: ``leaves``, ``body``, ``cells`` or ``field``, see :func:`draw_scene`; drawn by default.

    Raises:
        ConfigError: The side is too small.
    """
    if side < SMALLEST_SIDE:
        raise ConfigError(f"expected {SMALLEST_SIDE} pixels or more, got {side}", where="side")
    drawn = LOOKS[generator.choice(len(LOOKS), p=(0.3, 0.25, 0.15, 0.3))]
    look = look or drawn
    drawn_arrangement = ARRANGEMENTS[generator.choice(len(ARRANGEMENTS), p=_ODDS[look])]
    arrangement = arrangement or drawn_arrangement
    fine, coarse = generator.uniform(0.4, 1.4), generator.uniform(1.5, 2.6)
    fields = np.concatenate([spectrum_noise(generator, side, exponent) for exponent in (fine, coarse)])
    layers = [*draw_scene(generator, side, arrangement)]
    if arrangement != "body":  # place one shape on top of all others
        centre = generator.uniform(side / 4, side * 3 / 4, 2)
        reach = side * generator.uniform(0.08, 0.2)
        layers.append(Layer(draw_outline(generator, "harmonics", reach), (float(centre[0]), float(centre[1])), reach))
    values, visible = _paint_layers(generator, layers, look, arrangement, fields)
    image = degrade(generator, take_picture(generator, look, values, fields))
    objects, parents = _objects(visible, layers)
    return Picture(np.ascontiguousarray(np.broadcast_to(image, (3, side, side))), objects, parents, look, arrangement)


def _paint_layers(
    generator: np.random.Generator,
    layers: list[Layer],
    look: Look,
    arrangement: Arrangement,
    fields: NDArray[np.float32],
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Paint the layers; return intensities [C, H, W] and the visible layer [H, W], counted from 1."""
    side = fields.shape[-1]
    ground = draw_ground(generator, look)
    shared = draw_level(generator, look, ground)  # intensity of all cells
    if arrangement == "body":
        ground, shared = draw_body(generator, look, ground)
    everywhere = slice(0, side)
    x, y = positions(everywhere, everywhere, (side / 2, side / 2))
    behind = draw_surface(generator, ground, TEXTURE[look], len(fields), side)
    values = paint(behind, fields, everywhere, everywhere, x, y, np.zeros_like(x))
    seen = np.zeros((side, side), np.int16)
    levels: list[NDArray[np.float32]] = []
    for number, layer in enumerate(layers, start=1):
        below = ground if layer.parent is None else levels[layer.parent]
        is_alike = arrangement in ("cells", "body") and layer.parent is None
        level = shared if is_alike else draw_level(generator, look, below)
        levels.append(level)
        surface = draw_surface(generator, level, TEXTURE[look], len(fields), side)
        rows, columns = box_around(layer.centre, layer.reach, side)
        if rows.start == rows.stop or columns.start == columns.stop:
            continue
        x, y = positions(rows, columns, layer.centre)
        distance = layer.outline(x, y)
        share = cover(distance)
        if layer.parent is not None:
            share = share * np.isin(seen[rows, columns], _family(layers, layer.parent))
        depth = np.clip(-distance * np.float32(1 / layer.reach), 0, 1)
        box = values[:, rows, columns]
        box += share * (paint(surface, fields, rows, columns, x, y, depth) - box)
        seen[rows, columns][share > 0.5] = number
    return values, seen


def _family(layers: list[Layer], number: int) -> list[int]:
    """Return the numbers, counted from 1, of a layer and its parts."""
    family = [number]
    for other, layer in enumerate(layers):
        if layer.parent in family:
            family.append(other)
    return [member + 1 for member in family]


def _objects(seen: NDArray[np.int16], layers: list[Layer]) -> tuple[NDArray[np.int16], tuple[int, ...]]:
    """Number the layers with a sufficient visible area; the others become part of their parent or background."""
    counts = np.bincount(seen.ravel(), minlength=len(layers) + 1)
    is_object = counts >= max(4, _LEAST_SHARE * seen.size)
    is_object[0] = False
    if not is_object.any():
        is_object[1 + counts[1:].argmax()] = True
    table = np.zeros(len(layers) + 1, np.int16)
    parents: list[int] = []
    for number, layer in enumerate(layers, start=1):
        # Parents come first, so their number is known.
        parent = 0 if layer.parent is None else int(table[layer.parent + 1])
        if is_object[number]:
            parents.append(parent)
            table[number] = len(parents)
        else:
            table[number] = parent
    return table[seen], tuple(parents)
