"""The head data set of the demo: slabs of the MNI152 T1 template of the nilearn package, with grey and white matter.

The template is the average of 152 brains, without the skull. It demonstrates the pipeline on an MR image, offline. It
is a single brain, so scores on the held-out slabs do not generalise to other people.

Source: Fonov et al., NeuroImage 54 (2011) 313-327 (ICBM 2009 template), as distributed with nilearn.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masam.synthetic.raw_folder import RawFolder
from masam.volume import Geometry, Volume

LABELS = {"background": 0, "grey_matter": 1, "white_matter": 2}
"""Class names and label values; cerebrospinal fluid and everything outside the brain are background."""

SLAB_SLICES, GAP_SLICES, TEST_EVERY = 14, 5, 3
"""Slices per case, slices between two cases, and one test case out of how many."""

# Grey matter, white matter and fluid add up to one, so the larger tissue share is below 1/3 only where fluid dominates.
TISSUE_FLOOR = 1 / 3

# The template ranges from 0 to 1 in floats. Integers halve the disk space, and 1000 steps preserve its 8 bits.
INTENSITY_TOP = 1000

# Slices at the ends of the brain with fewer voxels of either tissue are left out.
_MIN_TISSUE_VOXELS = 500
_MARGIN_VOXELS = 6


@dataclass(frozen=True)
class Slab:
    """One case: consecutive axial slices of the template."""

    name: str  # case name
    split: str  # ``train`` or ``test``
    first: int  # index of its lowest slice in the template
    last: int  # index of its highest slice, inclusive


def plan_slabs(depth: int) -> list[Slab]:
    """Cut a volume into slabs with unused slices between them, from the feet upwards.

    The gaps keep test slices away from training slices, since neighbouring slices are similar.
    """
    starts = range(0, depth - SLAB_SLICES + 1, SLAB_SLICES + GAP_SLICES)
    splits = ["test" if n % TEST_EVERY == TEST_EVERY - 1 else "train" for n in range(len(starts))]
    return [
        Slab(f"head_{n:02d}", split, start, start + SLAB_SLICES - 1)
        for n, (start, split) in enumerate(zip(starts, splits, strict=True))
    ]


def load_head() -> tuple[Volume, Volume]:
    """Load and label the template, cropped to the brain and a margin.

    Returns:
        T1 image (int16, 0 to 1000) and labels (uint8, ``LABELS``), 1 mm voxels, axes right, front, head.

    Raises:
        ResourceError: nilearn is not installed.
    """
    from masam.io.packages import require_package

    datasets = require_package("nilearn.datasets")
    template = datasets.load_mni152_template(resolution=1)
    t1 = np.asarray(template.dataobj, dtype=np.float32)
    grey = np.asarray(datasets.load_mni152_gm_template(resolution=1).dataobj, dtype=np.float32)
    white = np.asarray(datasets.load_mni152_wm_template(resolution=1).dataobj, dtype=np.float32)
    brain = np.asarray(datasets.load_mni152_brain_mask(resolution=1).dataobj) > 0

    labels = label_tissue(grey, white, brain)
    image = np.clip(np.rint(t1 * INTENSITY_TOP), 0, INTENSITY_TOP).astype(np.int16)
    box = _brain_box(labels, brain)
    affine = np.array(template.affine, dtype=np.float64)
    affine[:3, 3] = affine[:3] @ [*(axis.start for axis in box), 1]
    geometry = Geometry(affine)
    return Volume(image[box].copy(), geometry), Volume(labels[box].copy(), geometry)


def label_tissue(grey: NDArray[np.float32], white: NDArray[np.float32], brain: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Label each voxel of the brain with the tissue of the larger share.

    nilearn's own tissue masks are unsuitable as labels, since they overlap in a third of the brain.

    Args:
        grey: Share of grey matter, 0 to 1.
        white: Share of white matter, 0 to 1, of the same shape.
        brain: Brain mask, of the same shape.

    Returns:
        ``LABELS`` values; 0 outside the brain and where both shares are below ``TISSUE_FLOOR``.
    """
    tissue = np.where(white > grey, LABELS["white_matter"], LABELS["grey_matter"])
    labels: NDArray[np.uint8] = np.where(brain & (np.maximum(grey, white) >= TISSUE_FLOOR), tissue, 0).astype(np.uint8)
    return labels


def write_head(root: Path) -> Path:
    """Write the data set as an nnU-Net raw folder, with the labels of the held-out slabs in ``labelsTs``.

    ``slabs.json`` and ``README.txt`` in the folder document the split.

    Args:
        root: Folder to write; created if missing.

    Returns:
        The folder.

    Raises:
        InputError: The folder contains cases of another data set.
        ResourceError: nilearn is not installed, or a file cannot be written.
    """
    from masam.atomic import write_text

    image, labels = load_head()
    slabs = plan_slabs(image.shape[2])
    train, test = (tuple(slab.name for slab in slabs if slab.split == split) for split in ("train", "test"))
    folder = RawFolder(root, train, test, ("T1",), LABELS)
    folder.begin()
    for slab in slabs:
        folder.write_case(slab.name, _cut(image, slab), _cut(labels, slab))
    facts = {
        "slab_slices": SLAB_SLICES,
        "gap_slices": GAP_SLICES,
        "test_every": TEST_EVERY,
        "slabs": [{**asdict(slab), "z_mm": _z_range_mm(image, slab)} for slab in slabs],
    }
    write_text(root / "slabs.json", json.dumps(facts, indent=2) + "\n")
    write_text(root / "README.txt", _readme(slabs))
    folder.finish("Head", "Slabs of the MNI152 T1 template (one average brain); see README.txt.")
    return root


def _brain_box(labels: NDArray[np.uint8], brain: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    """Return the box of the brain: with a margin in plane, and along z the slices that contain both tissues."""
    bounds = []
    for axis in (0, 1):
        occupied = np.flatnonzero(brain.any(axis=tuple({0, 1, 2} - {axis})))
        low, high = max(occupied[0] - _MARGIN_VOXELS, 0), min(occupied[-1] + _MARGIN_VOXELS + 1, brain.shape[axis])
        bounds.append(slice(int(low), int(high)))
    enough = [(labels == value).sum(axis=(0, 1)) >= _MIN_TISSUE_VOXELS for value in (1, 2)]
    slices = np.flatnonzero(enough[0] & enough[1])
    return bounds[0], bounds[1], slice(int(slices[0]), int(slices[-1]) + 1)


def _cut(volume: Volume, slab: Slab) -> Volume:
    """Return a slab of a volume with its own affine."""
    affine = np.array(volume.geometry.affine)
    affine[:3, 3] += affine[:3, 2] * slab.first
    return Volume(volume.array[:, :, slab.first : slab.last + 1], Geometry(affine))


def _z_range_mm(volume: Volume, slab: Slab) -> list[float]:
    """Return the z position of a slab's first and last slice in MNI space."""
    affine = volume.geometry.affine
    return [round(float(affine[2, 3] + affine[2, 2] * k), 3) for k in (slab.first, slab.last)]


def _readme(slabs: list[Slab]) -> str:
    lines = [
        "Head: slabs of the MNI152 T1 template (ICBM 2009, 1 mm) as distributed with nilearn.",
        "",
        "Labels: 1 grey matter, 2 white matter: the larger of the two tissue templates inside the brain mask,",
        f"0 where both are below {TISSUE_FLOOR:.2f} (fluid).",
        "",
        "This is one average brain. Training and test slabs come from the same head, so scores show that the pipeline",
        f"works, not how a model generalises to other people. {GAP_SLICES} slices between two slabs are unused, so",
        "that no test slice is adjacent to a training slice.",
        "",
        "case      split  slices (of the cropped template)",
    ]
    lines += [f"{slab.name:<9} {slab.split:<6} {slab.first} to {slab.last}" for slab in slabs]
    return "\n".join(lines) + "\n"
