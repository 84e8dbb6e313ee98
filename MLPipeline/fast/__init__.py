"""The frozen part of a network at the speed of the processor."""
