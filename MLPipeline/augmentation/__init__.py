"""How the augmentations are drawn, and what they do to pixels."""
