"""Everything that is wrong with a data set, found in one pass: files, pairs, grids, voxels, labels."""

from __future__ import annotations

import hashlib
import os
import statistics
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from masam.cases.folder import Case, load_case
from masam.cases.inventory import Inventory, take_inventory
from masam.cases.video import UNLABELLED, is_video_case, load_video_case
from masam.errors import InputError, MasamError
from masam.labels import LabelScheme
from masam.progress import Progress, Silent

Severity = Literal["error", "warning"]

# A spacing so many times the others' median is more often a wrong header than another scanner.
_ODD_SPACING = 4.0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or looks so.

    Attributes:
        severity: ``error`` if training or scoring refuses it, ``warning`` if it only looks wrong.
        case: Case it belongs to; None if it is the data set's.
        what: What is wrong, and what to do.
    """

    severity: Severity
    case: str | None
    what: str


@dataclass(frozen=True)
class CaseFacts:
    """What a look at one case found.

    Attributes:
        spacing_mm: Voxel spacing; None if the image cannot be read.
        image_sha256: Hash of the voxels and their place.
        values: Label values and their number of voxels.
        findings: What is wrong with it.
    """

    spacing_mm: tuple[float, float, float] | None = None
    image_sha256: str | None = None
    values: dict[int, int] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


@dataclass(frozen=True)
class CheckResult:
    """What came of a check.

    Attributes:
        cases: Number of cases that were looked at.
        findings: All findings, errors first, the data set's before those of cases.
    """

    cases: int
    findings: tuple[Finding, ...]

    @property
    def errors(self) -> int:
        """Number of errors."""
        return sum(finding.severity == "error" for finding in self.findings)

    def record(self) -> dict[str, Any]:
        """Return plain values."""
        return {"cases": self.cases, "errors": self.errors, "findings": [asdict(one) for one in self.findings]}

    def raise_errors(self) -> None:
        """Raise if there are errors.

        Raises:
            InputError: There are; the line says how many.
        """
        if self.errors:
            raise InputError(
                f"{self.errors} error{'s' * (self.errors > 1)} in {self.cases} cases, listed above",
                fix="correct them and check again",
            )


def check_dataset(root: Path, progress: Progress | None = None, workers: int | None = None) -> CheckResult:
    """Look at every file of a data set, and list all that is wrong with it at once.

    Args:
        root: Data set folder in the nnU-Net v2 or the MSD layout.
        progress: Told of each case.
        workers: Cases that are read at once; as many as there are cores by default. Each holds a scan in memory.

    Raises:
        InputError: There is no such folder, or no ``dataset.json`` in it.
        ResourceError: Memory does not suffice.
    """
    inventory = take_inventory(root)
    cases = [*inventory.training, *inventory.test]
    progress = progress or Silent()
    progress.start("checking cases", len(cases))
    lock = threading.Lock()

    def look(case: Case) -> CaseFacts:
        facts = _look(case, inventory)
        with lock:
            progress.advance(case.id)
        return facts

    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        facts = list(pool.map(look, cases))
    findings = [Finding("error", None, fault) for fault in inventory.faults]
    findings += [finding for one in facts for finding in one.findings]
    findings += _between_cases(cases, facts, inventory.labels)
    order = {"error": 0, "warning": 1}
    findings.sort(key=lambda finding: (order[finding.severity], finding.case is not None, finding.case or ""))
    return CheckResult(len(cases), tuple(findings))


def _look(case: Case, inventory: Inventory) -> CaseFacts:
    try:
        if is_video_case(case):
            return _look_at_video(case, inventory)
        image, label = load_case(case)
    except MasamError as error:
        return CaseFacts(findings=(Finding("error", case.id, str(error)),))
    findings = []
    for channel in range(image.channels):
        voxels = image.channel(channel)
        if voxels.min() == voxels.max():
            findings.append(
                Finding("warning", case.id, f"{case.channel_name(channel)} is {voxels.flat[0]:g} everywhere")
            )
    values: dict[int, int] = {}
    if label is not None:
        found, counts = np.unique(label.array, return_counts=True)
        values = dict(zip(found.tolist(), counts.tolist(), strict=True))
        findings += _judge_values(case, values, inventory.labels)
    digest = hashlib.sha256(np.ascontiguousarray(image.array.T).data)
    digest.update(image.geometry.affine.tobytes())
    return CaseFacts(image.geometry.spacing_mm, digest.hexdigest(), values, tuple(findings))


def _look_at_video(case: Case, inventory: Inventory) -> CaseFacts:
    frames, labels = load_video_case(case, unlabelled="ignore")
    findings = []
    if frames.min() == frames.max():
        findings.append(Finding("warning", case.id, f"{case.images[0].name} is {frames.flat[0]} everywhere"))
    values: dict[int, int] = {}
    if labels is not None:
        has_label = (labels != UNLABELLED).any(axis=(1, 2))
        if not has_label.all():
            what = f"{np.count_nonzero(~has_label)} of {len(frames)} frames have no label; they do not count"
            findings.append(Finding("warning", case.id, what))
        found, counts = np.unique(labels[has_label], return_counts=True)
        values = dict(zip(found.tolist(), counts.tolist(), strict=True))
        findings += _judge_values(case, values, inventory.labels)
    return CaseFacts(None, hashlib.sha256(frames.data).hexdigest(), values, tuple(findings))


def _judge_values(case: Case, values: dict[int, int], scheme: LabelScheme | None) -> list[Finding]:
    findings = []
    if scheme is not None:
        known = set(scheme.to_mapping().values())
        unknown = {value: count for value, count in values.items() if value not in known}
        if unknown:
            listed = ", ".join(f"{value} ({count} voxels)" for value, count in unknown.items())
            findings.append(
                Finding("error", case.id, f"label value {listed} is not in dataset.json (it knows {sorted(known)})")
            )
    if set(values) <= {0}:
        findings.append(Finding("warning", case.id, "the label is empty: no voxel of any class"))
    return findings


def _between_cases(cases: Sequence[Case], facts: Sequence[CaseFacts], scheme: LabelScheme | None) -> list[Finding]:
    """Find what no case shows alone: the same scan twice, odd spacings, classes that are nowhere."""
    findings = []
    first: dict[str, str] = {}
    for case, one in zip(cases, facts, strict=True):
        if one.image_sha256 is not None:
            twin = first.setdefault(one.image_sha256, case.id)
            if twin != case.id:
                what = f"has the same image as {twin}: if one trains and the other tests, scores are too good"
                findings.append(Finding("warning", case.id, what))
    known = [(case, one.spacing_mm) for case, one in zip(cases, facts, strict=True) if one.spacing_mm is not None]
    for axis in range(3) if len(known) > 2 else ():
        median = statistics.median(spacing[axis] for _, spacing in known)
        for case, spacing in known:
            ratio = spacing[axis] / median
            if not 1 / _ODD_SPACING <= ratio <= _ODD_SPACING:
                what = (
                    f"spacing {spacing[axis]:g} mm along axis {axis}, where the median is {median:g}: a wrong header?"
                )
                findings.append(Finding("warning", case.id, what))
    total: Counter[int] = Counter()
    for one in facts:
        total.update(one.values)
    if scheme is not None and total:
        absent = [label.name for label in scheme.foreground if label.value not in total]
        if absent:
            findings.append(Finding("warning", None, f"no case has a voxel of {', '.join(absent)}"))
    return findings
