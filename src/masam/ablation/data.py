"""The data set of a table: its cases, and the hashes by which finished cells are recognized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from masam.cases.folder import Case, CaseFolder, read_dataset
from masam.cases.splits import SPLITS_FILE
from masam.cases.video import is_video_case
from masam.errors import ConfigError, InputError, some_of
from masam.io import gate
from masam.io.images import image_sha256
from masam.io.nifti.file import ENDINGS, read_geometry
from masam.io.video.reader import open_frames, video_sha256
from masam.preprocess.orientation import Orientation
from masam.preprocess.plan import Plan
from masam.progress import Progress
from masam.runs.finished import values_sha256
from masam.training.cases import are_videos
from masam.training.config import TrainConfig
from masam.training.setup import split_cases
from masam.windows import plan_windows

ScoredOn = Literal["test", "validation"]


@dataclass(frozen=True)
class AblationData:
    """A data set with hashes."""

    dataset: CaseFolder
    scored_on: ScoredOn  # ``test``: labelled test cases; ``validation``: the held-out fold of each cell
    sha256: dict[Path, tuple[str, str]]  # images and labels by first image, because ids may repeat
    training_sha256: str  # hash of everything that training reads

    @property
    def holds_videos(self) -> bool:
        """Whether its cases are videos, not volumes."""
        return are_videos(self.dataset.training or self.dataset.test)

    def scored_cases(self, config: TrainConfig) -> list[Case]:
        """Return the cases on which a run with these settings is scored, sorted by id."""
        validation = split_cases(self.dataset, config)[1]
        if self.scored_on == "test":
            return [case for case in self.dataset.test if case.label is not None]
        if not validation:
            raise ConfigError(
                "there is no case to score: the data set has no labelled test case, and all cases are for training",
                where="validate_every",
                fix="set it to 1 or more, which holds a fold out",
            )
        return sorted(validation, key=lambda case: case.id)

    def scored_sha256(self, cases: Sequence[Case]) -> str:
        """Return the SHA-256 of the images and labels of cases."""
        return values_sha256([[case.id, *self.sha256[case.images[0]]] for case in cases])


def read_data(root: Path, progress: Progress) -> AblationData:
    """Find the cases of a data set and hash their files."""
    dataset = read_dataset(root)
    labelled = [case for case in dataset.test if case.label is not None]
    scored = [] if are_videos(dataset.training or dataset.test) else labelled or list(dataset.training)
    if foreign := [case.id for case in scored if case.label and not case.label.name.lower().endswith(ENDINGS)]:
        raise InputError(
            f"expected NIfTI labels to score against, got others for {some_of(foreign)}",
            where=root,
            fix="convert them to NIfTI",
        )
    cases = [*dataset.training, *labelled]
    progress.start("hashing cases", len(cases))
    sha256 = {}
    for case in cases:
        sha256[case.images[0]] = _case_sha256(case)
        progress.advance(case.id)
    split = root / SPLITS_FILE
    facts = [
        dataset.labels.to_mapping(),
        gate.sha256(split) if split.is_file() else None,
        [[case.id, *sha256[case.images[0]]] for case in dataset.training],
    ]
    return AblationData(dataset, "test" if labelled else "validation", sha256, values_sha256(facts))


def count_windows(data: AblationData, config: TrainConfig, plan: Plan) -> int | None:
    """Count the windows of an epoch by file headers; None where these do not hold the depth, as in DICOM.

    A crop to the content may leave fewer.
    """
    training = split_cases(data.dataset, config)[0]
    if data.holds_videos:
        counts = [open_frames(case.images[0]).count for case in training]
        return None if None in counts else sum(len(plan_windows(count, plan.window)) for count in counts if count)
    if not all(case.images[0].name.lower().endswith(ENDINGS) for case in training):
        return None
    headers = [read_geometry(case.images[0]) for case in training]
    depths = [header.shape[Orientation.of(header.geometry, plan.slice_axis).order[0]] for header in headers]
    return sum(len(plan_windows(depth, plan.window)) for depth in depths)


def _case_sha256(case: Case) -> tuple[str, str]:
    if is_video_case(case):
        images = video_sha256(case.images[0])
    else:
        images = values_sha256([image_sha256(image) for image in case.images])
    return images, "" if case.label is None else video_sha256(case.label)  # labels of a video are a folder
