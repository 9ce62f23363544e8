"""Prompts in three dimensions, and their projection onto the slices that the model sees."""

from masam.prompts.records import Box3D, Click, MaskOnSlice, Prompt, Unit

__all__ = ["Box3D", "Click", "MaskOnSlice", "Prompt", "Unit"]
