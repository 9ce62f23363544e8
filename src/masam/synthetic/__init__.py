"""Synthetic data sets with known labels, and the pictures used for pre-training."""
