"""Training: samples, loss, schedule, loop, run folder."""
