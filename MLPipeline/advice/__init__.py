"""What to do after a run to raise the accuracy, with estimates from what the run already knows."""
