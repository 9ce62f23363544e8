"""Published SAM weights and our own, by name: their addresses, and their files on this machine.

All functions that look at files raise ResourceError if the system refuses to read one.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from masam.errors import ConfigError, InputError, ModelError
from masam.io.gate import os_errors
from masam.progress import MB
from masam.weights.part import part_path
from masam.weights.receipt import read_receipt

State = Literal["yes", "no", "incomplete", "unchecked"]

_PACKAGE = Path(__file__).parent.parent / "assets"
"""Folder of the weights that are part of the package."""


@dataclass(frozen=True)
class PublishedWeights:
    """One file of published weights.

    Attributes:
        size: Model size, as in ``masam.model.sizes``.
        url: Address of the file; None for a file of the package.
        filename: Name of the file in the cache folder, or in the package.
        bytes: Size of the file: exact if ``sha256`` is given, otherwise approximate.
        sha256: Pinned SHA-256 of the file in hex; None if the hash published by the host is used.
        licence: SPDX name of its licence.
        page: Web page of its authors.
    """

    name: str
    title: str
    size: str
    url: str | None
    filename: str
    bytes: int
    sha256: str | None
    page: str
    licence: str = "Apache-2.0"

    @property
    def file_size(self) -> str:
        """Size of the file for display."""
        return f"{self.bytes / MB:.0f} MB" if self.bytes < 1000 * MB else f"{self.bytes / MB / 1000:.2f} GB"

    @property
    def path(self) -> Path:
        """Path of the file, whether it exists or not."""
        return (cache_folder() if self.url else _PACKAGE) / self.filename

    def verified(self) -> str | None:
        """Return the SHA-256 with which the file on this machine was verified; None if it is missing or unverified.

        Installers verify the files of a package, so for these only the size is compared.
        """
        if self.url:
            receipt = read_receipt(self.path)
            return receipt.sha256 if receipt else None
        with os_errors(self.path):
            is_complete = self.path.is_file() and self.path.stat().st_size == self.bytes
        return self.sha256 if is_complete else None


# The authors' files: name, size in bytes and SHA-256.
_SAM = {
    "b": ("sam_vit_b_01ec64.pth", 375_042_383, "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912"),
    "l": ("sam_vit_l_0b3195.pth", 1_249_524_607, "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622"),
    "h": ("sam_vit_h_4b8939.pth", 2_564_550_879, "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e"),
}
_HUGGING_FACE_NAMES = {"b": "base", "l": "large", "h": "huge"}
_ALL = (
    PublishedWeights(
        name="masam-vit-t",
        title="A small SAM of our own, pre-trained on synthetic images",
        size="vit_t",
        url=None,
        filename="masam-vit-t.safetensors",
        bytes=18_126_160,
        sha256="fcdac990cf137d6d903d73653a969c0c7eaad690e001cc7a54b0f79163926956",
        page="docs/concepts/pre-training.md",
    ),
    *(
        PublishedWeights(
            name=f"sam-vit-{letter}",
            title=f"SAM, ViT-{letter.upper()}, by Meta",
            size=f"vit_{letter}",
            url=f"https://dl.fbaipublicfiles.com/segment_anything/{filename}",
            filename=filename,
            bytes=size,
            sha256=sha256,
            page="https://github.com/facebookresearch/segment-anything#model-checkpoints",
        )
        for letter, (filename, size, sha256) in _SAM.items()
    ),
    *(
        PublishedWeights(
            name=f"sam-vit-{letter}-hf",
            title=f"SAM, ViT-{letter.upper()}, as safetensors",
            size=f"vit_{letter}",
            url=f"https://huggingface.co/facebook/sam-vit-{word}/resolve/main/model.safetensors",
            filename=f"sam-vit-{word}.safetensors",
            bytes=_SAM[letter][1],  # approximate
            sha256=None,
            page=f"https://huggingface.co/facebook/sam-vit-{word}",
        )
        for letter, word in _HUGGING_FACE_NAMES.items()
    ),
    PublishedWeights(
        name="medsam-vit-b",
        title="MedSAM, ViT-B, SAM fine-tuned on medical images",
        size="vit_b",
        # A fixed commit, so that the content of this address cannot change.
        url="https://huggingface.co/wanglab/medsam-vit-base/resolve/"
        "a0a0e4bf38278213a0df876d2378f5736731a15e/model.safetensors",
        filename="medsam-vit-base.safetensors",
        bytes=375 * MB,
        sha256=None,
        page="https://github.com/bowang-lab/MedSAM",
    ),
)

PUBLISHED: Mapping[str, PublishedWeights] = {entry.name: entry for entry in _ALL}
"""All weights that can be given by name."""


def cache_folder() -> Path:
    """Return the folder of downloaded weights: ``MASAM_HOME/weights``, or ``weights`` in masam's user cache."""
    home = os.environ.get("MASAM_HOME")
    root = Path(home).absolute() if home else platformdirs.user_cache_path("masam", appauthor=False)
    return root / "weights"


def find_published(name: str) -> PublishedWeights:
    """Return the weights with this name; raise ConfigError, which suggests the nearest name, if it is unknown."""
    if name not in PUBLISHED:
        near = difflib.get_close_matches(name, PUBLISHED, n=1)
        fix = f"did you mean {near[0]!r}?" if near else "see masam weights list"
        raise ConfigError(f"expected one of {', '.join(PUBLISHED)}, got {name!r}", where="weights", fix=fix)
    return PUBLISHED[name]


def state(name: str) -> State:
    """Return whether published weights are on this machine.

    Returns:
        ``yes``; ``no``; ``incomplete`` for a partial download; ``unchecked`` for a file that was put into the cache
        folder by hand and is not yet verified.
    """
    entry = find_published(name)
    if entry.verified():
        return "yes"
    if entry.path.exists():
        return "unchecked"
    return "incomplete" if part_path(entry.path).exists() else "no"


def resolve(name_or_path: str | Path) -> Path:
    """Return the file for the name of published weights, which must be on this machine, or for a path.

    A published name always means the published weights, even if the working folder contains a file of that name. Such a
    file can be given with a separator, as text: ``./sam-vit-b``.
    """
    entry = PUBLISHED.get(str(name_or_path))
    return Path(name_or_path) if entry is None else require_cached(entry.name)


def require_cached(name: str) -> Path:
    """Return the path of published weights; raise InputError if they are not on this machine, or not verified."""
    entry = find_published(name)
    if entry.verified():
        return entry.path
    if entry.url is None:
        raise damaged_package(entry)
    if state(name) == "unchecked":
        raise InputError(
            f"{name} is present but not verified", where=entry.path, fix=f"run masam weights verify {name}"
        )
    raise InputError(f"{name} is not on this machine", fix=f"run masam weights get {name} (about {entry.file_size})")


def damaged_package(entry: PublishedWeights) -> ModelError:
    """Return the error for a missing or incomplete file of the package."""
    return ModelError(
        f"expected a file of {entry.bytes} bytes with SHA-256 {entry.sha256}, which is part of the masam package",
        where=entry.path,
        fix="install masam again; in a clone, check that the file was fetched completely",
    )


def published_by_sha256(sha256: str) -> PublishedWeights | None:
    """Return the published weights with this SHA-256 (lower-case hex), pinned or verified on this machine."""
    return next((entry for entry in PUBLISHED.values() if sha256 in (entry.sha256, entry.verified())), None)


def find_cached_by_sha256(sha256: str) -> Path | None:
    """Return the file on this machine that was verified with this SHA-256 (lower-case hex)."""
    return next((entry.path for entry in PUBLISHED.values() if sha256 == entry.verified()), None)
