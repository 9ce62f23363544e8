"""Read videos and folders of frames, read and write label frames, and draw overlays."""
