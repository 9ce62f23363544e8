"""What is shown to people: figures, the HTML page, and the manifest of how a result was made; needs no torch."""

from masam.manifest import build_manifest, write_manifest
from masam.report.page import write_report

__all__ = ["build_manifest", "write_manifest", "write_report"]
