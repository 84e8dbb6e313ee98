"""The arithmetic under `Augment.py`: random draws by key, and batches of images moved, recoloured and mixed."""
