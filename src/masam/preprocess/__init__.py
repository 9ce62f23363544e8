"""Prepare volumes and videos as slices for the model; every geometric step has an inverse."""
