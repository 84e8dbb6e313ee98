"""The command line: its flags, its look, and one file per command beside training."""
