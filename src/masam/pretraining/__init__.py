"""Pre-training: SAM's own task, from prompts to masks, on pictures made by formula."""
