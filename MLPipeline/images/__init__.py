"""Finding, reading, inspecting and splitting image files; duplicates and corrected labels."""
