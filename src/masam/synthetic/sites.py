"""Synthetic prostate MRI from six sites with different scanners, to measure generalisation to unseen sites.

The sites differ in tissue contrast, noise, coil, matrix, resolution and slice thickness, as those of the paper's
six-site prostate data set do (docs/reference/paper.md 2.4). The anatomy follows one distribution at all sites, so a
drop in scores between two sites is due to the scanner.

A case is a pure function of (seed, index, site).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np
from scipy import ndimage

from masam.errors import ConfigError
from masam.reproducibility import sample_generator
from masam.synthetic.dataset import SyntheticDataset, require_non_negative
from masam.synthetic.scan import Scan, plane_waves
from masam.synthetic.solids import Canvas, Field, Points, cut_out, ellipsoid
from masam.volume import Volume

LABELS = {"background": 0, "prostate": 1}
"""Class names and label values; the prostate is the entire gland, as in the paper's data set."""


@dataclass(frozen=True)
class Site:
    """Acquisition parameters of a site. Signals are relative to that of urine."""

    matrix: int  # rows and columns
    pixel_mm: float
    slices: int
    slice_mm: float
    fat: float
    muscle: float
    outer: float  # signal of the peripheral zone
    inner: float  # signal of the transition zone
    noise: float  # standard deviation in each of the two quadrature channels
    shading: float  # standard deviation of the logarithm of the coil sensitivity across the body
    endorectal: float  # relative signal increase at the rectum; 0 without an endorectal coil
    blur_mm: float  # standard deviation of the in-plane blur of a long echo train


SITES = MappingProxyType(
    {
        "A": Site(128, 1.40, 20, 3.6, 0.75, 0.18, 0.72, 0.45, 0.030, 0.10, 0.0, 0.5),
        "B": Site(144, 1.10, 18, 4.0, 0.55, 0.20, 0.62, 0.40, 0.035, 0.10, 2.5, 0.4),
        "C": Site(112, 1.80, 22, 3.0, 0.90, 0.36, 0.58, 0.48, 0.060, 0.20, 0.0, 1.4),
        "D": Site(128, 1.30, 20, 3.3, 0.62, 0.25, 0.80, 0.50, 0.050, 0.25, 0.0, 0.6),
        "E": Site(144, 1.00, 30, 2.2, 0.40, 0.30, 0.48, 0.36, 0.045, 0.15, 5.0, 0.3),
        "F": Site(112, 1.60, 14, 5.0, 0.95, 0.15, 0.85, 0.60, 0.070, 0.30, 0.0, 0.9),
    }
)
"""Sites by letter; the paper trains on A."""

_URINE, _BOWEL_GAS, _BONE, _MARROW, _WALL = 1.0, 0.02, 0.05, 0.5, 0.3
_URINE_INTENSITY = 900
"""Stored intensity of a signal of 1."""


def make_site_case(seed: int, index: int, site: str) -> tuple[Volume, Volume]:
    """Make one case.

    Args:
        seed: Seed of the data set, 0 or more.
        index: Index of the case at its site, 0 or more; it also selects the orientation (``scan.STORAGE``).
        site: Letter of the site, see ``SITES``.

    Returns:
        T2-weighted image (int16, arbitrary units) and labels (uint8, ``LABELS``), on the same grid.

    Raises:
        ConfigError: The site is unknown, or a number is negative.
    """
    require_non_negative(seed, index)
    if site not in SITES:
        raise ConfigError(f"expected a site of {', '.join(SITES)}, got {site!r}", where="site")
    how = SITES[site]
    # Different patients at each site.
    number = index * len(SITES) + list(SITES).index(site)
    anatomy, coil, noise, position = sample_generator(seed, number).spawn(4)
    shape = (how.matrix, how.matrix, how.slices)
    scan = Scan.draw(index, position, shape, (how.pixel_mm, how.pixel_mm, how.slice_mm))
    canvas = Canvas.filled(shape, 0.0, edge_mm=max(2.0, how.pixel_mm))
    rectum = _paint_pelvis(canvas, scan.deformed(), scan.texture(noise), how, anatomy)
    signal = _add_mr_scanner(canvas.image, scan.points, rectum, how, coil, noise)
    return scan.store(np.clip(signal * _URINE_INTENSITY, 0, 32767), canvas.labels)


def write_sites(root: Path, *, train: int, test: int, seed: int = 0) -> Path:
    """Write one data set per site, ``root/A`` to ``root/F``; ``train`` and ``test`` are numbers of cases per site.

    Arguments, result and errors are otherwise those of :meth:`SyntheticDataset.write`.
    """
    for site in SITES:
        make_case = partial(make_site_case, site=site)
        dataset = SyntheticDataset(f"Site {site}", f"Prostate T2 MRI, site {site}", ("T2",), LABELS, make_case)
        dataset.write(root / site, train=train, test=test, seed=seed)
    return root


def _paint_pelvis(canvas: Canvas, points: Points, texture: Field, how: Site, generator: np.random.Generator) -> Field:
    """Paint the pelvis around a prostate at the origin; return the distance to the rectum."""
    paint = canvas.paint

    def vary(mean: float, spread: float) -> float:
        return float(generator.uniform(mean - spread, mean + spread))

    body = ellipsoid(points.moved((0.0, -8.0, 0.0)), (175.0, 112.0, math.inf))
    paint(body, how.fat * (1 + 0.05 * texture))
    muscle = how.muscle * (1 + 0.12 * texture)
    for side in (-1, 1):
        paint(ellipsoid(points.moved((side * 58.0, -68.0, 0.0)).turned(side * 25.0), (48.0, 22.0, math.inf)), muscle)
        paint(ellipsoid(points.moved((side * 47.0, 8.0, 0.0)).turned(side * 12.0), (9.0, 34.0, math.inf)), muscle)
        acetabulum = ellipsoid(points.moved((side * 74.0, 12.0, 8.0)), (19.0, 30.0, 48.0))
        paint(acetabulum, _BONE)
        paint(acetabulum + 3, _MARROW * how.fat * (1 + 0.2 * texture))
        pubis = ellipsoid(points.moved((side * 18.0, 52.0, -10.0)).turned(-side * 30.0), (22.0, 9.0, 20.0))
        paint(pubis, _BONE)
        paint(pubis + 2.5, _MARROW * how.fat * (1 + 0.2 * texture))
        levator = points.moved((side * vary(29.0, 2.0), -14.0, -12.0)).turned(side * 14.0)
        paint(ellipsoid(levator, (3.5, 30.0, 26.0)), muscle)
    bladder = ellipsoid(points.moved((vary(0.0, 3.0), 16.0, vary(46.0, 4.0))), (vary(38.0, 6.0), vary(27.0, 4.0), 24.0))
    paint(bladder - 3.5, _WALL)
    paint(bladder, _URINE)
    # An endorectal coil is a balloon: it widens the rectum and compresses the gland.
    radius = 17.0 if how.endorectal else vary(11.0, 2.5)
    rectum = ellipsoid(points.moved((vary(0.0, 3.0), -20.0 - radius, 0.0)), (radius * 1.1, radius, math.inf))
    vesicles = ellipsoid(Points(np.abs(points.x) - 15, points.y + 13, points.z - 27), (14.0, 5.5, 7.0))
    lobules: Field = np.abs(plane_waves(points, generator, (5.0, 8.0)))
    paint(vesicles, 0.55 * how.outer + 0.45 * lobules)
    # Veins in front of the gland have its intensity, so its front has no clear border.
    plexus = ellipsoid(points.moved((0.0, 23.0, -4.0)), (20.0, 6.0, 20.0))
    paint(plexus, how.outer * (0.75 + 0.25 * plane_waves(points, generator, (6.0, 11.0))))
    _paint_gland(canvas, points, texture, how, rectum, generator)
    paint(rectum, _WALL)
    paint(rectum + 3, _BOWEL_GAS if how.endorectal or generator.uniform() < 0.5 else vary(0.5, 0.15))
    return rectum


def _paint_gland(
    canvas: Canvas, points: Points, texture: Field, how: Site, rectum: Field, generator: np.random.Generator
) -> None:
    """Paint capsule, peripheral zone and transition zone, whose nodules enlarge the gland."""
    size, growth = generator.uniform(0.85, 1.1), generator.uniform(0.9, 1.2)
    radii = (23.0 * size * math.sqrt(growth), 16.5 * size * growth, 18.5 * size * growth)
    lobes = plane_waves(points, generator, (25.0, 45.0))
    gland = cut_out(ellipsoid(points, radii) + 1.1 * lobes, rectum - 2, 3.0)
    inner = ellipsoid(points.moved((0.0, 3.5, 2.0)), (radii[0] * 0.7, radii[1] * 0.68, radii[2] * 0.75)) + lobes
    capsule = how.muscle * 0.9
    canvas.paint(gland, capsule, LABELS["prostate"])
    canvas.paint(gland + 1.2, how.outer * (1 + 0.08 * texture), None)
    nodules = plane_waves(points, generator, (9.0, 16.0))
    canvas.paint(np.maximum(inner, gland + 2), capsule, None)
    canvas.paint(np.maximum(inner + 1.2, gland + 2), how.inner * (1 + 0.28 * nodules), None)
    canvas.paint(ellipsoid(points.moved((0.0, 4.0, 0.0)), (2.5, 2.5, radii[2])), how.outer, None)


def _add_mr_scanner(
    signal: Field, scan: Points, rectum: Field, how: Site, coil: np.random.Generator, noise: np.random.Generator
) -> Field:
    """Add in-plane blur, the coil sensitivity and the Rician noise of a magnitude image."""
    blurred = ndimage.gaussian_filter(signal, (how.blur_mm / how.pixel_mm, how.blur_mm / how.pixel_mm, 0))
    shading = np.exp(np.float32(how.shading) * plane_waves(scan, coil, (160.0, 300.0)))
    near = 1 + how.endorectal * np.exp(-np.maximum(rectum, 0) / 18)
    channels = noise.standard_normal((2, *signal.shape), dtype=np.float32) * np.float32(how.noise)
    magnitude: Field = np.hypot(blurred * shading * near + channels[0], channels[1]).astype(np.float32)
    return magnitude
