"""Create a report from folders of images, predictions and references."""

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
"""Maximum number of cases with a figure, half of them the worst and half the best, to limit the size of the page."""


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
    """Score predictions, draw overlays, and write a self-contained HTML page.

    Args:
        images: Folder of scans (with or without nnU-Net's channel suffix) or of videos, or a single one.
        predictions: Folder of predictions, or a single one: NIfTI or DICOM SEG files, or one folder of label frames per
            video.
        references: The same for the references, which determine the cases.
        scheme: The classes.
        out: HTML file to write.
        title: Heading of the page.
        progress: Receives each case.
        missing: Treat a case without a prediction as an error, or give it the worst scores.
        metrics: Columns of the ``metrics.csv`` of a run, for the training curves.
        notes: Sentences to add to the limitations.
        facts: Additional provenance.

    Raises:
        InputError: A case has no image or prediction, or a file is invalid.
        ResourceError: The page cannot be written.
    """
    # Imported here, because importing matplotlib takes a second.
    from masam.report.figures import training_curves

    pair = pair_single_cases(predictions, references)
    predicted, expected = collect_cases(pair[0], "predictions"), collect_cases(pair[1], "references")
    # Images are found before scoring, which takes minutes.
    is_of_videos = are_videos(predicted, expected)
    scans = {case.id: case for case in (find_videos if is_of_videos else find_images)(images)}
    if isinstance(pair[1], Mapping) and len(scans) == 1:  # single files need not have the same name
        scans = dict(zip(expected, scans.values(), strict=True))
    if absent := [case for case in expected if case not in scans]:
        kind = "video" if is_of_videos else "scan"
        raise InputError(
            f"expected a {kind} of case {absent[0]}, found none", where=images, fix=f"give the folder of {kind}s"
        )
    progress.start("scoring", len(expected))
    evaluation = evaluate(
        predicted, expected, scheme, missing=missing, workers=2, progress=lambda done, total: progress.advance()
    )
    drawn = _worst_and_best(evaluation)
    progress.start("drawing", len(drawn))
    overlays = []
    for case in drawn:
        labels = [("Reference", expected[case])]
        if case not in evaluation.missing:
            labels.append(("Prediction", predicted[case]))
        overlays.append((case, _draw(scans[case], labels, scheme), _caption(case, evaluation)))
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
    image = read_image(scan.images[0], channels=None, series=scan.series[0])
    image = Volume(image.channel(0), image.geometry)
    volumes = [(title, read_label_image(item, image, scan.series, scheme)) for title, item in files]
    return overlay(image, volumes, scheme)


def _caption(case: str, evaluation: Evaluation) -> str:
    dice = f"mean Dice {evaluation.case_dice[case]:.3f}"
    miou = next((video.miou_per_frame for video in evaluation.videos if video.case == case), math.nan)
    return dice if math.isnan(miou) else f"{dice}, mIoU per frame {miou:.3f}"
