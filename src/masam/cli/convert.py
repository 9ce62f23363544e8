"""``masam convert``: convert public data sets from their download layout to the layout that masam reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from masam.cli.console import plural, print_json, print_line, show_progress
from masam.cli.options import Json, Quiet, epilog
from masam.errors import ConfigError

if TYPE_CHECKING:
    from masam.convert.conversion import Conversion

Source = Annotated[Path, typer.Argument(help="Folder of the unpacked download, which is never changed.")]
Out = Annotated[Path, typer.Argument(help="Folder to create.")]
Link = Annotated[bool, typer.Option("--link", help="Link unchanged files instead of copying them, to save disk space.")]
Partial = Annotated[bool, typer.Option("--partial", help="Convert an incomplete download, and note what is missing.")]


app = typer.Typer(
    name="convert",
    help="Convert a downloaded public data set to a folder that masam and nnU-Net read, with the split and classes of "
    "the paper.",
    epilog=epilog("masam convert btcv RawData Dataset101_BTCV --link"),
    no_args_is_help=True,
)


@app.command(epilog=epilog("masam convert btcv RawData Dataset101_BTCV --link"))
def btcv(
    source: Source,
    out: Out,
    adrenal: Annotated[
        Literal["merged", "separate"], typer.Option(help="Adrenal glands as one class, as in the paper, or as two.")
    ] = "merged",
    link: Link = False,
    partial: Partial = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Abdominal CT of the BTCV challenge: Training/img/imgNNNN.nii.gz and Training/label/labelNNNN.nii.gz."""
    from masam.convert.btcv import survey_btcv

    _convert(survey_btcv(source, out, adrenal), link, partial, json, quiet)


@app.command(epilog=epilog("masam convert amos22 amos22 Dataset102_AMOS_CT --modality ct --labels btcv --link"))
def amos22(
    source: Source,
    out: Out,
    modality: Annotated[Literal["ct", "mr", "both"], typer.Option(help="Scans to convert.")] = "ct",
    labels: Annotated[
        Literal["amos", "btcv"],
        typer.Option(help="The 15 classes of AMOS, or the 11 shared with BTCV, with the values of a BTCV model."),
    ] = "amos",
    held_out: Annotated[
        Literal["validation", "test"],
        typer.Option(help="Set to hold out: the labelled validation set or the test set."),
    ] = "validation",
    link: Link = False,
    partial: Partial = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Abdominal CT and MR of AMOS22: imagesTr, imagesVa, imagesTs, labelsTr and labelsVa with amos_NNNN.nii.gz."""
    from masam.convert.amos22 import survey_amos22

    _convert(survey_amos22(source, out, modality, labels, held_out), link, partial, json, quiet)


@app.command(epilog=epilog("masam convert prostate SAML prostate --as six"))
def prostate(
    source: Source,
    out: Out,
    form: Annotated[
        Literal["six", "one"], typer.Option("--as", help="One data set per site, such as OUT/RUNMC, or one of all.")
    ] = "six",
    held_out: Annotated[
        Literal["paper", "all"],
        typer.Option(help="Hold out the test cases of the paper, or all cases, to test the model of another site."),
    ] = "paper",
    link: Link = False,
    partial: Partial = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prostate MRI of six sites: SITE/CaseNN.nii.gz and SITE/CaseNN_segmentation.nii.gz."""
    from masam.convert.prostate import survey_prostate

    _convert(survey_prostate(source, out, form, held_out), link, partial, json, quiet)


@app.command(epilog=epilog("masam convert endovis18 EndoVis18 Dataset104_EndoVis18 --link"))
def endovis18(
    source: Source,
    out: Out,
    link: Link = False,
    partial: Partial = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Video of EndoVis 2018: Train and Test with seq_N/left_frames/frameNNN.png and seq_N/labels/frameNNN.png."""
    from masam.convert.endovis18 import survey_endovis18

    _convert(survey_endovis18(source, out), link, partial, json, quiet)


@app.command(epilog=epilog("masam convert msd Task07_Pancreas Dataset105_Tumour --link"))
def msd(
    source: Source,
    out: Out,
    labels: Annotated[
        Literal["tumour", "pancreas-and-tumour"] | None,
        typer.Option(help="Classes of Task07_Pancreas, by default tumour."),
    ] = None,
    link: Link = False,
    partial: Partial = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """One task of the Medical Segmentation Decathlon; Task07_Pancreas with the split of MA-SAM's tumour test."""
    from masam.convert.msd import survey_msd

    _convert(survey_msd(source, out, labels), link, partial, json, quiet)


@app.command(epilog=epilog("masam convert relabel masks masks_of_11_organs --map 10=0"))
def relabel(
    source: Annotated[Path, typer.Argument(help="Folder of label files, CASE.nii.gz, or one file.")],
    out: Annotated[Path, typer.Argument(help="Folder to write to.")],
    changes: Annotated[list[str], typer.Option("--map", metavar="OLD=NEW", help="Old and new value; repeatable.")],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Change the values of label files; 0 is the background. Values that are not named are kept."""
    from masam.convert.relabel import relabel_folder

    mapping = dict(_pair(change) for change in changes)
    with show_progress(quiet) as progress:
        written = relabel_folder(source, out, mapping, progress)
    if json:
        print_json({"written": [str(path) for path in written]})
    else:
        print_line(f"{out}: {len(written)} relabelled")


def _convert(conversions: Sequence[Conversion], link: bool, partial: bool, json: bool, quiet: bool) -> None:
    """Make the data sets and print the results."""
    from masam.convert.conversion import convert

    with show_progress(quiet) as progress:
        results = convert(conversions, link=link, partial=partial, progress=progress)
    if json:
        print_json([result.record() for result in results])
        return
    for one in results:
        validation = f" ({one.validation} of them for validation)" if one.validation else ""
        print_line(
            f"{one.root}: {plural(one.training, 'training case')}{validation}, {one.test} held out; "
            f"{plural(one.made, 'file')} made, {one.kept} kept from an earlier run"
        )
        for word, names in (("missing", one.missing), ("surplus", one.surplus)):
            if names:
                print_line(f"  {word}: {', '.join(names)}")


def _pair(change: str) -> tuple[int, int]:
    old, equals, new = change.partition("=")
    if not (equals and old.strip().isdecimal() and new.strip().isdecimal()):
        raise ConfigError(f"expected OLD=NEW with two label values, got {change!r}", where="--map")
    return int(old), int(new)
