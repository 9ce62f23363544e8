"""From folders of scans, predictions and references to a report page."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from masam.errors import InputError
from masam.evaluation import Evaluation, evaluate
from masam.evaluation.cases import SUFFIXES, collect_cases
from masam.io.cases import Case, find_images
from masam.io.images import read_image, read_label_image
from masam.labels import LabelScheme
from masam.manifest import build_manifest
from masam.progress import Progress
from masam.report.page import write_report
from masam.volume import Volume

MAX_FIGURES = 12
"""Most cases that get a figure: the worst half and the best half of so many, for a page that still opens."""


def report_on(
    images: Path,
    predictions: Path,
    references: Path,
    scheme: LabelScheme,
    out: Path,
    *,
    title: str,
    progress: Progress,
    missing: Literal["error", "worst"] = "error",
    metrics: Mapping[str, Sequence[float | None]] | None = None,
    notes: Sequence[str] = (),
    **facts: Any,
) -> Evaluation:
    """Score predictions, draw them over their scans, and write one self-contained page.

    Args:
        images: Folder of scans, with or without nnU-Net's channel suffix.
        predictions: Folder of predicted labels, CASE.nii.gz, or CASE.dcm for a DICOM SEG.
        references: Folder of reference labels of the same names; they say which cases there are.
        scheme: The classes.
        out: HTML file to write.
        title: Heading of the page.
        progress: Told of each case.
        missing: What a case without a prediction is: an error, or the worst score there is.
        metrics: Columns of a run's ``metrics.csv``, for the training curves.
        notes: Sentences on what the numbers do not say.
        facts: Anything worth keeping in the page's provenance.

    Raises:
        InputError: A case lacks its scan or prediction, or a file is refused.
        ResourceError: The page cannot be written.
    """
    # Drawing takes matplotlib, which takes a second to import.
    from masam.report.figures import overlay, training_curves

    # Looked for first: a wrong folder is known before the scoring, which takes minutes.
    scans = {case.id: case for case in find_images(images)}
    cases = collect_cases(references, "references")
    if absent := [case for case in cases if unicodedata.normalize("NFC", case) not in scans]:
        raise InputError(
            f"expected a scan of case {absent[0]}, found none", where=images, fix="give the folder of scans"
        )
    progress.start("scoring", len(cases))
    evaluation = evaluate(
        predictions,
        references,
        scheme,
        missing=missing,
        workers=2,
        progress=lambda done, total: progress.advance(),
    )
    drawn = _worst_and_best(evaluation)
    progress.start("drawing", len(drawn))
    overlays = []
    for case in drawn:
        scan = scans[unicodedata.normalize("NFC", case)]
        image = _first_channel(scan)
        volumes = [
            (name, read_label_image(_label_file(folder, case), image, scan.images, scheme, series=scan.series))
            for name, folder in (("reference", references), ("prediction", predictions))
            if name == "reference" or case not in evaluation.missing
        ]
        picture = overlay(image, volumes, scheme)
        overlays.append((case, picture, f"mean Dice {evaluation.case_dice[case]:.3f}"))
        progress.advance(case)
    write_report(
        out,
        title=title,
        evaluation=evaluation,
        overlays=overlays,
        scheme=scheme,
        curves_png=training_curves(metrics) if metrics and metrics.get("step") else None,
        manifest=build_manifest("report", **facts),
        notes=notes,
    )
    return evaluation


def _worst_and_best(evaluation: Evaluation) -> list[str]:
    ordered = sorted(evaluation.case_dice, key=lambda case: (evaluation.case_dice[case], case))
    if len(ordered) <= MAX_FIGURES:
        return ordered
    return ordered[: MAX_FIGURES // 2] + ordered[-MAX_FIGURES // 2 :]


def _label_file(folder: Path, case: str) -> Path:
    return next((path for path in (folder / f"{case}{suffix}" for suffix in SUFFIXES) if path.exists()), folder / case)


def _first_channel(scan: Case) -> Volume:
    image = read_image(scan.images[0], channels=None, series=scan.series)
    return Volume(image.channel(0), image.geometry)
