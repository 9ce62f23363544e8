"""Predict scans: one label file per case, as NIfTI or as DICOM SEG."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from masam.cases.folder import Case, load_case, open_case
from masam.errors import ConfigError, InputError, some_of
from masam.io.dicom.file import DICOM_ENDING
from masam.io.dicom.seg_write import write_seg
from masam.io.images import image_sha256, is_dicom_image
from masam.io.nifti.file import write_volume
from masam.predict.batch import (
    Cohort,
    is_inside,
    is_one_of,
    require_output_folder,
    run_cases,
    segment_case,
    settings_sha256,
)
from masam.predict.predictor import Predictor
from masam.predict.requirements import match_channels, require_promptable
from masam.progress import Progress, warn_with
from masam.prompts import Prompt
from masam.runs.finished import values_sha256

Format = Literal["nifti", "dicom-seg"]
ENDINGS: dict[Format, str] = {"nifti": ".nii.gz", "dicom-seg": DICOM_ENDING}
"""Ending of the label files, by format."""

CasePrompts = Mapping[str, Sequence[Prompt]]
"""Case id to the user's prompts for its scan."""


def predict_cohort(
    predictor: Predictor,
    cases: Sequence[Case],
    out: Path,
    progress: Progress,
    file_format: Format = "nifti",
    prompts: CasePrompts | None = None,
    notes: Sequence[str] = (),
) -> Cohort:
    """Segment cases and write ``out/CASE.nii.gz``, or ``out/CASE.dcm``, for each.

    A file of an earlier run is kept if its bytes, the bytes of its scan, the model and the settings are unchanged.

    Args:
        predictor: Model and settings.
        cases: Cases to segment.
        out: Folder to write to, created if necessary.
        progress: Receives each window, and each case that failed.
        file_format: ``nifti``, or ``dicom-seg`` for cases that are DICOM series.
        prompts: Case id to its prompts; all other cases are segmented automatically.
        notes: Notes on the folder of scans, to show and to record.

    Raises:
        ResourceError: The folder cannot be written, or memory ran out.
        InputError: There is no case; a scan that is refused or cannot be read is a failed case.
        ConfigError: The folder holds the scans, or label files that no earlier run wrote; or DICOM SEG is requested for
            a scan that is not DICOM; or prompts are for a case or class that does not exist.
        ModelError: There are prompts, and the model was trained without.
    """
    if not cases:
        raise InputError("expected at least one scan, found none")
    targets = {case.id: out / f"{case.id}{ENDINGS[file_format]}" for case in cases}
    images = [image for case in cases for image in case.images]
    require_output_folder(
        out,
        [target.name for target in targets.values()],
        beside=[image.parent for image in images],
        below=[image for image in images if image.is_dir()],  # a DICOM folder is searched with its subfolders
        what="scans",
    )
    work = _scan_work(predictor, cases, targets, prompts or {}, progress)
    return run_cases(work, cases, out, progress, notes)


def predict_file(
    predictor: Predictor, case: Case, out: Path, progress: Progress, prompts: Sequence[Prompt] | None = None
) -> Cohort:
    """Segment one case into a file, which is replaced if it exists; errors are those of :func:`predict_cohort`.

    The file is ``.nii`` or ``.nii.gz``, or ``.dcm`` for a DICOM SEG of a DICOM series.
    """
    if is_one_of(out, case.images) or (case.images[0].is_dir() and is_inside(out, case.images[0])):
        raise ConfigError("the labels would replace the scan", where=out, fix="name another file")
    work = _scan_work(predictor, [case], {case.id: out}, {} if prompts is None else {case.id: prompts}, progress)
    opened, sources = work.open(case)
    return Cohort(done={case.id: segment_case(work, opened, sources)})


@dataclass(frozen=True)
class _ScanWork:
    """The work on one scan, with its label file and prompts by case id, and the hash of the settings."""

    predictor: Predictor
    settings: str
    targets: Mapping[str, Path]
    prompts: CasePrompts
    progress: Progress

    def open(self, case: Case) -> tuple[Case, dict[str, Any]]:
        """Read the headers of a scan and hash its files."""
        case = open_case(match_channels(self.predictor.plan, case))
        hashes = [image_sha256(image, series) for image, series in zip(case.images, case.series, strict=True)]
        scan = hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()
        settings, facts = self.settings, dict[str, Any]()
        if case.reading:
            facts["reading"] = dict(case.reading)
        if (prompts := self.prompts.get(case.id)) is not None:
            facts["prompts"] = [prompt.record() for prompt in prompts]
        if facts:
            settings = values_sha256([settings, *facts.values()])
        return case, {"scan_sha256": scan, "settings_sha256": settings, **facts}

    def files(self, case: Case) -> dict[str, Path]:
        """Return the label file."""
        return {"labels_sha256": self.targets[case.id]}

    def write(self, case: Case, title: str | None = None) -> dict[str, Any]:
        """Segment a scan and write its labels."""
        notes: list[str] = []
        image, _ = load_case(case, on_note=notes.append)
        for note in notes:
            warn_with(self.progress)(note)
        if title is not None:
            self.progress.log(f"{title}, {' x '.join(map(str, image.shape))} voxels")
        result = self.predictor.segment(image, self.progress, self.prompts.get(case.id))
        facts: dict[str, Any] = {"notes": notes, "cleanings": [asdict(cleaning) for cleaning in result.cleanings]}
        target, series = self.targets[case.id], case.series[0]
        if target.name.lower().endswith(DICOM_ENDING) and series is not None:
            facts["empty_classes"] = list(write_seg(target, result.labels, series.stack, self.predictor.plan.scheme))
        else:
            write_volume(target, result.labels)
        return facts


def _scan_work(
    predictor: Predictor, cases: Sequence[Case], targets: Mapping[str, Path], prompts: CasePrompts, progress: Progress
) -> _ScanWork:
    """Return the work on each scan, after all checks that need no scan to be read."""
    for case in cases:
        if targets[case.id].name.lower().endswith(DICOM_ENDING) and not is_dicom_image(case.images[0]):
            raise ConfigError(
                f"a DICOM SEG refers to DICOM images, {case.images[0].name} is not DICOM",
                where="--format dicom-seg",
                fix="write nifti",
            )
    unknown = sorted(set(prompts) - {case.id for case in cases})
    if unknown:
        raise ConfigError(
            f"there are prompts for {some_of(unknown)}, the cases are {some_of(case.id for case in cases)}",
            where="prompts",
            fix="name cases as their files are, without _0000 and ending",
        )
    for case_id, of_case in prompts.items():
        require_promptable(predictor.ensemble.models, predictor.plan, of_case, where=f"prompts of {case_id}")
    return _ScanWork(predictor, settings_sha256(predictor), targets, prompts, progress)
