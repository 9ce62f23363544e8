"""Prompts in three dimensions: what a user points at in a scan, and what the model gets of it on each slice."""

from masam.prompts.records import Box3D, Click, MaskOnSlice, Prompt, Unit

__all__ = ["Box3D", "Click", "MaskOnSlice", "Prompt", "Unit"]
