"""What a run leaves behind: manifest, metrics, lock."""
