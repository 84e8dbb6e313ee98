"""Writes a trained model for use elsewhere, and proves that its answers are those of `predict`."""
