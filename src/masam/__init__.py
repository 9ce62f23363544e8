"""masam: Segment Anything adapted to medical volumes and video (MA-SAM, arXiv 2309.08842)."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

# The stub, which type checkers read, is the only list of the public names and their modules.
_MODULES = {
    alias.name: statement.module
    for statement in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(statement, ast.ImportFrom) and statement.module
    for alias in statement.names
}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that ``import masam`` and ``masam --help`` do not import torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'masam' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """List the public names, for completion in interactive shells."""
    return [*__all__, "__version__"]
