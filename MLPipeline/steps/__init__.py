"""The steps of a training run, in the order in which Engine.py takes them."""
