"""Predict many cases: one bad scan does not stop the others, and a rerun does not repeat what is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from masam import atomic
from masam.errors import BatchError, InputError, MasamError
from masam.io import gate
from masam.io.cases import Case, load_case
from masam.io.nifti import write_volume
from masam.io.tensors import content_sha256
from masam.predict import Predictor
from masam.progress import Progress

RECORD = "predictions.json"
"""Record of a folder of predictions: what each file was made of."""


@dataclass
class Cohort:
    """What came of each case.

    Attributes:
        done: Case id to what its file was made of and its own hash.
        kept: Cases among them whose file an earlier run had made.
        failed: Case id to the line that says why.
    """

    done: dict[str, dict[str, str]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, MasamError] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return plain values."""
        return {"done": self.done, "failed": {case: str(error) for case, error in self.failed.items()}}

    def raise_failures(self) -> None:
        """Raise if a case failed.

        Raises:
            MasamError: The only case failed, with its own reason.
            BatchError: Some cases of several failed.
        """
        if not self.failed:
            return
        if len(self.failed) == 1 and not self.done:
            raise next(iter(self.failed.values()))
        reasons = "; ".join(str(error) for error in list(self.failed.values())[:5])
        more = f"; and {len(self.failed) - 5} more" if len(self.failed) > 5 else ""
        raise BatchError(
            f"{len(self.failed)} of {len(self.failed) + len(self.done)} cases failed ({reasons}{more})",
            fix="the others are written",
        )


def predict_cohort(predictor: Predictor, cases: Sequence[Case], out: Path, progress: Progress) -> Cohort:
    """Segment cases and write ``out/CASE.nii.gz`` for each.

    A file of an earlier run is kept if its own bytes, its scan's bytes, the model and the settings are what they were.

    Args:
        predictor: Model and settings.
        cases: What to segment.
        out: Folder to write to; it is made if need be.
        progress: Told of each window, and of each case that failed.

    Returns:
        What came of each case. A full disk or a missing device ends the batch, as it would end every further case too.

    Raises:
        ResourceError: The folder cannot be written, or memory ran out.
        InputError: There is no case.
    """
    if not cases:
        raise InputError("expected at least one scan, found none")
    atomic.remove_stale(out)
    cohort = Cohort()
    earlier = _read_record(out / RECORD)
    settings = _settings_sha256(predictor)
    for case in cases:
        target = out / f"{case.id}.nii.gz"
        try:
            sources = {"scan_sha256": gate.sha256(case.images[0]), "settings_sha256": settings}
            if _is_current(earlier.get(case.id), sources, target):
                cohort.kept.append(case.id)
                cohort.done[case.id] = dict(earlier[case.id])
                continue
            image, _ = load_case(Case(case.id, case.images))
            progress.say(f"{case.id}: {' x '.join(map(str, image.shape))} voxels")
            write_volume(target, predictor.predict(image, progress))
            cohort.done[case.id] = {**sources, "labels_sha256": gate.sha256(target)}
        except InputError as error:
            cohort.failed[case.id] = error
            progress.say(error.line())
        # What earlier runs made of other scans stays known.
        record = {**cohort.record(), "done": {**earlier, **cohort.done}}
        atomic.write_text(out / RECORD, json.dumps(record, indent=2, ensure_ascii=False) + "\n")
    return cohort


def _settings_sha256(predictor: Predictor) -> str:
    """Hash all but the scan that decides the labels."""
    facts = {
        "model": content_sha256(predictor.model.state_dict()),
        "fact_scale": predictor.model.spec.fact_scale,
        "plan": predictor.plan.model_dump(mode="json"),
        "stride": predictor.stride,
        "precision": predictor.precision,
        "device": predictor.device.type,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _is_current(entry: Mapping[str, str] | None, sources: Mapping[str, str], target: Path) -> bool:
    if entry is None or not target.is_file() or any(entry.get(key) != value for key, value in sources.items()):
        return False
    return gate.sha256(target) == entry.get("labels_sha256")


def _read_record(path: Path) -> dict[str, dict[str, str]]:
    """Return the earlier run's finished cases; a record that is missing or not ours counts as none."""
    if not path.is_file():
        return {}
    try:
        done = json.loads(gate.read_bytes(path))["done"]
    except (ValueError, KeyError, TypeError):
        return {}
    return (
        {str(case): entry for case, entry in done.items() if isinstance(entry, dict)} if isinstance(done, dict) else {}
    )
