"""Video files, folders of frames, label frames and overlays."""
