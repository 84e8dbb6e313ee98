"""Random numbers and pixel operations of the augmentations."""
