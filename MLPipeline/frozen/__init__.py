"""The frozen part of a network: run once per image at full speed, its outputs stored as rows."""
