"""The exported script is one file that stands alone."""

from __future__ import annotations

import ast
import sys

import pytest

from MLPipeline.export.Script import standalone_script

ALLOWED = {"cv2", "numpy"}  # and the runtimes, which are imported by name when a model is opened


@pytest.mark.parametrize("name", ["onnx", "openvino", "pt2"])
def test_it_imports_the_standard_library_numpy_and_opencv_alone(name: str) -> None:
    tree = ast.parse(standalone_script(name))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    roots = {module.split(".")[0] for module in modules}
    assert roots - set(sys.stdlib_module_names) == ALLOWED


def test_its_document_names_itself() -> None:
    document = ast.get_docstring(ast.parse(standalone_script("pt2"))) or ""
    assert "python predict_pt2.py cat.jpg" in document and "predict_onnx" not in document


def test_it_defines_all_that_it_uses() -> None:
    tree = ast.parse(standalone_script("onnx"))
    defined = {node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    assert {"Refused", "decode", "read_bytes", "resize", "Predictor", "main"} <= defined
    names = [node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert len(names) == len(defined), "two definitions of one name"
