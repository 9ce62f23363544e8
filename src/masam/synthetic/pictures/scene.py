"""Layers of shapes that cover each other, some of them parts of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from masam.synthetic.pictures.outlines import OUTLINES, Outline, OutlineKind, draw_outline

Arrangement = Literal["leaves", "body", "cells", "field"]
ARRANGEMENTS: tuple[Arrangement, ...] = get_args(Arrangement)


@dataclass(frozen=True, eq=False)
class Layer:
    """One shape."""

    outline: Outline  # signed distance as a function of the position relative to the centre
    centre: tuple[float, float]  # x and y in pixels
    reach: float  # half the largest extent, in pixels
    parent: int | None = None  # index of the layer that it is part of and clipped to, or None


def draw_scene(generator: np.random.Generator, side: int, arrangement: Arrangement) -> list[Layer]:
    """Draw the layers of an image, the lowest first.

    Args:
        generator: Source of randomness.
        side: Rows and columns of the image.
        arrangement: ``leaves`` are shapes of all sizes that cover each other (dead leaves model), ``body`` is one large
            shape with parts and parts of parts, ``cells`` are many similar shapes, ``field`` are a few shapes, and
            tubes that enter from the border.

    Source:
        Lee, Mumford and Huang, Occlusion models for natural images (IJCV 2001), for ``leaves`` and their sizes.
    """
    return {"leaves": _leaves, "body": _body, "cells": _cells, "field": _field}[arrangement](generator, side)


def _layer(
    generator: np.random.Generator,
    kind: OutlineKind,
    centre: tuple[float, float],
    reach: float,
    parent: int | None = None,
) -> Layer:
    return Layer(draw_outline(generator, kind, reach), centre, reach, parent)


def _any_kind(generator: np.random.Generator) -> OutlineKind:
    return OUTLINES[generator.choice(len(OUTLINES), p=(0.4, 0.15, 0.15, 0.1, 0.2))]


def _place(generator: np.random.Generator, side: int) -> tuple[float, float]:
    x, y = generator.uniform(0, side, 2)
    return float(x), float(y)


def _leaves(generator: np.random.Generator, side: int) -> list[Layer]:
    smallest, largest = side / 28, side / generator.uniform(2.2, 5)
    count = int(generator.integers(5, 26))
    # The cubic law of dead leaves covers all scales; a smaller exponent leaves more shapes large enough to prompt.
    sizes = _power_law(generator.random(count), smallest, largest, 1.6)
    return [_layer(generator, _any_kind(generator), _place(generator, side), float(size)) for size in sizes]


def _power_law(unit: np.ndarray, low: float, high: float, exponent: float) -> np.ndarray:
    """Map uniform numbers to numbers from low to high with a density proportional to size ** -exponent."""
    power = 1 - exponent
    sizes: np.ndarray = (low**power + unit * (high**power - low**power)) ** (1 / power)
    return sizes


def _body(generator: np.random.Generator, side: int) -> list[Layer]:
    x, y = side / 2 + generator.normal(0, side / 16, 2)
    layers = [_layer(generator, "harmonics", (float(x), float(y)), side * generator.uniform(0.36, 0.7))]
    if generator.random() < 0.5:  # a rim of fat or bone and its inside
        layers.append(_layer(generator, "harmonics", (float(x), float(y)), layers[0].reach * 0.85, 0))
    inside = len(layers) - 1
    for _ in range(generator.integers(3, 11)):
        organ = _inner(generator, layers[inside], inside, (0.08, 0.42), _any_kind(generator))
        layers.append(organ)
        number = len(layers) - 1
        for _ in range(generator.integers(0, 3)):
            kind: OutlineKind = "tube" if generator.random() < 0.25 else "harmonics"
            layers.append(_inner(generator, organ, number, (0.12, 0.5), kind))
    return layers


def _inner(
    generator: np.random.Generator, outer: Layer, number: int, sizes: tuple[float, float], kind: OutlineKind
) -> Layer:
    """Draw a part of a layer."""
    reach = outer.reach * generator.uniform(*sizes) * (1.6 if kind == "tube" else 1)
    away = outer.reach * 0.75 * np.sqrt(generator.random())
    angle = generator.uniform(0, 2 * np.pi)
    x, y = outer.centre[0] + away * np.cos(angle), outer.centre[1] + away * np.sin(angle)
    return _layer(generator, kind, (float(x), float(y)), float(reach), number)


def _cells(generator: np.random.Generator, side: int) -> list[Layer]:
    reach = side * generator.uniform(0.04, 0.12)
    kind = _any_kind(generator)
    across = max(2, int(side / (reach * generator.uniform(2.2, 4))))
    step = side / across
    places = np.argwhere(generator.random((across, across)) < generator.uniform(0.25, 0.9))
    chosen = places[generator.permutation(len(places))[:40]]
    jitter = generator.normal(0, step / 6, (len(chosen), 2))
    sizes = reach * generator.uniform(0.7, 1.3, len(chosen))
    centres = (chosen + 0.5) * step + jitter
    layers: list[Layer] = []
    for (y, x), size in zip(centres, sizes, strict=True):
        layers.append(_layer(generator, kind, (float(x), float(y)), float(size)))
        if generator.random() < 0.15:
            layers.append(_inner(generator, layers[-1], len(layers) - 1, (0.3, 0.6), "harmonics"))
    return layers


def _field(generator: np.random.Generator, side: int) -> list[Layer]:
    layers = [
        _layer(generator, _any_kind(generator), _place(generator, side), side * generator.uniform(0.12, 0.45))
        for _ in range(generator.integers(1, 6))
    ]
    for _ in range(generator.integers(1, 5)):
        angle = generator.uniform(0, 2 * np.pi)
        centre = (side / 2 * (1 + np.cos(angle)), side / 2 * (1 + np.sin(angle)))
        layers.append(_layer(generator, "tube", centre, side * generator.uniform(0.25, 0.6)))
        if generator.random() < 0.4:  # the tip of an instrument
            layers.append(_inner(generator, layers[-1], len(layers) - 1, (0.3, 0.6), "polygon"))
    return layers
