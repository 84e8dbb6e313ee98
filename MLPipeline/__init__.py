"""Folders of labelled images -> a trained, evaluated, explained image classifier; the files here are the pipeline."""
