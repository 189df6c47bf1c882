"""The report of a run: pictures, a page, and the same as data."""
