"""How much a box or a click gains: prompts made from references, asked as ``masam predict`` asks them, and scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masam.cases.folder import Case, find_images, load_case
from masam.errors import ConfigError, InputError, some_of
from masam.evaluation.cases import Cases, collect_cases, is_video, load_labels, name_alike
from masam.evaluation.overlap import count_overlap
from masam.evaluation.prompts import PromptEvaluation, PromptScore
from masam.evaluation.summary import read_scheme, to_channels
from masam.labels import LabelScheme
from masam.model.masam import Masam
from masam.predict.encoded import EncodedVolume
from masam.predict.predictor import Predictor
from masam.predict.requirements import (
    match_channels,
    require_channels,
    require_modality,
    require_trained_with_prompts,
)
from masam.progress import Progress, Silent
from masam.prompts import Click, Prompt
from masam.prompts.simulated_user import BOXES, correct, draw_boxes
from masam.volume import Volume

Mask = NDArray[np.bool_]


def evaluate_prompts(
    model: Predictor | Masam | str | Path,
    images: str | Path | Mapping[str, str | Path | Volume],
    references: Cases,
    labels: LabelScheme | Mapping[str, Any] | str | Path | None = None,
    *,
    clicks: int = 10,
    seed: int = 0,
    progress: Progress | None = None,
) -> PromptEvaluation:
    """Score a model without prompts, with boxes and after clicks, all made from the references.

    Each class of a case is prompted by itself and scored by itself; the others are automatic meanwhile, as in
    ``masam predict``. ``masam.prompts.simulated_user`` says which boxes there are. The first click goes to the largest
    error of the automatic answer, each next one to that of the answer before, with all clicks so far as prompts. An
    answer without an error that could be clicked on keeps its score. Voxels that a reference marks as ``ignore`` count
    nowhere.

    A volume is encoded once (``EncodedVolume`` says what that takes in memory); each prompt runs the decoder.

    Args:
        model: A predictor, or what ``Predictor`` takes.
        images: Folder of scans, or one; or case id to a scan or a volume.
        references: Folder of label files, or one; or case id to one or to a volume. They say which cases there are.
        labels: The label scheme, the ``labels`` of a ``dataset.json``, or the path of that file; by default the
            model's own. Its classes are the model's, or some of them, by name.
        clicks: Clicks on each class, 1 or more.
        seed: Seed of the jittered boxes, 0 or more. A box is a function of seed, case id and class name.
        progress: Told of each window that is encoded, then of each answer.

    Returns:
        Scores of each case and class, and their sums.

    Raises:
        ConfigError: A number is out of its range, or a class is none of the model's.
        InputError: There is no case, a reference lacks its scan, or a file is refused.
        ModelError: The model is for videos, was trained without prompts, or predicts numbers that are not finite.
        ResourceError: The system did not let us read, or memory does not suffice.
    """
    if clicks < 1:
        raise ConfigError(f"expected 1 click or more, got {clicks}", where="clicks")
    if seed < 0:
        raise ConfigError(f"expected a seed of 0 or more, got {seed}", where="seed")
    predictor = model if isinstance(model, Predictor) else Predictor(model)
    require_modality(predictor.plan, is_video=False, what=images if isinstance(images, str | Path) else "a volume")
    require_trained_with_prompts(predictor.ensemble.models)
    scheme = predictor.plan.scheme if labels is None else read_scheme(labels)
    _require_classes(scheme, predictor.plan.scheme)
    pairs = _pair(predictor, images, references)
    progress, scores = progress or Silent(), list[PromptScore]()
    for number, (case, (scan, reference)) in enumerate(pairs.items(), start=1):
        progress.say(f"case {number} of {len(pairs)}: {case}")
        scores += _score_case(predictor, case, scan, reference, scheme, clicks, seed, progress)
    return PromptEvaluation(
        tuple(scores), tuple(pairs), tuple(label.name for label in scheme.foreground), BOXES, clicks, seed
    )


def _score_case(
    predictor: Predictor,
    case: str,
    scan: Case | Volume,
    reference: Path | Volume,
    scheme: LabelScheme,
    clicks: int,
    seed: int,
    progress: Progress,
) -> list[PromptScore]:
    """Score the classes of a case; when it returns, nothing of the case is left in memory."""
    image, truth = _load(case, scan, reference, scheme, progress)
    session = _Session(predictor, predictor.encode(image, progress), truth, scheme, case)
    return list(session.scores(clicks, seed, progress))


class _Session:
    """One case that is asked again and again."""

    def __init__(
        self, predictor: Predictor, encoded: EncodedVolume, truth: Volume, scheme: LabelScheme, case: str
    ) -> None:
        self.predictor, self.encoded, self.case = predictor, encoded, case
        self.values = {label.name: label.value for label in predictor.plan.scheme.labels}
        self.channels = to_channels(truth, scheme, f"reference {case}", ignore=True)
        numbered = enumerate(scheme.foreground, start=1)
        self.present = {label.name: channel for channel, label in numbered if (self.channels == channel).any()}
        self.counts = np.ones(truth.shape, bool) if scheme.ignore_value is None else truth.array != scheme.ignore_value
        crop = encoded.prepared.trace.crop
        self.seen = encoded.prepared.trace.labels_to_volume(np.ones(crop.size, np.uint8)).array == 1
        self.spacing_mm = truth.geometry.spacing_mm

    def scores(self, clicks: int, seed: int, progress: Progress) -> Iterator[PromptScore]:
        progress.start("answers", 1 + len(self.present) * (len(BOXES) + clicks))
        automatic = self.predictor.predict(self.encoded).array
        progress.advance()
        for name, channel in self.present.items():
            yield self._score(name, self.channels == channel, automatic == self.values[name], clicks, seed, progress)

    def _score(
        self, name: str, reference: Mask, automatic: Mask, clicks: int, seed: int, progress: Progress
    ) -> PromptScore:
        def dice(answer: Mask) -> float:
            return count_overlap(reference, answer, ~self.counts).dice()

        boxes = draw_boxes(reference, self.seen, name, _generator(seed, self.case, name))
        by_box = dict.fromkeys(BOXES, dice(automatic))
        for kind, box in boxes.items():
            by_box[kind] = dice(self._ask(name, [box]))
            progress.advance()
        answer, made, after = automatic, list[Click](), list[float]()
        for _ in range(clicks):
            # What the model does not see, or what counts nowhere, is nothing to click on.
            clickable = np.where(self.seen & self.counts, answer, reference)
            click = correct(reference, clickable, self.spacing_mm, name, made)
            if click is not None:
                made.append(click)
                answer = self._ask(name, made)
            after.append(dice(answer))
            progress.advance()
        return PromptScore(self.case, name, dice(automatic), by_box, tuple(after))

    def _ask(self, name: str, prompts: Sequence[Prompt]) -> Mask:
        answer: Mask = self.predictor.predict(self.encoded, prompts=prompts).array == self.values[name]
        return answer


def _generator(seed: int, case: str, name: str) -> np.random.Generator:
    # Python's own hash of text differs from run to run.
    words = hashlib.sha256(f"{case}\0{name}".encode()).digest()
    return np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, int.from_bytes(words[:16], "big")))))


def _require_classes(scheme: LabelScheme, own: LabelScheme) -> None:
    known = [label.name for label in own.foreground]
    if unknown := [label.name for label in scheme.foreground if label.name not in known]:
        raise ConfigError(
            f"the model knows the classes {some_of(known)}, and not {some_of(unknown)}",
            where="labels",
            fix="give the labels of a data set of the model's classes",
        )


def _pair(
    predictor: Predictor, images: str | Path | Mapping[str, str | Path | Volume], references: Cases
) -> dict[str, tuple[Case | Volume, Path | Volume]]:
    """Find the scan of each reference; one scan and one file are one case, whatever their names."""
    _, given = name_alike(references, references)
    wanted = collect_cases(given, "references")
    scans: dict[str, Case | Volume]
    if isinstance(images, Mapping):
        scans = {case: item if isinstance(item, Volume) else Case(case, (Path(item),)) for case, item in images.items()}
    else:
        scans = {case.id: case for case in find_images(Path(images))}
        if given is not references and len(scans) == 1:
            scans = dict(zip(wanted, scans.values(), strict=True))
    if videos := [case for case, item in wanted.items() if is_video(item)]:
        raise InputError("prompts are for scans, and this reference is of a video", where=wanted[videos[0]])
    where = images if isinstance(images, str | Path) else None
    for one, other, what in ((wanted, scans, "references have no scan"), (scans, wanted, "scans have no reference")):
        if absent := [case for case in one if case not in other]:
            raise InputError(
                f"{len(absent)} of {len(one)} {what}: {some_of(absent, 8)}",
                where=where,
                fix="give a folder of scans and one of their references",
            )
    # A scan of other channels than the model's is known before the others have taken their time.
    return {case: (_fitting(predictor, case, scans[case]), wanted[case]) for case in wanted}


def _fitting(predictor: Predictor, case: str, scan: Case | Volume) -> Case | Volume:
    if isinstance(scan, Case):
        return match_channels(predictor.plan, scan)
    require_channels(predictor.plan, scan.channels, where=case)
    return scan


def _load(
    case: str,
    scan: Case | Volume,
    reference: Path | Volume,
    scheme: LabelScheme,
    progress: Progress,
) -> tuple[Volume, Volume]:
    """Return image and reference of a case, on one grid."""
    if isinstance(scan, Case) and isinstance(reference, Path):
        image, truth = load_case(scan.with_label(reference, scheme), say=progress.say)
        if truth is not None:
            return image, truth
    image = scan if isinstance(scan, Volume) else load_case(scan, say=progress.say)[0]
    (truth,) = load_labels([reference], case, scheme)
    if truth.shape != image.shape or not image.geometry.matches(truth.geometry, image.shape):
        raise InputError("the reference does not lie on the scan's grid", where=case, fix="resample the reference")
    return image, truth
