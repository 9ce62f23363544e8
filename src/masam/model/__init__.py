"""SAM with FacT increments, 3D adapters and a progressive mask decoder. Plain numbers in, no files, no config."""
