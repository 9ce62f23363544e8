"""HTML report of an evaluation: one self-contained file.

Jinja2 renders the files in ``templates/`` with autoescaping, so titles, case ids, class names, captions and the
manifest cannot add markup. Images are inlined, and a content security policy forbids scripts and requests.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

import masam
from masam.atomic import write_text
from masam.errors import InputError
from masam.evaluation.scores import Evaluation
from masam.evaluation.statistics import RESAMPLES, mean_of_means
from masam.labels import LabelScheme

_PNG = b"\x89PNG\r\n\x1a\n"
_LOWEST_CASES = 10
_WEAKEST_CLASSES = 3
_UNDEFINED = "\u2013"  # en dash
_OTHER_COLOUR = "#888888"

# Heading, unit and digits of each metric beside Dice.
_COLUMNS = {
    "iou": ("IoU", "", 3),
    "hd95_mm": ("HD95", "mm", 2),
    "hd95_pooled_mm": ("HD95 pooled", "mm", 2),
    "assd_mm": ("ASSD", "mm", 2),
    "nsd": ("NSD", "{:g}\N{NO-BREAK SPACE}mm", 3),
}


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
        title: Heading of the page.
        evaluation: Scores to report.
        overlays: Case id, PNG file and caption of each figure, in the order in which they are shown.
        scheme: Names and colours of the classes.
        curves_png: Training curves as a PNG file.
        manifest: Provenance, as returned by :func:`masam.runs.manifest.build_manifest`.
        notes: Sentences to add to the section "Limitations".

    Raises:
        InputError: The evaluation contains no case, or an image is not a PNG file.
        ResourceError: The file cannot be written.
    """
    if not evaluation.scores:
        raise InputError("expected an evaluation with at least one case", where=path)
    style = (resources.files("masam.report") / "templates" / "style.css").read_text("utf-8")
    page = _environment().get_template("report.html").render(
        title=title,
        evaluation=evaluation,
        kind="video" if evaluation.videos else "case",
        version=masam.__version__,
        style=style,
        style_digest=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        resamples=RESAMPLES,
        columns=_columns(evaluation),
        classes=_classes(evaluation, scheme),
        lowest=_lowest_cases(evaluation),
        overlays=[(case, _image(png, where=case), caption) for case, png, caption in overlays],
        curves=None if curves_png is None else _image(curves_png, where="curves_png"),
        provenance={str(key): _flat(value) for key, value in (manifest or {}).items()},
        notes=notes,
    )  # fmt: skip
    write_text(Path(path), page)


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("masam.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"score": _score, "interval": _interval}
    environment.tests["nan"] = math.isnan
    return environment


def _score(value: float, digits: int = 3) -> str:
    return _UNDEFINED if math.isnan(value) else f"{value:.{digits}f}"


def _interval(ends: Sequence[float], undefined: str = _UNDEFINED) -> str:
    return undefined if math.isnan(ends[0]) else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _columns(evaluation: Evaluation) -> dict[str, dict[str, Any]]:
    """Describe the metrics beside Dice: heading, unit, digits and the mean over classes."""
    return {
        metric: {
            "heading": heading,
            "unit": unit.format(evaluation.nsd_tolerance_mm),
            "digits": digits,
            "mean": mean_of_means(evaluation.values(metric), axis=0),
        }
        for metric, (heading, unit, digits) in _COLUMNS.items()
        if metric in evaluation.metrics
    }


def _classes(evaluation: Evaluation, scheme: LabelScheme) -> list[dict[str, Any]]:
    colours = {label.name: "#{:02x}{:02x}{:02x}".format(*label.colour) for label in scheme.foreground}
    dice = evaluation.values("dice")
    return [
        {
            "summary": item,
            "colour": colours.get(item.label, _OTHER_COLOUR),
            "values": dice[~np.isnan(dice[:, column]), column].tolist(),
        }
        for column, item in enumerate(evaluation.summary)
    ]


def _lowest_cases(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Return the cases with the lowest mean Dice, each with its weakest classes; cases without a score come last."""
    ranked = sorted(evaluation.case_dice.items(), key=lambda item: (math.isnan(item[1]), item[1]))
    videos = {video.case: video for video in evaluation.videos}
    scores = dict(zip(evaluation.cases, evaluation.values("dice"), strict=True))
    return [
        {
            "id": case,
            "dice": dice,
            "video": videos.get(case),
            "weakest": [
                (evaluation.labels[column], scores[case][column])
                for column in np.argsort(scores[case])[:_WEAKEST_CLASSES]  # NaN sorts last
                if not math.isnan(scores[case][column])
            ],
        }
        for case, dice in ranked[:_LOWEST_CASES]
    ]


def _image(png: bytes, where: str) -> dict[str, Any]:
    if not png.startswith(_PNG):
        raise InputError(f"expected a PNG image, got bytes that begin with {png[:8]!r}", where=where)
    width, height = (int.from_bytes(png[start : start + 4], "big") for start in (16, 20))
    return {"width": width, "height": height, "base64": base64.b64encode(png).decode()}


def _flat(value: Any) -> str:
    match value:
        case None:
            return _UNDEFINED
        case Mapping():
            return ", ".join(f"{key} {_flat(item)}" for key, item in value.items())
        case list() | tuple():
            return " ".join(_flat(item) for item in value)
        case _:
            return str(value)
