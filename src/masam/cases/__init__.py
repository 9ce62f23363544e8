"""Data set folders: nnU-Net v2 and MSD layouts, videos, splits, and checks. Errors are raised as in :mod:`masam.io`."""
