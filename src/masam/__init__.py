"""masam: Segment Anything adapted to medical volumes and video (MA-SAM, arXiv 2309.08842)."""

__version__ = "0.1.0"
