"""Read back what an export says of itself, without running anything that it holds."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from masam.errors import InputError, ModelError
from masam.export.automatic import DESCRIPTION_FILE, DESCRIPTION_KEY
from masam.export.packages import require
from masam.io import gate

KINDS = {".pt2": "torch.export program", ".onnx": "ONNX model"}
BUNDLE = "MONAI bundle"
BUNDLE_METADATA, BUNDLE_INFERENCE = (Path("configs") / f"{name}.json" for name in ("metadata", "inference"))

# Where PyTorch keeps the program, since 2.8 and before.
_PROGRAM = ("/models/model.json", "serialized_exported_program.json")
_MAX_BYTES = 2**20


def read_description(path: Path) -> dict[str, Any] | None:
    """Return the description that masam put into a ``.pt2`` or ``.onnx`` file.

    Args:
        path: The file.

    Returns:
        Plain values; None if there is no description, as in files that others have exported.

    Raises:
        InputError: The file cannot be opened.
        ModelError: The file is damaged.
        ResourceError: The file is ONNX, and the package ``onnx`` is not installed.
    """
    with gate.open_regular(path):
        pass
    onnx = require("onnx") if path.suffix == ".onnx" else None
    try:
        with gate.library_errors(path):
            text = _of_program(path) if onnx is None else _of_onnx(onnx, path)
            described = None if text is None else json.loads(text)
    except InputError as error:
        raise ModelError(
            f"expected a {KINDS[path.suffix]}, it cannot be read ({error.__cause__})", where=path, fix="copy it again"
        ) from error
    if described is not None and not isinstance(described, Mapping):
        raise ModelError("its description is damaged", where=path, fix="export it again")
    return None if described is None else dict(described)


def _of_program(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith(_PROGRAM) for name in archive.namelist()):
            raise ValueError("the zip archive holds no program")
        records = [one for one in archive.infolist() if one.filename.endswith(f"/extra/{DESCRIPTION_FILE}")]
        if len(records) != 1 or records[0].file_size > _MAX_BYTES:
            return None
        return archive.read(records[0]).decode()


def _of_onnx(onnx: Any, path: Path) -> str | None:
    model = onnx.load(path, load_external_data=False)
    return next((entry.value for entry in model.metadata_props if entry.key == DESCRIPTION_KEY), None)
