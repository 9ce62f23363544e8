"""Public data sets, and data made by formula."""
