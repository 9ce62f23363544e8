"""What is shown to people: figures and the HTML page; needs no torch."""

from masam.report.page import write_report

__all__ = ["write_report"]
