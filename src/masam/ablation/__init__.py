"""A table of training variants: every row trained with every seed, scored on the same cases, and compared."""
