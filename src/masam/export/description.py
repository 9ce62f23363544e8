"""Read the description stored in an export, without running the export."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masam.errors import InputError, ModelError
from masam.export.automatic import DESCRIPTION_FILE, DESCRIPTION_KEY
from masam.io import gate
from masam.io.packages import require_package

KINDS = {".pt2": "torch.export program", ".onnx": "ONNX model"}
BUNDLE = "MONAI bundle"
BUNDLE_METADATA, BUNDLE_INFERENCE = (Path("configs") / f"{name}.json" for name in ("metadata", "inference"))

# Location of the program in a .pt2 file, from PyTorch 2.8 and before.
_PROGRAM = ("/models/model.json", "serialized_exported_program.json")
_MAX_BYTES = 2**20


def read_description(path: Path) -> dict[str, Any] | None:
    """Return the description in a ``.pt2`` or ``.onnx`` file, None if the file was not exported by masam.

    Raises:
        InputError: The file is not readable.
        ModelError: The file is damaged.
        ResourceError: The file is ONNX, and the package ``onnx`` is not installed.
    """
    with gate.open_regular(path):
        pass
    onnx = require_package("onnx") if path.suffix == ".onnx" else None
    try:
        with gate.library_errors(path):
            text = _read_program(path) if onnx is None else _read_onnx(onnx, path)
            described = None if text is None else json.loads(text)
    except InputError as error:
        raise ModelError(
            f"expected a {KINDS[path.suffix]}, cannot read it ({error.__cause__})", where=path, fix="copy it again"
        ) from error
    if described is not None and not isinstance(described, Mapping):
        raise ModelError("the description in the file is damaged", where=path, fix="export it again")
    return None if described is None else dict(described)


def _read_program(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith(_PROGRAM) for name in archive.namelist()):
            raise ValueError("the zip archive contains no program")
        records = [record for record in archive.infolist() if record.filename.endswith(f"/extra/{DESCRIPTION_FILE}")]
        if len(records) != 1 or records[0].file_size > _MAX_BYTES:
            return None
        return archive.read(records[0]).decode()


def _read_onnx(onnx: Any, path: Path) -> str | None:
    model = onnx.load(path, load_external_data=False)
    return next((entry.value for entry in model.metadata_props if entry.key == DESCRIPTION_KEY), None)
