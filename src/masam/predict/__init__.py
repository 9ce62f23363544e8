"""Prediction: from a scan or a video to labels, one case or many, with or without prompts."""
