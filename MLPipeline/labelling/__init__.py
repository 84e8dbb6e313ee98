"""Labelling photographs on a page: what is shown next, what is known so far, and where the labels are kept."""
