"""From folders of scans or videos, predictions and references to a report page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from masam.cases.folder import Case, find_images, open_case
from masam.cases.video import find_videos
from masam.errors import InputError
from masam.evaluation import Evaluation, evaluate
from masam.evaluation.cases import are_videos, collect_cases, is_video, pair_single_cases
from masam.io.images import read_image, read_label_image
from masam.labels import LabelScheme
from masam.progress import Progress
from masam.report.page import write_report
from masam.runs.manifest import build_manifest
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
    """Score predictions, draw them over their scans or videos, and write one self-contained page.

    Args:
        images: Folder of scans, with or without nnU-Net's channel suffix, or of videos; or one of them.
        predictions: Folder of predicted labels, CASE.nii.gz, CASE.dcm for a DICOM SEG or, of a video, a folder CASE of
            label frames; or one.
        references: The same for reference labels; they say which cases there are.
        scheme: The classes.
        out: HTML file to write.
        title: Heading of the page.
        progress: Told of each case.
        missing: What a case without a prediction is: an error, or the worst score there is.
        metrics: Columns of a run's ``metrics.csv``, for the training curves.
        notes: Sentences on what the numbers do not say.
        facts: Anything worth keeping in the page's provenance.

    Raises:
        InputError: A case lacks its scan, video or prediction, or a file is refused.
        ResourceError: The page cannot be written.
    """
    # Drawing takes matplotlib, which takes a second to import.
    from masam.report.figures import training_curves

    given = pair_single_cases(predictions, references)
    found, wanted = collect_cases(given[0], "predictions"), collect_cases(given[1], "references")
    # Looked for first: a wrong folder is known before the scoring, which takes minutes.
    are_frames = are_videos(found, wanted)
    scans = {case.id: case for case in (find_videos if are_frames else find_images)(images)}
    if isinstance(given[1], Mapping) and len(scans) == 1:  # one of each, whatever their names
        scans = dict(zip(wanted, scans.values(), strict=True))
    if absent := [case for case in wanted if case not in scans]:
        kind = "video" if are_frames else "scan"
        raise InputError(
            f"expected a {kind} of case {absent[0]}, found none", where=images, fix=f"give the folder of {kind}s"
        )
    progress.start("scoring", len(wanted))
    evaluation = evaluate(
        found,
        wanted,
        scheme,
        missing=missing,
        workers=2,
        progress=lambda done, total: progress.advance(),
    )
    drawn = _worst_and_best(evaluation)
    progress.start("drawing", len(drawn))
    overlays = []
    for case in drawn:
        labels = [("reference", wanted[case])]
        if case not in evaluation.missing:
            labels.append(("prediction", found[case]))
        overlays.append((case, _draw(scans[case], labels, scheme), _said_of(case, evaluation)))
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


def _draw(scan: Case, labels: Sequence[tuple[str, Path | Volume]], scheme: LabelScheme) -> bytes:
    from masam.report.overlay import overlay
    from masam.report.video import frame_overlay

    files = [(title, item) for title, item in labels if isinstance(item, Path)]
    if files and is_video(files[0][1]):
        return frame_overlay(scan.images[0], files, scheme)
    scan = open_case(scan)
    image = _first_channel(scan)
    volumes = [(title, read_label_image(item, image, scan.series, scheme)) for title, item in files]
    return overlay(image, volumes, scheme)


def _said_of(case: str, evaluation: Evaluation) -> str:
    said = f"mean Dice {evaluation.case_dice[case]:.3f}"
    miou = next((video.miou_per_frame for video in evaluation.videos if video.case == case), math.nan)
    return said if math.isnan(miou) else f"{said}, mIoU per frame {miou:.3f}"


def _first_channel(scan: Case) -> Volume:
    image = read_image(scan.images[0], channels=None, series=scan.series[0])
    return Volume(image.channel(0), image.geometry)
