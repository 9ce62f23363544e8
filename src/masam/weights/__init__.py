"""Files of weights: reading, naming, downloading, official MA-SAM files and the project's own format."""
