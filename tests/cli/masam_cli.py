"""What the command-line tests share: made cases, and two ways to run a command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

SPACING = np.diag([1.5, 1.5, 4.0, 1.0])
TINY = [
    *("--size", "vit_t", "--device", "cpu", "--set", "model.adapter_channels=8", "--set", "model.fact_rank=4"),
    *("--set", "batch_windows=9", "--set", "validate_every=0"),
]
"""Settings that train the smallest model: two steps an epoch on three cases of six slices."""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one error line; what else is on stderr is progress and never looks like an error."""
        lines = [line for line in self.err.splitlines() if line.startswith("error[")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0], self.err
        assert "Traceback" not in self.err
        return lines[0]


def environment(**changes: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **changes}


def start(*words: object, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    """Start a command as a process of its own; bytes that are no UTF-8 come as escapes."""
    return subprocess.Popen(
        [sys.executable, "-m", "masam", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="backslashreplace",
        env=environment() if env is None else dict(env),
    )


def finish(process: subprocess.Popen[str]) -> Result:
    out, err = process.communicate(timeout=120)
    return Result(process.returncode, out, err)


def arrays(shape: tuple[int, int, int] = (24, 20, 6), seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """An image and its labels: two boxes of classes 1 and 2 in noise."""
    labels = np.zeros(shape, np.uint8)
    labels[4:12, 5:14] = 1
    labels[14:20, 6:12] = 2
    noise = np.random.default_rng(seed).normal(0, 20, shape)
    return (noise + labels * 100.0).astype(np.int16), labels


def save(path: Path, array: np.ndarray, affine: np.ndarray = SPACING, *, sform: int = 1, qform: int = 1) -> Path:
    """Write with nibabel, whose files are not ours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine if sform else None, sform)
    image.set_qform(affine, qform)
    nib.save(image, path)
    return path


def write_dataset(root: Path) -> Path:
    """An nnU-Net v2 raw folder: three cases to train on and two held out."""
    for split, count in (("Tr", 3), ("Ts", 2)):
        for number in range(count):
            # Another seed for the test cases: the same scan on both sides would be a fault of the data set.
            image, labels = arrays(seed=number + 10 * (split == "Ts"))
            save(root / f"images{split}" / f"{split}{number}_0000.nii.gz", image)
            save(root / f"labels{split}" / f"{split}{number}.nii.gz", labels)
    content = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0, "organ": 1, "vessel": 2},
        "numTraining": 3,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def write_msd_dataset(root: Path) -> Path:
    """The same in the layout of the Medical Segmentation Decathlon."""
    training = []
    for number in range(2):
        image, labels = arrays(seed=number)
        save(root / "imagesTr" / f"spleen_{number}.nii.gz", image)
        save(root / "labelsTr" / f"spleen_{number}.nii.gz", labels)
        training.append({key: f"./{key}sTr/spleen_{number}.nii.gz" for key in ("image", "label")})
    save(root / "imagesTs" / "spleen_9.nii.gz", arrays(seed=9)[0])
    content = {
        "name": "Spleen",
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "organ", "2": "vessel"},
        "numTraining": 2,
        "numTest": 1,
        "training": training,
        "test": ["./imagesTs/spleen_9.nii.gz"],
    }
    (root / "dataset.json").write_text(json.dumps(content))
    return root


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def no_half_files(folder: Path) -> bool:
    return not [path for path in folder.rglob("*") if path.name.startswith(".")]
