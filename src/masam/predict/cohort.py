"""Predict many cases: one bad scan does not stop the others, and a rerun does not repeat what is done."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from masam import atomic
from masam.cases.folder import Case, load_case
from masam.errors import BatchError, ConfigError, InputError, MasamError, ResourceError, some_of
from masam.io import gate
from masam.io.dicom.file import DICOM_ENDING
from masam.io.dicom.seg_write import write_seg
from masam.io.dicom.series import read_stack
from masam.io.images import image_sha256, is_dicom_image
from masam.io.nifti.file import write_volume
from masam.predict.predictor import Predictor
from masam.predict.requirements import match_channels, require_promptable
from masam.progress import Progress
from masam.prompts import Prompt
from masam.volume import Volume
from masam.weights.tensors import content_sha256

Format = Literal["nifti", "dicom-seg"]
ENDINGS: dict[Format, str] = {"nifti": ".nii.gz", "dicom-seg": DICOM_ENDING}
"""Ending of the label files, by format."""

RECORD = "predictions.json"
"""Record of a folder of predictions: what each file was made of."""

CasePrompts = Mapping[str, Sequence[Prompt]]
"""Case id to what a user points at in its scan."""

_NO_PROMPTS: CasePrompts = MappingProxyType({})

_OTHER_FOLDER = "name another folder with --out"

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


def predict_cohort(
    predictor: Predictor,
    cases: Sequence[Case],
    out: Path,
    progress: Progress,
    file_format: Format = "nifti",
    prompts: CasePrompts = _NO_PROMPTS,
) -> Cohort:
    """Segment cases and write ``out/CASE.nii.gz``, or ``out/CASE.dcm``, for each.

    A file of an earlier run is kept if its own bytes, its scan's bytes, the model and the settings are what they were.

    Args:
        predictor: Model and settings.
        cases: What to segment.
        out: Folder to write to; it is made if need be.
        progress: Told of each window, and of each case that failed.
        file_format: ``nifti``, or ``dicom-seg`` for cases that are DICOM series.
        prompts: Case id to what the user points at in it; the other cases are segmented automatically.

    Returns:
        What came of each case. A scan that is refused, or cannot be read, does not end the batch; a full disk does, as
        it would end every further case too.

    Raises:
        ResourceError: The folder cannot be written, or memory ran out.
        InputError: There is no case.
        ConfigError: The folder holds the scans themselves, or label files that are not of an earlier run; or a DICOM
            SEG is asked of what is no DICOM; or prompts are for no case, or for no class of the model.
        ModelError: There are prompts, and the model was trained without.
    """
    if not cases:
        raise InputError("expected at least one scan, found none")
    ending = ENDINGS[file_format]
    _require_own_folder(cases, out, ending)
    _require_sources(cases, ending)
    _require_prompts(predictor, cases, prompts)

    def identify(case: Case) -> str:
        match_channels(predictor.plan, case)
        return _scan_sha256(case)

    def is_whole(case: Case, entry: Mapping[str, Any]) -> bool:
        target = out / f"{case.id}{ending}"
        return target.is_file() and gate.sha256(target) == entry.get("labels_sha256")

    def write(case: Case, title: str) -> dict[str, Any]:
        image, _ = load_case(match_channels(predictor.plan, case), say=progress.say)
        progress.say(f"{title}, {' x '.join(map(str, image.shape))} voxels")
        return _write(predictor, case, image, out / f"{case.id}{ending}", progress, prompts.get(case.id))

    return run_cases(predictor, cases, out, progress, identify, is_whole, write, prompts)


def run_cases(
    predictor: Predictor,
    cases: Sequence[Case],
    out: Path,
    progress: Progress,
    identify: Callable[[Case], str],
    is_whole: Callable[[Case, Mapping[str, Any]], bool],
    write: Callable[[Case, str], dict[str, Any]],
    prompts: CasePrompts = _NO_PROMPTS,
) -> Cohort:
    """Segment one case after another into a folder with a record; what an earlier run finished is kept.

    Args:
        predictor: Model and settings.
        cases: What to segment.
        out: Folder to write to; it is made if need be.
        progress: Told of each case that failed.
        identify: Hashes the bytes of a case's scan.
        is_whole: Says whether what an entry of the record tells of is there as it was written.
        write: Segments a case and writes its labels, given the words that name it; returns what the record keeps.
        prompts: Case id to what the user points at in it; they are settings of that case.

    Returns:
        What came of each case.

    Raises:
        ResourceError: The folder cannot be written, or memory ran out.
    """
    atomic.remove_stale(out)
    cohort = Cohort()
    earlier = _read_record(out / RECORD)
    # At once, so that a folder that cannot be written to is known before hours of work, and is known as ours after.
    _write_record(out, cohort, earlier)
    settings = _settings_sha256(predictor)
    for number, case in enumerate(cases, start=1):
        try:
            sources = {"scan_sha256": identify(case), **_settings(settings, prompts.get(case.id))}
            entry = earlier.get(case.id)
            if entry is not None and sources.items() <= entry.items() and is_whole(case, entry):
                cohort.kept.append(case.id)
                cohort.done[case.id] = dict(entry)
                continue
            cohort.done[case.id] = {**sources, **write(case, f"{number} of {len(cases)}: {case.id}")}
        except (InputError, ResourceError) as error:
            # A scan that the system does not let us read is one bad scan; a full disk would befall all that follow.
            if isinstance(error, ResourceError) and not _is_at_scan(error, case):
                raise
            cohort.failed[case.id] = error
            progress.say(f"{number} of {len(cases)}: failed, the reason follows at the end")
        _write_record(out, cohort, earlier)
    return cohort


def predict_file(
    predictor: Predictor, case: Case, out: Path, progress: Progress, prompts: Sequence[Prompt] | None = None
) -> Cohort:
    """Segment one case into a file of a chosen name, which is written over if it is there.

    Args:
        predictor: Model and settings.
        case: What to segment.
        out: File to write, ``.nii`` or ``.nii.gz``, or ``.dcm`` for a DICOM SEG of a DICOM series.
        progress: Told of each window.
        prompts: What the user points at; None to segment automatically.

    Raises:
        InputError: The scan is refused, or a prompt does not fit it.
        ModelError: There are prompts, and the model was trained without.
        ConfigError: A prompt is for no class of the model; ``out`` is the scan itself or one of its files, or a DICOM
            SEG is asked of what is no DICOM.
        ResourceError: The file cannot be written, or memory ran out.
    """
    if is_one_of(out, case.images) or (case.images[0].is_dir() and _is_inside(out, case.images[0])):
        raise ConfigError("the labels would take the place of the scan", where=out, fix="name another file")
    case = match_channels(predictor.plan, case)
    _require_sources([case], out.suffix.lower())
    _require_prompts(predictor, [case], {} if prompts is None else {case.id: prompts})
    image, _ = load_case(case, say=progress.say)
    sources = {"scan_sha256": _scan_sha256(case), **_settings(_settings_sha256(predictor), prompts)}
    return Cohort(done={case.id: {**sources, **_write(predictor, case, image, out, progress, prompts)}})


def _write(
    predictor: Predictor,
    case: Case,
    image: Volume,
    target: Path,
    progress: Progress,
    prompts: Sequence[Prompt] | None,
) -> dict[str, Any]:
    """Segment a scan and write its labels; returns what the record keeps of it."""
    found = predictor.segment(image, progress, prompts)
    cleanings = [asdict(cleaning) for cleaning in found.cleanings]
    if target.name.lower().endswith(DICOM_ENDING):
        stack = read_stack(case.images[0], case.series)
        empty = write_seg(target, found.labels, stack, predictor.plan.scheme)
        return {"labels_sha256": gate.sha256(target), "cleanings": cleanings, "empty_classes": list(empty)}
    write_volume(target, found.labels)
    return {"labels_sha256": gate.sha256(target), "cleanings": cleanings}


def _require_sources(cases: Sequence[Case], ending: str) -> None:
    """Refuse, before the work, a DICOM SEG of a scan that it could not refer to."""
    for case in cases:
        if ending == DICOM_ENDING and not is_dicom_image(case.images[0]):
            raise ConfigError(
                f"a DICOM SEG refers to DICOM images, {case.images[0].name} is none",
                where="--format dicom-seg",
                fix="write nifti",
            )


def _require_prompts(predictor: Predictor, cases: Sequence[Case], prompts: CasePrompts) -> None:
    """Refuse, before the work, prompts that no scan could make good."""
    unknown = sorted(set(prompts) - {case.id for case in cases})
    if unknown:
        raise ConfigError(
            f"there are prompts for {some_of(unknown)}, the cases are {some_of(case.id for case in cases)}",
            where="prompts",
            fix="name cases as their files are, without _0000 and ending",
        )
    for case, some in prompts.items():
        require_promptable(predictor.ensemble.models, predictor.plan, some, where=f"prompts of {case}")


def _settings(settings: str, prompts: Sequence[Prompt] | None) -> dict[str, Any]:
    """Return what decides a case's labels beside its scan, its prompts among them."""
    if prompts is None:
        return {"settings_sha256": settings}
    records = [prompt.record() for prompt in prompts]
    both = json.dumps([settings, records], sort_keys=True)
    return {"settings_sha256": hashlib.sha256(both.encode()).hexdigest(), "prompts": records}


def _require_own_folder(cases: Sequence[Case], out: Path, ending: str) -> None:
    """Refuse a folder where labels would take the place of scans or of somebody's labels."""
    scans = [image for case in cases for image in case.images]
    folders = {image for image in scans if image.is_dir()}
    if is_one_of(out, [image.parent for image in scans]) or any(_is_inside(out, folder) for folder in folders):
        raise ConfigError("the folder holds the scans; labels would lie among them", where=out, fix=_OTHER_FOLDER)
    require_no_others(out, [f"{case.id}{ending}" for case in cases])


def require_no_others(out: Path, names: Iterable[str]) -> None:
    """Refuse to write over what no earlier run wrote.

    Args:
        out: Folder to write to; one with a record is ours.
        names: What is to be written there.

    Raises:
        ConfigError: One of them is there, in a folder without a record.
    """
    if (out / RECORD).exists():
        return
    for name in names:
        if (out / name).exists():
            raise ConfigError(
                f"the folder holds {name}, which masam predict did not write there",
                where=out,
                fix=_OTHER_FOLDER,
            )


def is_one_of(path: Path, others: Iterable[Path]) -> bool:
    """Say whether two paths lead to one place."""
    # Resolved, because a link or a second way to the same place would lose the data just as well.
    return path.resolve() in {other.resolve() for other in others}


def _scan_sha256(case: Case) -> str:
    """Hash the files of a scan; several channels by their hashes in order."""
    hashes = [image_sha256(image, case.series) for image in case.images]
    return hashes[0] if len(hashes) == 1 else hashlib.sha256("".join(hashes).encode()).hexdigest()


def _is_at_scan(error: MasamError, case: Case) -> bool:
    where = error.where or ""
    # Of DICOM, the error names a file of the folder, or a frame of the file.
    return any(
        where == str(image) or where.startswith((f"{image}{os.sep}", f"{image}, frame ")) for image in case.images
    )


def _is_inside(path: Path, folder: Path) -> bool:
    # A DICOM folder is searched with the folders in it, so labels must not lie anywhere below.
    return path.resolve().is_relative_to(folder.resolve())


def _settings_sha256(predictor: Predictor) -> str:
    """Hash all but the scan that decides the labels."""
    facts = {
        "models": [[content_sha256(model.state_dict()), asdict(model.spec)] for model in predictor.ensemble.models],
        "plan": predictor.plan.model_dump(mode="json"),
        "stride": predictor.stride,
        "keep_largest": predictor.keep_largest,
        "fill_holes": predictor.fill_holes,
        "precision": predictor.ensemble.precision,
        "device": predictor.ensemble.device.type,
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _write_record(out: Path, cohort: Cohort, earlier: Mapping[str, dict[str, Any]]) -> None:
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


def _read_record(path: Path) -> dict[str, dict[str, Any]]:
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
