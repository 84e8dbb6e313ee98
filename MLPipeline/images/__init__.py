"""Which images there are: folders, label tables, names; inspection, copies, splits, corrected labels."""
