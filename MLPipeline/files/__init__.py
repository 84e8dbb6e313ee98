"""What is written to and read from the disk: whole files, harmless tables, safe checkpoints, caches, run folders."""
