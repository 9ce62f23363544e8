"""Synthetic data sets with known labels, and the synthetic images used for pre-training."""
