"""Training: data, loss, optimiser, loop, run folder."""
