"""Converters for the public data sets of the paper."""
