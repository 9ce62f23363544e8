"""Pre-training of a SAM on synthetic pictures with its own task, from prompts to masks."""
