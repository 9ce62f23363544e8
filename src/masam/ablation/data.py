"""What a table is trained and scored on: the cases, and hashes by which a finished cell knows them again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from masam.cases.folder import Case, CaseFolder, read_dataset
from masam.cases.video import is_video_case
from masam.errors import ConfigError, InputError, some_of
from masam.io import gate
from masam.io.images import image_sha256
from masam.io.nifti.file import ENDINGS, read_geometry
from masam.io.video.reader import open_frames, video_sha256
from masam.preprocess.orientation import Orientation
from masam.preprocess.plan import Plan
from masam.progress import Progress
from masam.training.cases import are_videos
from masam.training.config import TrainConfig
from masam.training.setup import split_cases
from masam.windows import plan_windows

ScoredOn = Literal["test", "validation"]


@dataclass(frozen=True)
class AblationData:
    """A data set as a table sees it.

    Attributes:
        dataset: The data set.
        scored_on: ``test``: its labelled test cases; ``validation``: the cases that a cell's fold holds out.
        sha256: Hash of each case's images, then of its labels, by where its first image lies.
        training_sha256: Hash of all that training reads.
    """

    dataset: CaseFolder
    scored_on: ScoredOn
    sha256: dict[tuple[str, str | None], tuple[str, str]]
    training_sha256: str

    @property
    def holds_videos(self) -> bool:
        """Whether its cases are videos, not volumes."""
        return are_videos(self.dataset.training or self.dataset.test)

    def scored_cases(self, config: TrainConfig) -> list[Case]:
        """Return the cases that a run with these settings is scored on, sorted by id.

        Raises:
            InputError: There are too few cases, or the published split is refused.
            ConfigError: There is no such fold, or nothing is held out.
        """
        validation = split_cases(self.dataset, config)[1]
        if self.scored_on == "test":
            return [case for case in self.dataset.test if case.label is not None]
        if not validation:
            raise ConfigError(
                "nothing is left to score: the data set has no labelled test case, and every case trains",
                where="validate_every",
                fix="set it to 1 or more, which holds a fold out",
            )
        return sorted(validation, key=lambda case: case.id)

    def scored_sha256(self, cases: Sequence[Case]) -> str:
        """Hash the images and labels of cases."""
        return _sha256([[case.id, *self.sha256[_place(case)]] for case in cases])


def read_data(root: Path, progress: Progress) -> AblationData:
    """Look at a data set: which cases it has to score on, and the bytes of all of them.

    Args:
        root: Folder of the data set.
        progress: Told of each case.

    Raises:
        InputError: The data set or a file is refused, or labels of volumes are not NIfTI files.
        ResourceError: The system did not let us read.
    """
    dataset = read_dataset(root)
    labelled = [case for case in dataset.test if case.label is not None]
    scored_on: ScoredOn = "test" if labelled else "validation"
    scored = [] if are_videos(dataset.training or dataset.test) else labelled or list(dataset.training)
    foreign = [case.id for case in scored if case.label and not case.label.name.lower().endswith(ENDINGS)]
    if foreign:
        raise InputError(
            f"expected NIfTI labels to score against, got others for {some_of(foreign)}",
            where=root,
            fix="convert them to NIfTI",
        )
    cases = [*dataset.training, *labelled]
    progress.start("hashing cases", len(cases))
    sha256 = {_place(case): _case_sha256(case, progress) for case in cases}
    split = root / "splits_final.json"
    facts = [
        dataset.labels.to_mapping(),
        gate.sha256(split) if split.is_file() else None,
        [[case.id, *sha256[_place(case)]] for case in dataset.training],
    ]
    return AblationData(dataset, scored_on, sha256, _sha256(facts))


def count_windows(data: AblationData, config: TrainConfig, plan: Plan) -> int | None:
    """Count the windows of an epoch by the heads of the files; None where heads do not tell, as those of DICOM.

    A crop to the content may leave fewer.
    """
    training = split_cases(data.dataset, config)[0]
    if data.holds_videos:
        counts = [open_frames(case.images[0]).count for case in training]
        return None if None in counts else sum(len(plan_windows(count, plan.window)) for count in counts if count)
    if not all(case.images[0].name.lower().endswith(ENDINGS) for case in training):
        return None
    heads = [read_geometry(case.images[0]) for case in training]
    depths = [head.shape[Orientation.of(head.geometry, plan.slice_axis).order[0]] for head in heads]
    return sum(len(plan_windows(depth, plan.window)) for depth in depths)


def without_labels(cases: Sequence[Case]) -> list[Case]:
    """Return cases as prediction shall see them."""
    return [replace(case, label=None) for case in cases]


def _place(case: Case) -> tuple[str, str | None]:
    # An id may stand for one case to train on and for another to test on.
    return str(case.images[0]), case.series


def _case_sha256(case: Case, progress: Progress) -> tuple[str, str]:
    if is_video_case(case):
        images = video_sha256(case.images[0])
    else:
        images = _sha256([image_sha256(image, case.series) for image in case.images])
    # A video's labels are a folder of frames.
    label = "" if case.label is None else video_sha256(case.label)
    progress.advance(case.id)
    return images, label


def _sha256(facts: object) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
