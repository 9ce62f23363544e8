"""Surface area inside a cube of 2 x 2 x 2 voxel centres, for each of its 256 configurations.

As in marching cubes, the surface cuts each cube edge between an inside and an outside voxel at its midpoint, and the
cuts are joined to polygons. Ambiguous configurations are resolved as in DeepMind's ``surface-distance``, the standard
implementation of the surface Dice; a test compares all 256 areas. If two opposite corners of a face are inside, the
kind of corner (inside or outside) that is rarer in the cube is cut off. A polygon that is not planar is split into the
triangle fan with the largest area on the unit cube.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

_Point = tuple[int, int, int]

MAX_TRIANGLES = 4
"""Largest number of triangles of a configuration."""


def filling_codes(padded: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the configuration of every cube of 2 x 2 x 2 voxels of an [I, J, K] mask with an empty border.

    Returns:
        [I - 1, J - 1, K - 1] codes; 0 is fully outside, 255 fully inside, and all others contain surface.
    """
    size = [n - 1 for n in padded.shape]
    codes = np.zeros(size, dtype=np.uint8)
    for i, j, k in product((0, 1), repeat=3):
        corner = padded[i : i + size[0], j : j + size[1], k : k + size[2]].view(np.uint8)
        codes |= corner << np.uint8(_bit((i, j, k)))
    return codes


def element_areas_mm2(spacing_mm: tuple[float, float, float]) -> NDArray[np.float64]:
    """Return [256] areas in mm², indexed by configuration code, for voxels of this spacing."""
    a, b, c = spacing_mm
    # The component of a normal along an axis is the area projected along it, which scales with the other two spacings.
    return np.asarray(np.linalg.norm(_normals() * (b * c, a * c, a * b), axis=2).sum(axis=1))


@cache
def _normals() -> NDArray[np.float64]:
    """Return [256, MAX_TRIANGLES, 3] triangle normals on the unit cube, whose lengths are the areas."""
    normals = np.zeros((256, MAX_TRIANGLES, 3))
    for code in range(256):
        triangles = np.concatenate([_largest_fan(polygon) for polygon in _polygons(code)] or [np.zeros((0, 3))])
        normals[code, : len(triangles)] = triangles
    normals.setflags(write=False)
    return normals


def _bit(corner: _Point) -> int:
    return 4 * corner[0] + 2 * corner[1] + corner[2]


def _polygons(code: int) -> list[list[_Point]]:
    """Join the cuts of one configuration to closed polygons; coordinates are in half cube edges, 0 to 2."""
    isolate = code.bit_count() <= 4  # whether inside corners are the rarer kind, which is cut off
    neighbours: dict[_Point, list[_Point]] = {}
    for axis, side in product(range(3), (0, 1)):
        u, v = (other for other in range(3) if other != axis)
        ring: list[_Point] = []
        for at_u, at_v in ((0, 0), (1, 0), (1, 1), (0, 1)):
            corner = [side] * 3
            corner[u], corner[v] = at_u, at_v
            ring.append((corner[0], corner[1], corner[2]))
        inside = [bool(code >> _bit(corner) & 1) for corner in ring]
        middles = [_sum(ring[n], ring[(n + 1) % 4]) for n in range(4)]  # middle n lies between corners n and n + 1
        cuts = [n for n in range(4) if inside[n] != inside[(n + 1) % 4]]
        pairs = [(cuts[0], cuts[1])] if len(cuts) == 2 else []
        if len(cuts) == 4:
            pairs = [((n - 1) % 4, n) for n in range(4) if inside[n] == isolate]
        for a, b in pairs:
            neighbours.setdefault(middles[a], []).append(middles[b])
            neighbours.setdefault(middles[b], []).append(middles[a])
    polygons = []
    while neighbours:
        polygon = [next(iter(neighbours))]
        while following := [point for point in neighbours.pop(polygon[-1]) if point in neighbours]:
            polygon.append(following[0])
        polygons.append(polygon)
    return polygons


def _sum(a: _Point, b: _Point) -> _Point:
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def _largest_fan(polygon: list[_Point]) -> NDArray[np.float64]:
    """Return [n - 2, 3] normals of the triangle fan of the polygon with the largest area."""
    fans = []
    for start in range(len(polygon)):
        points = np.array(polygon[start:] + polygon[:start]) / 2.0
        spokes = points[1:] - points[0]
        fans.append(np.cross(spokes[:-1], spokes[1:]) / 2.0)
    return max(fans, key=lambda fan: float(np.linalg.norm(fan, axis=1).sum()))
