"""Figures and the HTML report. Does not import torch."""

from masam.report.page import write_report

__all__ = ["write_report"]
