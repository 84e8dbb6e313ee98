"""The packages that pages and the API need, which a training does not."""

from __future__ import annotations

from importlib.util import find_spec

from MLPipeline.Errors import ResourceError

# As imported: as installed.
_FOR_PAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn"}
_FOR_THE_API = {"python_multipart": "python-multipart", "prometheus_client": "prometheus-client"}


def require_web_packages(verb: str, has_api: bool = False) -> None:
    """Check that what a served page imports is installed, or also what the API does; call it before `serve/Web`.

    Raises:
        ResourceError: a package is missing.
    """
    needed = _FOR_PAGES | (_FOR_THE_API if has_api else {})
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        raise ResourceError(f"{verb}: needs {' and '.join(missing)}", f"Run pip install {' '.join(missing)}")
