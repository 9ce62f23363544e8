"""Endless labelled pictures by formula: shapes in layers, textures, the looks of CT, MR, ultrasound and colour.

From the outline of one shape to the whole picture: ``noise``, ``outlines``, ``scene``, ``surface``, ``looks``,
``degrade``, ``picture``. Every draw comes from a generator that is passed in.
"""
