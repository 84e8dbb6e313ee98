"""Random numbers and pixel operations for the augmentations."""
