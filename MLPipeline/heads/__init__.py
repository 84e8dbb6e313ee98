"""Heads that are solved rather than trained step by step, the choice among them, and cross-validation."""
