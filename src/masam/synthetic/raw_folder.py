"""Writing a data set as an nnU-Net v2 raw folder, with labels of the held-out cases for scoring.

::

    imagesTr/CASE_0000.nii.gz  labelsTr/CASE.nii.gz      cases to train on
    imagesTs/CASE_0000.nii.gz  labelsTs/CASE.nii.gz      held-out cases; nnU-Net itself knows no labelsTs
    dataset.json                                         written last: where it is, the folder is complete

Source: nnU-Net's documentation, documentation/dataset_format.md.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from masam.errors import InputError, ResourceError
from masam.volume import Volume

ENDING = ".nii.gz"
Split = Literal["Tr", "Ts"]


@dataclass(frozen=True)
class RawFolder:
    """A raw folder that is being written.

    Attributes:
        root: The folder.
        train: Names of the training cases.
        test: Names of the held-out cases.
    """

    root: Path
    train: tuple[str, ...]
    test: tuple[str, ...]

    @classmethod
    def begin(cls, root: Path, train: tuple[str, ...], test: tuple[str, ...]) -> RawFolder:
        """Begin to write; a folder of the same data set, complete or not, is written over.

        Args:
            root: The folder, there already or not.
            train: Names of the training cases.
            test: Names of the held-out cases.

        Raises:
            InputError: The folder holds cases that are not of this data set; they would be taken for its own.
            ResourceError: The folder cannot be written to.
        """
        folder = cls(root, train, test)
        expected = {folder.image_path("Tr", case) for case in train} | {folder.label_path("Tr", case) for case in train}
        expected |= {folder.image_path("Ts", case) for case in test} | {folder.label_path("Ts", case) for case in test}
        begin_folder(root, expected, root.glob(f"*T[rs]/*{ENDING}"), "files")
        return folder

    def image_path(self, split: Split, case: str) -> Path:
        """Return where a case's image goes."""
        return self.root / f"images{split}" / f"{case}_0000{ENDING}"

    def label_path(self, split: Split, case: str) -> Path:
        """Return where a case's labels go."""
        return self.root / f"labels{split}" / f"{case}{ENDING}"

    def split_of(self, case: str) -> Split:
        """Return ``Tr`` for a training case and ``Ts`` for a held-out one."""
        return "Tr" if case in self.train else "Ts"

    def write_case(self, case: str, image: Volume, labels: Volume) -> None:
        """Write one case.

        Args:
            case: Name out of ``train`` or ``test``.
            image: Its only channel.
            labels: Its labels, on the same grid.

        Raises:
            ResourceError: A file cannot be written.
        """
        from masam.io.nifti.file import write_volume

        split = self.split_of(case)
        write_volume(self.image_path(split, case), image)
        write_volume(self.label_path(split, case), labels)

    def finish(self, *, name: str, description: str, channel: str, labels: Mapping[str, int]) -> None:
        """Write ``dataset.json``.

        Args:
            name: Name of the data set.
            description: What it is, for a reader.
            channel: Name of the image channel; ``CT`` has nnU-Net clip and scale Hounsfield units over the data set.
            labels: Class name to label value.

        Raises:
            ResourceError: The file cannot be written.
        """
        from masam.atomic import write_text

        content = {
            "name": name,
            "description": description,
            "channel_names": {"0": channel},
            "labels": dict(labels),
            "numTraining": len(self.train),
            "numTest": len(self.test),
            "file_ending": ENDING,
        }
        write_text(self.root / "dataset.json", json.dumps(content, indent=2) + "\n")


def begin_folder(root: Path, expected: Collection[Path], present: Iterable[Path], kind: str) -> None:
    """Refuse a folder of another data set; make it, and take away what says that it is complete.

    Args:
        root: The folder, there already or not.
        expected: Where the cases of this data set go.
        present: Where cases lie.
        kind: What those are, in the plural.

    Raises:
        InputError: The folder holds cases that are not of this data set; they would be taken for its own.
        ResourceError: The folder cannot be written to.
    """
    foreign = sorted(path for path in present if path not in expected)
    if foreign:
        raise InputError(
            f"expected a new folder or this data set's own, found {len(foreign)} other {kind}, first {foreign[0]}",
            where=root,
            fix="name another folder, or delete this one",
        )
    # A rewrite that is cut short must not look complete.
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / "dataset.json").unlink(missing_ok=True)
    except OSError as error:
        raise ResourceError(
            f"expected a folder that can be written to ({error.strerror})", where=root, fix="name another folder"
        ) from error
