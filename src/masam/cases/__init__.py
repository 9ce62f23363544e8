"""Data set folders: nnU-Net v2 and MSD layouts, folders of videos, splits, and checks of a whole data set."""
