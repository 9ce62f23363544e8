"""Self-contained masam model files, with merged FacT increments or an embedded encoder."""

from __future__ import annotations

from pathlib import Path

from masam import atomic
from masam.export.agreement import Exported, require_agreement, require_same_tensors
from masam.model.masam import Masam, merged
from masam.weights.model_file import load, save


def write_model_file(
    model: Masam,
    path: Path,
    *,
    merge: bool = False,
    embed_base: bool = False,
    sam_checkpoint: str | Path | None = None,
) -> Exported:
    """Write a model as ``.safetensors`` and compare the file with the model.

    Args:
        model: The model, with its card.
        path: File to write; it must not exist.
        merge: Merge the FacT increments into the encoder, which is then included in the file.
        embed_base: Include the encoder, so that the file requires no SAM file.
        sam_checkpoint: SAM file of the model, required to verify a file without the encoder.

    Raises:
        ModelError: The file differs from the model, or requires a SAM file that is not given.
        ResourceError: The file cannot be written.
    """

    def write(file: Path) -> Exported:
        save(file, merged(model) if merge else model, embed_base=embed_base)
        loaded = load(file, sam_checkpoint)
        difference = (require_agreement if merge else require_same_tensors)(model, loaded, where=path)
        return Exported(path, file.stat().st_size, difference)

    return atomic.write_aside(path, write)
