"""Write an nnU-Net v2 raw folder, including the labels of the test cases.

::

    imagesTr/CASE_0000.nii.gz  labelsTr/CASE.nii.gz      training cases
    imagesTs/CASE_0000.nii.gz  labelsTs/CASE.nii.gz      test cases; labelsTs is an extension of nnU-Net's layout
    dataset.json                                         written last, so its presence marks a complete folder

For videos, each file is replaced by a folder of frames, ``imagesTr/CASE/frame000.png``.

Source: nnU-Net's documentation, documentation/dataset_format.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from masam import atomic
from masam.errors import InputError, ResourceError
from masam.labels import LabelScheme
from masam.volume import Volume


@dataclass(frozen=True)
class RawFolder:
    """A raw folder while it is written: call :meth:`begin`, :meth:`write_case` for each case, then :meth:`finish`.

    Attributes:
        root: The folder.
        train: Names of the training cases.
        test: Names of the test cases.
        channels: Names of the image channels.
        labels: Class name to label value.
        file_ending: ``.nii.gz`` for volumes, ``.png`` for videos.
    """

    root: Path
    train: tuple[str, ...]
    test: tuple[str, ...]
    channels: tuple[str, ...]
    labels: Mapping[str, int]
    file_ending: str = ".nii.gz"

    @property
    def is_video(self) -> bool:
        """Whether the cases are videos."""
        return self.file_ending == ".png"

    def paths(self, case: str) -> tuple[Path, Path]:
        """Return the paths of a case's image and labels."""
        split = "Tr" if case in self.train else "Ts"
        names = (case, case) if self.is_video else (f"{case}_0000{self.file_ending}", f"{case}{self.file_ending}")
        return self.root / f"images{split}" / names[0], self.root / f"labels{split}" / names[1]

    def begin(self) -> None:
        """Create the folder, or mark an existing one of the same data set as incomplete, to be overwritten.

        Raises:
            InputError: The folder contains cases of another data set, which readers would include in this one.
            ResourceError: The folder is not writable, or Pillow is missing (videos).
        """
        if self.is_video:
            from masam.io.packages import require_package

            require_package("PIL.Image")
        expected = {path for case in (*self.train, *self.test) for path in self.paths(case)}
        present = self.root.glob("*T[rs]/*" if self.is_video else f"*T[rs]/*{self.file_ending}")
        foreign = sorted(path for path in present if path.name[0] != "." and path not in expected)
        if foreign:
            kind = "videos" if self.is_video else "files"
            raise InputError(
                f"expected a new folder or one with this data set, found {len(foreign)} other {kind}, "
                f"first {foreign[0]}",
                where=self.root,
                fix="choose another folder, or delete this one",
            )
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            (self.root / "dataset.json").unlink(missing_ok=True)
        except OSError as error:
            raise ResourceError(
                f"expected a writable folder ({error.strerror})", where=self.root, fix="choose another folder"
            ) from error

    def write_case(self, case: str, image: Volume | NDArray[np.uint8], labels: Volume | NDArray[np.uint8]) -> None:
        """Write one case.

        Args:
            case: One of ``train`` or ``test``.
            image: A volume with one channel, or the frames [T, H, W, 3] of a video.
            labels: Label values on the same grid; [T, H, W] for a video.

        Raises:
            ResourceError: A file cannot be written.
        """
        from masam.io.nifti.file import write_volume

        for path, part, save in zip(self.paths(case), (image, labels), (_save_frame, self._save_labels), strict=True):
            if isinstance(part, Volume):
                write_volume(path, part)
            else:
                _write_frames(path, part, save)

    def _save_labels(self, path: Path, values: NDArray[np.uint8]) -> None:
        from masam.io.video.label_frames import write_labels

        write_labels(path, values, LabelScheme.from_mapping(self.labels))

    def finish(self, name: str, description: str) -> None:
        """Write ``dataset.json``, with the name of the data set and one sentence about it."""
        content = {
            "name": name,
            "description": description,
            "channel_names": {str(number): channel for number, channel in enumerate(self.channels)},
            "labels": dict(self.labels),
            "numTraining": len(self.train),
            "numTest": len(self.test),
            "file_ending": self.file_ending,
        }
        atomic.write_text(self.root / "dataset.json", json.dumps(content, indent=2) + "\n")


def _save_frame(path: Path, frame: NDArray[np.uint8]) -> None:
    from masam.io.packages import require_package

    require_package("PIL.Image").fromarray(frame).save(path)


def _write_frames(folder: Path, frames: NDArray[np.uint8], save: Callable[[Path, NDArray[np.uint8]], None]) -> None:
    def write(temporary: Path) -> None:
        temporary.mkdir()
        for number, frame in enumerate(frames):
            save(temporary / f"frame{number:03d}.png", frame)

    atomic.write_aside(folder, write, replace=True)
