"""Predict many cases: one bad scan does not stop the others, and a rerun does not repeat what is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from masam import atomic
from masam.errors import BatchError, ConfigError, InputError, MasamError, ResourceError
from masam.io import gate
from masam.io.cases import Case, load_case
from masam.io.nifti import write_volume
from masam.io.tensors import content_sha256
from masam.predict import Predictor
from masam.progress import Progress
from masam.volume import Volume

RECORD = "predictions.json"
"""Record of a folder of predictions: what each file was made of."""

_MOST_REASONS = 5
"""Failed scans whose reasons go into the one line; the record has all."""


@dataclass
class Cohort:
    """What came of each case.

    Attributes:
        done: Case id to what its file was made of and its own hash.
        kept: Cases among them whose file an earlier run had made.
        failed: Case id to the line that says why.
    """

    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, MasamError] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Return plain values."""
        failed = {case: str(error) for case, error in self.failed.items()}
        return {"done": self.done, "kept": self.kept, "failed": failed}

    def raise_failures(self) -> None:
        """Raise if a case failed.

        Raises:
            MasamError: The only case failed, with its own reason.
            InputError: All of several cases failed.
            BatchError: Some of several cases failed.
        """
        if not self.failed:
            return
        if len(self.failed) == 1 and not self.done:
            raise next(iter(self.failed.values()))
        reasons = "; ".join(str(error) for error in list(self.failed.values())[:_MOST_REASONS])
        left = len(self.failed) - _MOST_REASONS
        more = f"; and {left} more, see {RECORD}" if left > 0 else ""
        what = f"{len(self.failed)} of {len(self.failed) + len(self.done)} scans failed ({reasons}{more})"
        if not self.done:
            raise InputError(what)
        raise BatchError(what, fix="the others are written")


def predict_cohort(predictor: Predictor, cases: Sequence[Case], out: Path, progress: Progress) -> Cohort:
    """Segment cases and write ``out/CASE.nii.gz`` for each.

    A file of an earlier run is kept if its own bytes, its scan's bytes, the model and the settings are what they were.

    Args:
        predictor: Model and settings.
        cases: What to segment.
        out: Folder to write to; it is made if need be.
        progress: Told of each window, and of each case that failed.

    Returns:
        What came of each case. A scan that is refused, or cannot be read, does not end the batch; a full disk does, as
        it would end every further case too.

    Raises:
        ResourceError: The folder cannot be written, or memory ran out.
        InputError: There is no case.
        ConfigError: The folder holds the scans themselves, or label files that are not of an earlier run.
    """
    if not cases:
        raise InputError("expected at least one scan, found none")
    _require_own_folder(cases, out)
    atomic.remove_stale(out)
    cohort = Cohort()
    earlier = read_record(out / RECORD)
    # At once, so that a folder that cannot be written to is known before hours of work, and is known as ours after.
    write_record(out, cohort, earlier)
    settings = settings_sha256(predictor)
    for number, case in enumerate(cases, start=1):
        target = out / f"{case.id}.nii.gz"
        try:
            sources = {"scan_sha256": gate.sha256(case.images[0]), "settings_sha256": settings}
            if _is_current(earlier.get(case.id), sources, target):
                cohort.kept.append(case.id)
                cohort.done[case.id] = dict(earlier[case.id])
                continue
            image, _ = load_case(case)
            progress.say(f"{number} of {len(cases)}: {case.id}, {' x '.join(map(str, image.shape))} voxels")
            cohort.done[case.id] = {**sources, **_write(predictor, image, target, progress)}
        except (InputError, ResourceError) as error:
            # A scan that the system does not let us read is one bad scan; a full disk would befall all that follow.
            if isinstance(error, ResourceError) and error.where != str(case.images[0]):
                raise
            cohort.failed[case.id] = error
            progress.say(f"{number} of {len(cases)}: failed, the reason follows at the end")
        write_record(out, cohort, earlier)
    return cohort


def predict_file(predictor: Predictor, case: Case, out: Path, progress: Progress) -> Cohort:
    """Segment one case into a file of a chosen name, which is written over if it is there.

    Args:
        predictor: Model and settings.
        case: What to segment.
        out: File to write, ``.nii`` or ``.nii.gz``.
        progress: Told of each window.

    Raises:
        InputError: The scan is refused.
        ConfigError: ``out`` is the scan itself.
        ResourceError: The file cannot be written, or memory ran out.
    """
    if is_one_of(out, case.images):
        raise ConfigError("the labels would take the place of the scan", where=out, fix="name another file")
    image, _ = load_case(case)
    sources = {"scan_sha256": gate.sha256(case.images[0]), "settings_sha256": settings_sha256(predictor)}
    return Cohort(done={case.id: {**sources, **_write(predictor, image, out, progress)}})


def _write(predictor: Predictor, image: Volume, target: Path, progress: Progress) -> dict[str, Any]:
    """Segment a scan and write its labels; returns what the record keeps of it."""
    found = predictor.segment(image, progress)
    write_volume(target, found.labels)
    return {"labels_sha256": gate.sha256(target), "cleanings": [asdict(cleaning) for cleaning in found.cleanings]}


def _require_own_folder(cases: Sequence[Case], out: Path) -> None:
    """Refuse a folder where labels would take the place of scans or of somebody's labels."""
    fix = "name another folder with --out"
    scans = [image for case in cases for image in case.images]
    if is_one_of(out, [image.parent for image in scans]):
        raise ConfigError("the folder holds the scans; labels would lie among them", where=out, fix=fix)
    if (out / RECORD).exists():
        return
    for case in cases:
        if (out / f"{case.id}.nii.gz").exists():
            raise ConfigError(
                f"the folder holds {case.id}.nii.gz, which masam predict did not write there", where=out, fix=fix
            )


def is_one_of(path: Path, others: Iterable[Path]) -> bool:
    """Say whether two paths lead to one place."""
    # Resolved, because a link or a second way to the same place would lose the data just as well.
    return path.resolve() in {other.resolve() for other in others}


def settings_sha256(predictor: Predictor) -> str:
    """Hash all but the scan that decides the labels."""
    facts = {
        "model": content_sha256(predictor.model.state_dict()),
        "fact_scale": predictor.model.spec.fact_scale,
        "plan": predictor.plan.model_dump(mode="json"),
        "stride": predictor.stride,
        "keep_largest": predictor.keep_largest,
        "fill_holes": predictor.fill_holes,
        "precision": predictor.precision,
        "device": predictor.device.type,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _is_current(entry: Mapping[str, Any] | None, sources: Mapping[str, str], target: Path) -> bool:
    if entry is None or not target.is_file() or any(entry.get(key) != value for key, value in sources.items()):
        return False
    return gate.sha256(target) == entry.get("labels_sha256")


def write_record(out: Path, cohort: Cohort, earlier: Mapping[str, dict[str, Any]]) -> None:
    """Write the record of a folder of predictions.

    Args:
        out: The folder.
        cohort: What came of this run's cases.
        earlier: What earlier runs finished.

    Raises:
        ResourceError: It cannot be written.
    """
    # What earlier runs made of other scans stays known.
    record = {**cohort.record(), "done": {**earlier, **cohort.done}}
    # Escaped, because a name of a scan need not be one that UTF-8 can hold.
    atomic.write_text(out / RECORD, json.dumps(record, indent=2) + "\n")


def read_record(path: Path) -> dict[str, dict[str, Any]]:
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
