"""The choice of a backbone: each is tested on the user's own training images, within a given time."""
