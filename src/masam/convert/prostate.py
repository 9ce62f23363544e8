"""Prostate MRI of six sites, with MA-SAM's split (paper.md 5.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from masam.convert.conversion import Contents, Conversion, nifti_names, within
from masam.convert.relabel import relabelling

Form = Literal["six", "one"]
HeldOut = Literal["paper", "all"]

_IMAGE = re.compile(r"Case(\d{2})\.nii\.gz")
# One site spells the ending with a capital letter.
_LABEL = re.compile(r"Case(\d{2})_[Ss]egmentation\.nii\.gz")


@dataclass(frozen=True)
class Site:
    """One hospital."""

    letter: str  # its letter in the paper
    name: str  # its folder in the download
    cases: int  # published number of cases
    test: tuple[int, ...]  # numbers of the held-out cases, as in the file names; all others are for training
    numbers: tuple[int, ...] = ()  # numbers of all cases, if they are known
    other_names: tuple[str, ...] = ()  # other names of its folder


SITES = (
    Site("A", "RUNMC", 30, (3, 8, 12, 15, 18, 26)),
    Site("B", "BMC", 30, (3, 8, 12, 15, 18, 26)),
    Site("C", "I2CVB", 19, (3, 8, 13, 15), other_names=("HCRUDB",)),
    Site("D", "UCL", 13, (1, 32, 34)),
    Site("E", "BIDMC", 12, (0, 4, 9), (0, *range(2, 13))),
    Site("F", "HK", 12, (38, 41, 46)),
)

LABELS = {"background": 0, "prostate": 1}
"""Files hold further values for zones, all of which are prostate."""


def survey_prostate(
    source: Path, root: Path, form: Form = "six", held_out: HeldOut = "paper"
) -> tuple[Conversion, ...]:
    """Return the conversions of a download: six in ``root``, because the paper trains one model per site, or one.

    Held out are the paper's test cases, or all cases, to test the model of another site (paper.md 2.4).
    """
    within(source)
    of_sites = {site: _contents(source, site, held_out) for site in SITES}
    held = "all cases" if held_out == "all" else "MA-SAM's test cases"

    def conversion(root: Path, name: str, sites: str, contents: Contents) -> Conversion:
        return Conversion(
            source=source,
            root=root,
            layout="folders RUNMC, BMC, I2CVB, UCL, BIDMC and HK with CaseNN.nii.gz and CaseNN_segmentation.nii.gz",
            name=name,
            description=f"T2-weighted MRI of the prostate, {sites}; held out: {held}.",
            reference="https://liuquande.github.io/SAML/ (NCI-ISBI 2013, I2CVB, PROMISE12)",
            licence="terms of the three sources",
            channel_names=("T2",),
            labels=LABELS,
            options={"data_set": "prostate", "as": form, "held_out": held_out},
            **contents.fields(),
        )

    if form == "one":
        return (conversion(root, "Prostate", "six sites", sum(of_sites.values(), Contents())),)
    return tuple(
        conversion(root / site.name, f"Prostate-{site.name}", f"site {site.letter} ({site.name})", contents)
        for site, contents in of_sites.items()
    )


def _contents(source: Path, site: Site, held_out: HeldOut) -> Contents:
    """Return the cases of a site, and what is missing or surplus."""
    known = {name.casefold() for name in (site.name, *site.other_names)}
    folder = next((path for path in sorted(source.iterdir()) if path.name.casefold() in known), source / site.name)
    names = sorted(nifti_names(folder))
    images = {int(match[1]): match[0] for match in map(_IMAGE.fullmatch, names) if match}
    labels = {int(match[1]): match[0] for match in map(_LABEL.fullmatch, names) if match}
    numbers = [number for number in sorted(images) if number in labels and number in (site.numbers or images)]
    contents, rule = Contents(), relabelling({0: 0}, others=1)
    for number in numbers:
        case, files = f"{site.name}_{number:04d}", (folder / images[number], folder / labels[number])
        contents.add_case(case, "Ts" if held_out == "all" or number in site.test else "Tr", *files, rule)
    missing = [f"{folder.name}/Case{n:02d}.nii.gz" for n in sorted((set(labels) | _needed(site)) - set(images))]
    missing += [
        f"{folder.name}/Case{n:02d}_segmentation.nii.gz" for n in sorted((set(images) | _needed(site)) - set(labels))
    ]
    surplus = [f"{folder.name}/{name}" for name in names if not (_IMAGE.fullmatch(name) or _LABEL.fullmatch(name))]
    count = len(set(images) | set(labels) | _needed(site))
    if site.numbers:
        surplus += [f"{folder.name}/{images[n]}" for n in sorted(set(images) - set(site.numbers))]
    elif count < site.cases:
        missing.append(f"{site.cases - count} of {site.cases} cases in {folder.name}")
    elif count > site.cases:
        surplus.append(f"{count - site.cases} cases more than the {site.cases} of {folder.name}")
    contents.missing, contents.surplus = missing, surplus
    return contents


def _needed(site: Site) -> set[int]:
    """Return the required case numbers: the held-out cases, and all cases if their numbers are known."""
    return set(site.test) | set(site.numbers)
