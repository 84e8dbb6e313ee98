"""Image files: finding them in folders, and reading any of them safely."""
