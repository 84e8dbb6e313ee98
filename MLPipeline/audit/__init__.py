"""What may be wrong with a data set: suspect labels, copies, outliers, shortcuts, how much more data would help."""
