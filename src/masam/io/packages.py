"""Import the packages of the optional extras."""

from __future__ import annotations

import importlib
from types import ModuleType

from masam.errors import ResourceError

_PACKAGES = {
    "pydicom": ("DICOM requires pydicom", "dicom"), "highdicom": ("DICOM SEG requires highdicom", "dicom"),
    "av": ("video requires PyAV", "video"), "PIL": ("video requires Pillow", "video"),
    **{name: (f"this export requires {name}", "export") for name in ("onnx", "onnxscript", "onnxruntime", "monai")},
    "nilearn": ("the head data set requires nilearn", "demo"),
    "mlflow": ("the setting mlflow requires mlflow", "mlflow"),
}  # fmt: skip


def require_package(name: str) -> ModuleType:
    """Import a package of an extra, or a module of it; ResourceError if it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        reason, extra = _PACKAGES[name.split(".")[0]]
        raise ResourceError(
            f"{reason}, which is not installed ({error})", fix=f"pip install 'masam[{extra}]'"
        ) from error
