"""Predict many cases: a bad scan does not stop the others, and a rerun keeps what is finished."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from masam import atomic
from masam.cases.case import Case
from masam.errors import BatchError, ConfigError, InputError, MasamError, ResourceError
from masam.io import gate
from masam.io.video.reader import video_sha256
from masam.predict.predictor import Predictor
from masam.progress import Progress, warn_with
from masam.runs.finished import is_finished, values_sha256
from masam.weights.tensors import content_sha256

RECORD = "predictions.json"
"""Record of a folder of predictions: the sources of each file."""

_MOST_REASONS = 5


@dataclass
class Cohort:
    """The result for each case."""

    done: dict[str, dict[str, Any]] = field(default_factory=dict)  # case id to the sources and hashes of its files
    kept: list[str] = field(default_factory=list)  # cases of ``done`` whose files were made by an earlier run
    failed: dict[str, MasamError] = field(default_factory=dict)  # case id to its error
    notes: Sequence[str] = ()  # what is unusual about the folder of scans

    def record(self) -> dict[str, Any]:
        """Return plain values."""
        failed = {case: str(error) for case, error in self.failed.items()}
        return {"done": self.done, "kept": self.kept, "failed": failed, "notes": list(self.notes)}

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


@runtime_checkable
class CaseWork(Protocol):
    """The work on one case of a batch."""

    def open(self, case: Case) -> tuple[Case, dict[str, Any]]:
        """Return the case, ready to be read, and the sources that decide its labels."""

    def files(self, case: Case) -> dict[str, Path]:
        """Return the files of a case, by the key of the record that holds their SHA-256."""

    def write(self, case: Case, title: str | None = None) -> dict[str, Any]:
        """Segment an opened case, write its files, and return further facts for the record."""


def run_cases(
    work: CaseWork, cases: Sequence[Case], out: Path, progress: Progress, notes: Sequence[str] = ()
) -> Cohort:
    """Segment cases one by one into a folder with a record, and keep the cases that an earlier run finished.

    A folder that cannot be written is refused at once; a scan that cannot be read is a failed case.
    """
    atomic.remove_stale(out)
    is_new = not (out / RECORD).exists()
    cohort, earlier = Cohort(notes=notes), _read_record(out / RECORD)
    for note in notes:
        warn_with(progress)(note)
    _write_record(out, cohort, earlier)
    try:
        for number, case in enumerate(cases, start=1):
            title = f"{number} of {len(cases)}"
            try:
                opened, sources = work.open(case)
                entry = earlier.get(case.id)
                if entry is not None and is_finished(entry, sources, work.files(case)):
                    cohort.kept.append(case.id)
                    cohort.done[case.id] = entry
                    continue
                cohort.done[case.id] = segment_case(work, opened, sources, f"{title}: {case.id}")
            except (InputError, ResourceError) as error:
                # A full disk would fail all further cases, unlike a scan that cannot be read.
                if isinstance(error, ResourceError) and not _is_at_scan(error, case):
                    raise
                cohort.failed[case.id] = error
                progress.log(f"{title}: failed, the reason follows at the end")
            _write_record(out, cohort, earlier)
    finally:
        if is_new and not cohort.done and len(cohort.failed) < 2:
            (out / RECORD).unlink(missing_ok=True)  # nothing was predicted, and the error is reported
            with contextlib.suppress(OSError):
                out.rmdir()
    return cohort


def segment_case(work: CaseWork, case: Case, sources: Mapping[str, Any], title: str | None = None) -> dict[str, Any]:
    """Segment an opened case and return its entry of the record: sources, facts and the SHA-256 of its files."""
    facts = work.write(case, title)
    return {**sources, **facts, **{key: video_sha256(path) for key, path in work.files(case).items()}}


def settings_sha256(predictor: Predictor) -> str:
    """Return the SHA-256 of everything except scan and prompts that decides the labels."""
    ensemble = predictor.ensemble
    return values_sha256(
        {
            "models": [[content_sha256(model.state_dict()), asdict(model.spec)] for model in ensemble.models],
            "plan": predictor.plan.model_dump(mode="json"),
            "stride": predictor.stride,
            "keep_largest": predictor.keep_largest,
            "fill_holes": predictor.fill_holes,
            "precision": ensemble.precision,
            "device": ensemble.device.type,
        }
    )


def require_output_folder(
    out: Path, names: Iterable[str], *, beside: Iterable[Path], below: Iterable[Path] = (), what: str
) -> None:
    """Refuse a folder where labels would lie among the inputs, or replace files that no earlier run wrote.

    The inputs, ``what`` in the error message, lie in the folders ``beside``, and anywhere in the folders ``below``.
    """
    fix = "name another folder with --out"
    if is_one_of(out, beside) or any(is_inside(out, folder) for folder in below):
        raise ConfigError(f"the folder holds the {what}; labels would lie among them", where=out, fix=fix)
    if (out / RECORD).exists():
        return
    if taken := next((name for name in names if (out / name).exists()), None):
        raise ConfigError(f"the folder holds {taken}, which masam predict did not write there", where=out, fix=fix)


def is_one_of(path: Path, others: Iterable[Path]) -> bool:
    """Check whether a path leads to the same place as one of the others, directly or through links."""
    return path.resolve() in {other.resolve() for other in others}


def is_inside(path: Path, folder: Path) -> bool:
    """Check whether a path is a folder or lies anywhere below it, directly or through links."""
    return path.resolve().is_relative_to(folder.resolve())


def _is_at_scan(error: MasamError, case: Case) -> bool:
    """Check whether an error names a scan, a file in its DICOM folder, or a frame of its DICOM file."""
    where = error.where or ""
    parts = tuple(f"{image}{after}" for image in case.images for after in (os.sep, ", frame "))
    return where in map(str, case.images) or where.startswith(parts)


def _write_record(out: Path, cohort: Cohort, earlier: Mapping[str, dict[str, Any]]) -> None:
    """Write the record of this run, with the cases that earlier runs finished."""
    record = {**cohort.record(), "done": {**earlier, **cohort.done}}
    # ASCII, because the name of a scan may not be valid UTF-8.
    atomic.write_text(out / RECORD, json.dumps(record, indent=2) + "\n")


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
    """Return the cases that earlier runs finished; none if the record is missing or damaged."""
    if not path.is_file():
        return {}
    try:
        done = json.loads(gate.read_bytes(path))["done"]
        return {case: entry for case, entry in done.items() if isinstance(entry, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}
