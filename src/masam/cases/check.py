"""Check a data set: list all faults of its files, pairs, grids, voxels and labels in one pass."""

from __future__ import annotations

import hashlib
import os
import statistics
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from masam.cases.case import ReadOptions
from masam.cases.folder import Case, load_case, take_inventory
from masam.cases.video import UNLABELLED, is_video_case, load_video_case
from masam.errors import InputError, MasamError
from masam.labels import LabelScheme
from masam.progress import Progress, Silent

Severity = Literal["error", "warning"]

# A spacing that differs from the median by this factor is more often a wrong header than another scanner.
_SPACING_RATIO = 4.0


@dataclass(frozen=True)
class Finding:
    """A fault, or a value that is probably wrong.

    Attributes:
        severity: ``error`` if training or evaluation refuses it, ``warning`` otherwise.
        case: Id of the case; None for the data set as a whole.
        what: What is wrong, and what to do.
    """

    severity: Severity
    case: str | None
    what: str


@dataclass(frozen=True)
class CaseFacts:
    """Result of checking one case.

    Attributes:
        case: Id of the case.
        spacing_mm: Voxel spacing; None for videos and images that cannot be read.
        image_sha256: Hash of the voxels and their geometry; None for images that cannot be read.
        values: Number of voxels per label value.
        findings: Findings of this case.
    """

    case: str
    spacing_mm: tuple[float, float, float] | None = None
    image_sha256: str | None = None
    values: dict[int, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class CheckResult:
    """Result of checking a data set.

    Attributes:
        cases: Number of cases checked.
        findings: All findings: errors first, and those of the data set before those of cases.
    """

    cases: int
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    def record(self) -> dict[str, Any]:
        """Return the result as plain values for JSON."""
        return {"cases": self.cases, "errors": self.errors, "findings": [asdict(one) for one in self.findings]}

    def raise_errors(self) -> None:
        """Raise an InputError with the number of errors, if there are any."""
        if self.errors:
            raise InputError(
                f"{self.errors} error{'s' * (self.errors > 1)} in {self.cases} cases, listed above",
                fix="correct them and check again",
            )


def check_dataset(
    root: Path, progress: Progress | None = None, workers: int | None = None, reading: ReadOptions | None = None
) -> CheckResult:
    """Read every file of a data set and list all faults.

    The ``workers``, by default the number of cores, hold one case each in memory; ``progress`` advances per case.
        reading: How to read NIfTI files that are refused by default.
    """
    inventory = take_inventory(root)
    cases = [replace(case, reading=reading or {}) for case in (*inventory.training, *inventory.test)]
    progress = progress or Silent()
    progress.start("checking cases", len(cases))
    lock = threading.Lock()

    def check(case: Case) -> CaseFacts:
        facts = _check_case(case, inventory.labels)
        with lock:
            progress.advance(case.id)
        return facts

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        facts = list(pool.map(check, cases))
    findings = [Finding("error", None, fault) for fault in inventory.faults]
    findings += [finding for one in facts for finding in one.findings]
    findings += [*_duplicates(facts), *_unusual_spacings(facts), *_absent_classes(facts, inventory.labels)]
    # "error" sorts before "warning".
    findings.sort(key=lambda finding: (finding.severity, finding.case is not None, finding.case or ""))
    return CheckResult(len(cases), tuple(findings))


def _check_case(case: Case, scheme: LabelScheme | None) -> CaseFacts:
    try:
        return _check_video(case, scheme) if is_video_case(case) else _check_volume(case, scheme)
    except MasamError as error:
        return CaseFacts(case.id, findings=(Finding("error", case.id, str(error)),))


def _check_volume(case: Case, scheme: LabelScheme | None) -> CaseFacts:
    notes: list[str] = []
    image, label = load_case(case, on_note=notes.append)
    findings = [Finding("warning", case.id, note) for note in notes]
    digest = hashlib.sha256(np.ascontiguousarray(image.array.T).data)
    digest.update(image.geometry.affine.tobytes())
    values = {} if label is None else _count_values(label.array)
    if label is not None:
        findings += _check_values(case, values, scheme)
    return CaseFacts(case.id, image.geometry.spacing_mm, digest.hexdigest(), values, tuple(findings))


def _check_video(case: Case, scheme: LabelScheme | None) -> CaseFacts:
    frames, labels = load_video_case(case, unlabelled="ignore")
    findings = _constant(case, case.images[0].name, frames)
    values: dict[int, int] = {}
    if labels is not None:
        is_labelled = (labels != UNLABELLED).any(axis=(1, 2))
        if not is_labelled.all():
            what = f"{np.count_nonzero(~is_labelled)} of {len(frames)} frames have no label and are ignored"
            findings.append(Finding("warning", case.id, what))
        values = _count_values(labels[is_labelled])
        findings += _check_values(case, values, scheme)
    return CaseFacts(case.id, None, hashlib.sha256(frames.data).hexdigest(), values, tuple(findings))


def _constant(case: Case, name: str, values: NDArray[np.generic]) -> list[Finding]:
    if values.min() != values.max():
        return []
    return [Finding("warning", case.id, f"all values of {name} are {values.flat[0]:g}")]


def _count_values(labels: NDArray[np.generic]) -> dict[int, int]:
    values, counts = np.unique(labels, return_counts=True)
    return dict(zip(values.tolist(), counts.tolist(), strict=True))


def _check_values(case: Case, values: dict[int, int], scheme: LabelScheme | None) -> list[Finding]:
    findings = []
    known = set(values) if scheme is None else set(scheme.to_mapping().values())
    if unknown := {value: count for value, count in values.items() if value not in known}:
        listed = ", ".join(f"{value} ({count} voxels)" for value, count in unknown.items())
        what = f"label value {listed} is not in dataset.json, which defines {sorted(known)}"
        findings.append(Finding("error", case.id, what))
    if set(values) <= {0}:
        findings.append(Finding("warning", case.id, "the label contains no foreground voxels"))
    return findings


def _duplicates(facts: Sequence[CaseFacts]) -> list[Finding]:
    findings = []
    first: dict[str, str] = {}
    for one in facts:
        twin = first.setdefault(one.image_sha256, one.case) if one.image_sha256 is not None else one.case
        if twin != one.case:
            what = f"has the same image as {twin}; scores are too high if one is trained on and the other tested"
            findings.append(Finding("warning", one.case, what))
    return findings


def _unusual_spacings(facts: Sequence[CaseFacts]) -> list[Finding]:
    findings = []
    spacings = [(one.case, one.spacing_mm) for one in facts if one.spacing_mm is not None]
    for axis in range(3) if len(spacings) > 2 else ():
        median = statistics.median(spacing[axis] for _, spacing in spacings)
        for case, spacing in spacings:
            if not 1 / _SPACING_RATIO <= spacing[axis] / median <= _SPACING_RATIO:
                what = f"the spacing along axis {axis} is {spacing[axis]:g} mm, the median is {median:g} mm"
                findings.append(Finding("warning", case, f"{what}; check the header"))
    return findings


def _absent_classes(facts: Sequence[CaseFacts], scheme: LabelScheme | None) -> list[Finding]:
    present = {value for one in facts for value in one.values}
    absent = [label.name for label in scheme.foreground if label.value not in present] if scheme and present else []
    return [Finding("warning", None, f"no case contains voxels of {', '.join(absent)}")] if absent else []
