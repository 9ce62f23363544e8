"""Synthetic labelled images for pre-training: layered shapes with textures in the style of CT, MR, ultrasound and RGB.

Modules from the single shape to the complete image: ``noise``, ``outlines``, ``scene``, ``surface``, ``looks``,
``degrade``, ``picture``. All randomness comes from a generator argument.
"""
