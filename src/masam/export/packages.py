"""Import of the packages that only exports require."""

from __future__ import annotations

import importlib
from types import ModuleType

from masam.errors import ResourceError


def require(name: str) -> ModuleType:
    """Import a module of the ``export`` extra by its full name.

    Raises:
        ResourceError: The package is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ResourceError(
            f"this export requires {name.split('.')[0]}, which is not installed ({error})",
            fix="pip install 'masam[export]'",
        ) from error
