"""EndoVis 2018: videos of robotic surgery with labels as colours, and MA-SAM's split (paper.md 5.3)."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from masam.convert.colour_labels import Colour, rewrite_colours
from masam.convert.conversion import Contents, Conversion, SplitName, within
from masam.convert.products import Product, Rule
from masam.labels import LabelScheme

TRAINING_SEQUENCES = (*range(1, 8), *range(9, 17))
TEST_SEQUENCES = tuple(range(1, 5))
"""Sequences of the released training set, and of the test set, which is held out."""

COLOURS: dict[str, tuple[Colour, ...]] = {
    "background": ((0, 0, 0),),
    "instrument-shaft": ((0, 255, 0),),
    "instrument-clasper": ((0, 255, 255),),
    "instrument-wrist": ((125, 255, 12),),
    "kidney-parenchyma": ((255, 55, 0),),
    "covered-kidney": ((24, 55, 125),),
    "thread": ((187, 155, 25), (128, 155, 25)),  # copies of labels.json disagree
    "clamps": ((0, 255, 125),),
    "suturing-needle": ((255, 255, 125),),
    "suction-instrument": ((123, 15, 175),),
    "small-intestine": ((124, 155, 5),),
    "ultrasound-probe": ((12, 255, 141),),
}
"""Colours of each class, in the order of the label values; the background is the challenge's "background-tissue"."""

LABELS = {name: value for value, name in enumerate(COLOURS)}
VALUES = {colour: LABELS[name] for name, colours in COLOURS.items() for colour in colours}

_FRAME = re.compile(r"frame(\d+)\.png")


def survey_endovis18(source: Path, root: Path) -> tuple[Conversion, ...]:
    """Return the conversion of a download, with one folder of frames and one of label images per case."""
    within(source)
    rewrite = partial(rewrite_colours, colours=VALUES, labels=LabelScheme.from_mapping(LABELS))
    rule = Rule("colours to classes", rewrite)
    contents = Contents()
    parts: tuple[tuple[str, SplitName, tuple[int, ...]], ...] = (
        ("Train", "Tr", TRAINING_SEQUENCES),
        ("Test", "Ts", TEST_SEQUENCES),
    )
    for part, split, sequences in parts:
        contents.surplus += _unknown_sequences(source, part, sequences)
        for sequence in sequences:
            folder = f"{part}/seq_{sequence}"
            if not (source / folder).is_dir():
                contents.missing.append(folder)
                continue
            case = f"{part.lower()}_seq_{sequence:02d}"
            frames, lacking = _frames(source, folder)
            contents.missing += lacking
            for name, label_name in frames:
                image, label = source / folder / "left_frames" / name, source / folder / "labels" / label_name
                contents.products.append(Product(image, f"images{split}/{case}/{name}"))
                contents.products.append(Product(label, f"labels{split}/{case}/{name}", rule))
            if frames:
                (contents.training if split == "Tr" else contents.test).append(case)
    return (
        Conversion(
            source=source,
            root=root,
            layout="EndoVis18's Train/seq_N and Test/seq_N, each with left_frames/frameNNN.png and labels/frameNNN.png",
            name="EndoVis18",
            description="Video of robotic surgery, left camera; the four sequences of the test set are held out.",
            reference="https://endovissub2018-roboticscenesegmentation.grand-challenge.org",
            licence="the challenge's terms: no commercial use",
            channel_names=("R", "G", "B"),
            labels=LABELS,
            file_ending=".png",
            options={"data_set": "endovis18"},
            **contents.fields(),
        ),
    )


def _frames(source: Path, folder: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Return frame and label of each number that has both, and the names of missing files and frames."""
    images, labels = (_numbered(source / folder / kind) for kind in ("left_frames", "labels"))
    missing = [f"{folder}/labels/{images[n]}" for n in sorted(set(images) - set(labels))]
    missing += [f"{folder}/left_frames/{labels[n]}" for n in sorted(set(labels) - set(images))]
    both = set(images) | set(labels)
    missing += [f"{folder}: frame {n}" for n in range(max(both, default=-1) + 1) if n not in both]
    if not both:
        missing.append(f"{folder}: all frames")
    return [(images[n], labels[n]) for n in sorted(set(images) & set(labels))], missing


def _numbered(folder: Path) -> dict[int, str]:
    """Return the frames of a folder by number."""
    matches = (_FRAME.fullmatch(path.name) for path in folder.glob("frame*.png"))
    return {int(match[1]): match[0] for match in matches if match}


def _unknown_sequences(source: Path, part: str, known: tuple[int, ...]) -> list[str]:
    names = {f"seq_{number}" for number in known}
    return [f"{part}/{path.name}" for path in sorted((source / part).glob("seq_*")) if path.name not in names]
