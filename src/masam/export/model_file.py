"""Our own model file: FacT merged, or the encoder in it, so that it stands alone."""

from __future__ import annotations

from pathlib import Path

from masam import atomic
from masam.export.agreement import Exported, require_agreement, require_same_tensors
from masam.model.masam import Masam
from masam.model.merge import merged
from masam.weights.model_file import load, save


def write_model_file(
    model: Masam,
    path: Path,
    *,
    merge: bool = False,
    embed_base: bool = False,
    sam_checkpoint: str | Path | None = None,
) -> Exported:
    """Write a model as ``.safetensors``, and compare what the file holds with the model.

    Args:
        model: The model, with its card.
        path: File to write; it must not be there.
        merge: Fold FacT into the encoder, which then is in the file.
        embed_base: Put the encoder into the file, so that it needs no SAM file.
        sam_checkpoint: The SAM file that the model stands on, to load the file again if the encoder is not in it.

    Raises:
        ModelError: The file does not compute what the model does, or needs a SAM file that is not given.
        ResourceError: The file cannot be written.
    """

    def write(file: Path) -> Exported:
        save(file, merged(model) if merge else model, embed_base=embed_base)
        loaded = load(file, sam_checkpoint)
        difference = (require_agreement if merge else require_same_tensors)(model, loaded, where=path)
        return Exported(path, file.stat().st_size, difference)

    return atomic.write_aside(path, write)
