"""Packages that only exports need, imported when one is made."""

from __future__ import annotations

import importlib
from types import ModuleType

from masam.errors import ResourceError


def require(name: str) -> ModuleType:
    """Import a module of the ``export`` extra.

    Args:
        name: Its full name, such as ``monai.bundle``.

    Raises:
        ResourceError: It is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ResourceError(
            f"this export needs {name.split('.')[0]}, which is not installed ({error})",
            fix="pip install 'masam[export]'",
        ) from error
