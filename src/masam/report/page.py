"""The report of an evaluation: one HTML file that needs nothing else, on a phone, a screen or paper.

Everything that comes from outside (titles, case ids, class names, captions, manifest) is escaped, images are inlined,
and a content security policy forbids scripts and any request.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import masam
from masam.atomic import write_text
from masam.errors import InputError
from masam.evaluation.scores import Evaluation, VideoScore
from masam.evaluation.statistics import RESAMPLES, Statistic, mean_of_means
from masam.labels import LabelScheme
from masam.report.style import STYLE

_PNG = b"\x89PNG\r\n\x1a\n"
_WORST_CASES = 10
_NONE = "\u2013"  # an en dash, where there is no number
_DIGITS = {"dice": 3, "iou": 3, "hd95_mm": 2, "hd95_pooled_mm": 2, "assd_mm": 2, "nsd": 3}
_HEADS = {
    "iou": "IoU", "hd95_mm": "HD95<br>mm", "hd95_pooled_mm": "HD95 pooled<br>mm", "assd_mm": "ASSD<br>mm",
    "nsd": "NSD<br>{:g} mm",
}  # fmt: skip


_EXPERTS = "People drew the references; where two experts differ by as much as the prediction, a score cannot tell."

_VIDEO_TERMS = (
    (
        "mIoU per frame",
        "In each labelled frame the IoU of every class that its reference holds, and their mean; then the mean over "
        "the frames of a video, and over videos. Frames whose reference holds no class are left out (<i>empty</i>). "
        "What is predicted of a class that the frame's reference lacks lowers Dice and IoU, not this number.",
    ),
)


def write_report(
    path: Path | str,
    *,
    title: str,
    evaluation: Evaluation,
    overlays: Sequence[tuple[str, bytes, str]],
    scheme: LabelScheme,
    curves_png: bytes | None = None,
    manifest: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write the report.

    Args:
        path: HTML file to write.
        title: Heading.
        evaluation: Scores to report.
        overlays: Case, PNG and caption of each figure of a case, in the order to show them.
        scheme: Names and colours of the classes.
        curves_png: Training curves.
        manifest: What ``build_manifest`` returned.
        notes: Sentences to add to "What these numbers do not say".

    Raises:
        InputError: The evaluation holds no case, or an image is not a PNG file.
        ResourceError: The file cannot be written.
    """
    if not evaluation.scores:
        raise InputError("expected an evaluation with at least one case", where=path)
    digest = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    sections = [
        _headline(title, evaluation),
        _class_table(evaluation, scheme),
        _definitions(evaluation),
        _worst_cases(evaluation),
        _overlays(overlays, evaluation),
        _curves(curves_png),
        _limits(evaluation, notes),
        _provenance(manifest),
    ]
    write_text(
        Path(path),
        "<!doctype html>\n"
        f'<html lang="en"><head><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="masam {masam.__version__}"><meta name="referrer" content="no-referrer">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(section for section in sections if section)
        + f"\n<footer>Made with masam {masam.__version__}. For research; not for diagnosis.</footer>\n"
        "</main></body></html>\n",
    )


def _headline(title: str, evaluation: Evaluation) -> str:
    low, high = evaluation.mean_dice_interval
    interval = f"95 % interval {low:.3f} to {high:.3f}" if not math.isnan(low) else "too few cases for an interval"
    cases, kind = len(evaluation.cases), "video" if evaluation.videos else "case"
    classes = f"{len(evaluation.labels)} class{'es' * (len(evaluation.labels) != 1)}"
    cards = [
        ("lead", _number(evaluation.mean_dice, 3), f"mean Dice · {interval}"),
        *(_video_cards if evaluation.videos else _volume_cards)(evaluation),
        ("", str(cases), f"{kind}{'s' * (cases != 1)}, {classes}"),
    ]
    boxes = "".join(f'<div class="card {kind}"><b>{value}</b><span>{text}</span></div>' for kind, value, text in cards)
    missing = ""
    if evaluation.missing:
        names = ", ".join(escape(case) for case in evaluation.missing)
        count = len(evaluation.missing)
        missing = f"<p><b>{count} of {cases} {kind}s had no prediction</b> and count as total failures: {names}.</p>"
    by_case = f"Mean over {kind}s first: {_number(evaluation.mean_dice_by_case, 3)}."
    return (
        f"<header><h1>{escape(title)}</h1>"
        f'<p class="dim">Means of Dice are taken over {kind}s, then over classes. {by_case}</p></header>'
        f'<div class="cards">{boxes}</div>{missing}'
    )


def _volume_cards(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    tolerance = f"{evaluation.nsd_tolerance_mm:g}&nbsp;mm"
    return [
        ("", _number(_overall(evaluation, "hd95_mm"), 2), "mean HD95, mm"),
        ("", _number(_overall(evaluation, "nsd"), 3), f"mean surface Dice at {tolerance}"),
    ]


def _video_cards(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    return [
        ("", _number(evaluation.miou_per_frame, 3), "mIoU per frame, mean over videos"),
        ("", _number(_overall(evaluation, "iou"), 3), "mean IoU over classes"),
    ]


def _class_table(evaluation: Evaluation, scheme: LabelScheme) -> str:
    colours = {label.name: "#{:02x}{:02x}{:02x}".format(*label.colour) for label in scheme.foreground}
    further = [metric for metric in evaluation.metrics if metric != "dice"]
    heads = [_HEADS[metric].format(evaluation.nsd_tolerance_mm) for metric in further]
    kind = "videos" if evaluation.videos else "cases"
    head = ("Class", "Dice<br>mean ± SD", "median", "95 % interval", f"{kind}, 0 to 1", *heads, kind)
    dice, cases = evaluation.values("dice"), len(evaluation.cases)
    rows = []
    for column, item in enumerate(evaluation.summary):
        statistic = item.dice
        swatch = f'<rect width="11" height="11" rx="3" fill="{colours.get(item.label, "#888888")}"/>'
        name = f'<svg class="swatch" viewBox="0 0 11 11">{swatch}</svg>{escape(item.label)}'
        spread = f" ± {statistic.std:.3f}" if not math.isnan(statistic.std) else ""
        interval = f"{statistic.low:.3f} to {statistic.high:.3f}" if not math.isnan(statistic.low) else _NONE
        cells = [f"<b>{_number(statistic.mean, 3)}</b>{spread}", _number(statistic.median, 3), interval]
        cells.append(_strip(dice[:, column], statistic))
        cells += [_mean_cell(getattr(item, metric), metric, statistic.counted) for metric in further]
        cells.append(f"{statistic.counted}" + (f"<small>{statistic.nan} without</small>" if statistic.nan else ""))
        rows.append(f"<tr><th>{name}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>")
    low, high = evaluation.mean_dice_interval
    interval = f"{low:.3f} to {high:.3f}" if not math.isnan(low) else _NONE
    means = [_number(_overall(evaluation, metric), _DIGITS[metric]) for metric in further]
    total = [_number(evaluation.mean_dice, 3), "", interval, "", *means, str(cases)]
    rows.append(f'<tr class="total"><th>Mean over classes</th>{"".join(f"<td>{cell}</td>" for cell in total)}</tr>')
    return (
        f'<h2>Classes</h2><div class="scroll"><table class="scores"><thead><tr>{"".join(f"<th>{h}</th>" for h in head)}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def _strip(values: NDArray[np.float64], statistic: Statistic) -> str:
    """Draw the scores of a class as dots from 0 to 1, with the mean and its interval."""
    known = values[~np.isnan(values)]
    if not len(known):
        return ""

    def x(value: float) -> str:
        return f"{5 + 140 * value:.1f}"

    dots = "".join(f'<circle class="dot" cx="{x(value)}" cy="11" r="3"/>' for value in known)
    interval = ""
    if not math.isnan(statistic.low):
        interval = f'<path class="range" d="M{x(statistic.low)} 11H{x(statistic.high)}"/>'
    mean = f'<rect class="mean" x="{5 + 140 * statistic.mean - 1.5:.1f}" y="4" width="3" height="14" rx="1"/>'
    label = f"{len(known)} cases from {known.min():.3f} to {known.max():.3f}"
    return (
        f'<svg class="strip" viewBox="0 0 150 22" role="img" aria-label="{label}"><title>{label}</title>'
        f'<path class="axis" d="M5 11H145M5 7V15M75 8V14M145 7V15"/>{dots}{interval}{mean}</svg>'
    )


def _mean_cell(statistic: Statistic, metric: str, of: int) -> str:
    """Write a mean, and from how many cases where these are not the cases of the Dice."""
    note = f"<small>{statistic.counted} cases</small>" if statistic.counted != of else ""
    return _number(statistic.mean, _DIGITS[metric]) + note


def _definitions(evaluation: Evaluation) -> str:
    empty = {
        "nan": "A class that neither mask holds has no score in that case and is counted in the last column.",
        "one": "A class that neither mask holds scores 1 in that case (the paper's rule).",
    }[evaluation.reference_empty]
    counted = "the pixels of all labelled frames of a video" if evaluation.videos else "voxels"
    terms = (
        (
            "Dice, IoU",
            f"2|A and B| / (|A|+|B|) and |A and B| / |A or B| over {counted}, 0 where the class is missed, or "
            f"predicted but absent. {empty}",
        ),
        *(_VIDEO_TERMS if evaluation.videos else _distance_terms(evaluation)),
        ("95 % interval", f"Percentile bootstrap of the mean: {RESAMPLES} draws of whole cases, fixed seed."),
    )
    items = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in terms)
    return f"<h2>How each number is defined</h2><dl>{items}</dl>"


def _distance_terms(evaluation: Evaluation) -> tuple[tuple[str, str], ...]:
    return (
        (
            "HD95",
            "Boundary voxels have a face neighbour outside the mask. The 95th percentile of the distances from one "
            "boundary to the other is taken each way; this is the larger of the two (as in MONAI and nnU-Net), in mm.",
        ),
        ("HD95 pooled", "The 95th percentile of both directions' distances thrown together (as in medpy), in mm."),
        ("ASSD", "Mean of both directions' distances thrown together, in mm."),
        (
            "NSD",
            f"Surface Dice: share of both surfaces' area within {evaluation.nsd_tolerance_mm:g} mm of the other "
            "surface, with the surface elements of DeepMind's surface-distance.",
        ),
        (
            "One mask empty",
            "HD95 and ASSD do not exist and are left out of their means; NSD is 0. Where a mean has other cases than "
            "the Dice beside it, the cell says how many.",
        ),
    )


def _worst_cases(evaluation: Evaluation) -> str:
    dice = evaluation.values("dice")
    # A case without any score sorts last: there is nothing to look at.
    ranked = sorted(evaluation.case_dice.items(), key=lambda item: (math.isnan(item[1]), item[1]))[:_WORST_CASES]
    videos = {video.case: video for video in evaluation.videos}
    rows = []
    for case, mean in ranked:
        scores = dice[evaluation.cases.index(case)]
        order = [n for n in np.argsort(scores) if not math.isnan(scores[n])][:3]
        weakest = ", ".join(f"{escape(evaluation.labels[n])} {scores[n]:.3f}" for n in order)
        note = " <small>no prediction</small>" if case in evaluation.missing else ""
        cells = [_number(mean, 3), *(_video_cells(videos[case]) if videos else ())]
        figures = "".join(f"<td>{cell}</td>" for cell in cells)
        rows.append(f'<tr><th>{escape(case)}{note}</th>{figures}<td class="wide">{weakest}</td></tr>')
    heads = ("mean Dice", "mIoU<br>per frame", "labelled<br>frames") if videos else ("mean Dice",)
    return (
        f'<h2>Worst {"videos" if videos else "cases"} first</h2><div class="scroll"><table><thead><tr>'
        f"<th>{'Video' if videos else 'Case'}</th>{''.join(f'<th>{head}</th>' for head in heads)}"
        f'<th class="wide">weakest classes</th></tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _video_cells(video: VideoScore) -> tuple[str, str]:
    notes = ((video.empty_frames, "empty"), (video.unlabelled_frames, "more without label"))
    said = "".join(f"<small>{count} {what}</small>" for count, what in notes if count)
    return _number(video.miou_per_frame, 3), f"{video.frames}{said}"


def _overlays(overlays: Sequence[tuple[str, bytes, str]], evaluation: Evaluation) -> str:
    if not overlays:
        return ""
    figures = "".join(
        f'<figure class="dark"><div class="frame">{_image(png, f"Overlay of {case}", where=case)}</div>'
        f"<figcaption><b>{escape(case)}</b> {escape(caption)}</figcaption></figure>"
        for case, png, caption in overlays
    )
    said = "Radiological view: the patient's right is on the left of the picture."
    if evaluation.videos:
        said = "Frames that show much and where much differs, spread over each video, in order."
    return f'<h2>{"Videos" if evaluation.videos else "Cases"}</h2><p class="dim">{said}</p>{figures}'


def _curves(png: bytes | None) -> str:
    if png is None:
        return ""
    image = _image(png, "Loss and validation Dice over training steps", where="curves_png")
    return f'<h2>Training</h2><figure class="light"><div class="frame">{image}</div></figure>'


def _limits(evaluation: Evaluation, notes: Sequence[str]) -> str:
    said = (_video_limits if evaluation.videos else _volume_limits)(evaluation)
    said.append("If these cases took part in choosing the model or its settings, the numbers are too good.")
    items = "".join(f"<li>{escape(note)}</li>" for note in [*notes, *said])
    return f"<h2>What these numbers do not say</h2><ul>{items}</ul>"


def _volume_limits(evaluation: Evaluation) -> list[str]:
    cases = len(evaluation.cases)
    return [
        f"They come from {cases} case{'s' * (cases != 1)}. The interval covers the chance of which cases were drawn, "
        "not another hospital, scanner or patient group.",
        _EXPERTS,
        "For the same error in millimetres Dice punishes small structures harder: read it beside HD95 and NSD.",
        "A mean hides single failures: see the worst cases, and the counts of cases that a distance leaves out.",
    ]


def _video_limits(evaluation: Evaluation) -> list[str]:
    videos = len(evaluation.videos)
    frames = sum(video.frames for video in evaluation.videos)
    unlabelled = sum(video.unlabelled_frames for video in evaluation.videos)
    said = [
        f"They come from {frames} labelled frames of {videos} video{'s' * (videos != 1)}. Frames of one video resemble "
        "each other: the interval covers the chance of which videos were drawn, not another hospital, camera or "
        "operation.",
        _EXPERTS,
        "For the same error in pixels Dice and IoU punish small structures harder, and what is far from the camera is "
        "small.",
        "A mean hides single failures, and a video's score hides single frames: see the pictures.",
    ]
    if unlabelled:
        said.insert(1, f"{unlabelled} predicted frames have no reference label and do not count.")
    return said


def _provenance(manifest: Mapping[str, Any] | None) -> str:
    if not manifest:
        return ""
    items = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(_flat(value))}</dd>" for key, value in manifest.items())
    return f"<h2>How it was made</h2><dl>{items}</dl>"


def _flat(value: Any) -> str:
    match value:
        case None:
            return _NONE
        case Mapping():
            return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
        case list() | tuple():
            return " ".join(_flat(item) for item in value)
        case _:
            return str(value)


def _image(png: bytes, text: str, where: str) -> str:
    if not png.startswith(_PNG):
        raise InputError(f"expected a PNG image, got bytes that begin with {png[:8]!r}", where=where)
    width, height = int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")
    data = base64.b64encode(png).decode()
    return f'<img width="{width}" height="{height}" alt="{escape(text)}" src="data:image/png;base64,{data}">'


def _overall(evaluation: Evaluation, metric: str) -> float:
    return mean_of_means(evaluation.values(metric), axis=0)


def _number(value: float, digits: int) -> str:
    return _NONE if math.isnan(value) else f"{value:.{digits}f}"
