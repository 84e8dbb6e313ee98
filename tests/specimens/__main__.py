"""`python -m tests.specimens [--output Data] [--seed 0]`: draw the specimens anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.specimens import write

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Draw the specimen pictures, one folder a class.")
    parser.add_argument("--output", type=Path, default=Path("Data"), help="folder to write the class folders into")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write(arguments.output, arguments.seed)
