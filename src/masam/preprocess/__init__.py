"""From a volume to the slices a model sees, and back; every step has an inverse."""
