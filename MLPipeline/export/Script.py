"""The script that is written beside every exported model: two files of this folder, joined into one that stands alone.

standalone_script("onnx")         # imports of both, body of StandaloneReader, body of StandalonePredictor
"""

from __future__ import annotations

import ast
from pathlib import Path

_FOLDER = Path(__file__).parent
_PARTS = ("StandaloneReader", "StandalonePredictor")
_PACKAGES = """\
try:
    import cv2
    import numpy as np
except ImportError as error:
    if __name__ != "__main__":
        raise
    sys.stderr.write(f"error: {error}. pip install numpy opencv-python-headless\\n")
    raise SystemExit(3) from error
"""


def standalone_script(format_name: str) -> str:
    """Return the text of the script for models in a format such as "onnx"."""
    texts = [(_FOLDER / f"{name}.py").read_text(encoding="utf-8") for name in _PARTS]
    document = texts[-1].partition("from __future__")[0].replace("predict_onnx", f"predict_{format_name}")
    head = f"{document}from __future__ import annotations\n\n{_standard_imports(texts)}\n{_PACKAGES}"
    return "\n\n".join([head.rstrip(), *map(_body, texts)]) + "\n"


def _standard_imports(texts: list[str]) -> str:
    """Return the imports from the standard library that the files need, each once, sorted."""
    whole, parts = set[str](), dict[str, set[str]]()
    for node in (node for text in texts for node in ast.parse(text).body):
        if isinstance(node, ast.Import):
            whole |= {alias.name for alias in node.names} - {"cv2", "numpy"}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.module.startswith(("MLPipeline", "__")):
            parts.setdefault(node.module, set()).update(alias.name for alias in node.names)
    lines = [f"import {name}" for name in sorted(whole)]
    lines += [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(parts.items())]
    return "\n".join(lines) + "\n"


def _body(text: str) -> str:
    """Return what follows the imports of a file."""
    imports = [node for node in ast.parse(text).body if isinstance(node, (ast.Import, ast.ImportFrom))]
    return "\n".join(text.splitlines()[imports[-1].end_lineno :]).strip()
