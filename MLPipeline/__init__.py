"""The pipeline, one file per concern; `Engine.py` above it is the only one that knows them all."""
