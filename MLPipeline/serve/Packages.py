"""The packages that pages and the API need, which a training does not."""

from __future__ import annotations

from importlib.util import find_spec

from MLPipeline.Errors import ResourceError

_PACKAGES = {  # as imported: as installed
    "fastapi": "fastapi",
    "uvicorn": "uvicorn",
    "python_multipart": "python-multipart",
    "prometheus_client": "prometheus-client",
}


def require_web_packages(verb: str) -> None:
    """Check that what `serve/` imports is installed; call it before importing `serve/Web`.

    Raises:
        ResourceError: a package is missing.
    """
    missing = [package for module, package in _PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ResourceError(f"{verb}: needs {' and '.join(missing)}", f"Run pip install {' '.join(missing)}")
