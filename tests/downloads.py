"""Public data sets as they are downloaded, with volumes of 4 x 5 x 3 voxels and pictures of 6 x 4 pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

SHAPE = (4, 5, 3)
AFFINE = np.array([[-0.8, 0, 0, 7], [0, 0.7, 0, -3], [0, 0, 3, 5], [0, 0, 0, 1.0]])

BTCV_IDS = [f"{n:04d}" for n in [*range(1, 11), *range(21, 41)]]
SITE_NUMBERS = {
    "RUNMC": range(30),
    "BMC": range(30),
    "HCRUDB": range(19),
    "UCL": [1, *range(25, 37)],
    "BIDMC": [0, *range(2, 13)],
    "HK": range(37, 49),
}
TRAIN_SEQUENCES = [*range(1, 8), *range(9, 17)]


def write_nifti(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, AFFINE)
    image.set_sform(AFFINE, 1)
    image.set_qform(AFFINE, 2)
    nib.save(image, path)


def image_of(number: int) -> np.ndarray:
    return np.full(SHAPE, number, np.int16)


def labels_of(values: Sequence[int]) -> np.ndarray:
    """An array that holds each value, over and over."""
    return np.resize(np.array(values, np.uint8), SHAPE)


def write_btcv(root: Path, ids: Iterable[str] = BTCV_IDS) -> Path:
    for number in ids:
        write_nifti(root / f"Training/img/img{number}.nii.gz", image_of(int(number)))
        write_nifti(root / f"Training/label/label{number}.nii.gz", labels_of(range(14)))
    (root / "Training/img/._img0001.nii.gz").write_bytes(b"macOS leaves these")
    return root


def write_amos(root: Path, *, named: bool = True) -> Path:
    """Four CT and two MR scans to train on, two and one to validate on, one and one without labels."""
    listed = {}
    for part, numbers in {"Tr": [1, 4, 5, 410, 507, 600], "Va": [8, 500, 501], "Ts": [2, 502]}.items():
        listed[part] = [f"amos_{number:04d}.nii.gz" for number in numbers]
        for number, name in zip(numbers, listed[part], strict=True):
            write_nifti(root / f"images{part}/{name}", image_of(number))
            if part != "Ts":
                write_nifti(root / f"labels{part}/{name}", labels_of(range(16)))
    if named:
        content = {
            "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in listed["Tr"]],
            "validation": [{"image": f"./imagesVa/{n}", "label": f"./labelsVa/{n}"} for n in listed["Va"]],
            "test": [{"image": f"./imagesTs/{n}"} for n in listed["Ts"]],
        }
        (root / "dataset.json").write_text(json.dumps(content))
    return root


def write_prostate(root: Path) -> Path:
    for site, numbers in SITE_NUMBERS.items():
        ending = "Segmentation" if site == "BMC" else "segmentation"
        for number in numbers:
            write_nifti(root / site / f"Case{number:02d}.nii.gz", image_of(number))
            write_nifti(root / site / f"Case{number:02d}_{ending}.nii.gz", labels_of([0, 1, 2, 2, 5]))
    return root


def write_msd(root: Path, prefix: str, labelled: Iterable[int], unlabelled: Iterable[int], classes: list[str]) -> Path:
    training = []
    for number in labelled:
        name = f"{prefix}_{number:03d}.nii.gz"
        write_nifti(root / "imagesTr" / name, image_of(number))
        write_nifti(root / "labelsTr" / name, labels_of(range(len(classes))))
        training.append({"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"})
    test = [f"{prefix}_{number:03d}.nii.gz" for number in unlabelled]
    for name in test:
        write_nifti(root / "imagesTs" / name, image_of(0))
    (root / "imagesTr/._x.nii.gz").write_bytes(b"macOS leaves these")
    content = {
        "name": prefix.capitalize(),
        "description": f"{prefix} segmentation",
        "reference": "a hospital",
        "licence": "CC-BY-SA 4.0",
        "modality": {"0": "CT"},
        "labels": {str(value): name for value, name in enumerate(classes)},
        "training": training,
        "test": [f"./imagesTs/{name}" for name in test],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def write_picture(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def write_endovis(root: Path, colours: np.ndarray, frames: int = 2) -> Path:
    """Every sequence, with the same label picture ([H, W, 3 or 4]) for each frame."""
    for part, sequences in {"Train": TRAIN_SEQUENCES, "Test": range(1, 5)}.items():
        for sequence in sequences:
            for number in range(frames):
                folder = root / f"{part}/seq_{sequence}"
                picture = np.full((*colours.shape[:2], 3), sequence * 10 + number, np.uint8)
                write_picture(folder / f"left_frames/frame{number:03d}.png", picture)
                write_picture(folder / f"labels/frame{number:03d}.png", colours)
    return root


def hashes(root: Path) -> dict[str, str]:
    """Every file below a folder with its content and its time."""
    return {
        str(path.relative_to(root)): f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.stat().st_mtime_ns}"
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }
