"""OpenCV, configured once: other files import `cv2` from here or from `ReadImage`."""

from __future__ import annotations

import os

from MLPipeline.decoding.ImageHeader import MAX_PIXELS

# OpenCV reads this once, while it is imported; a value that is no number would abort the process.
if not os.environ.get("OPENCV_IO_MAX_IMAGE_PIXELS", "").isdigit():
    os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"] = str(MAX_PIXELS)
import cv2  # noqa: E402

# The reader reports what is wrong, with the name of the file. The first is OpenCV 4, the second OpenCV 5.
(getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel)(0)
cv2.setNumThreads(1)  # several images at once beat several threads on one, and a forked worker has no thread pool

__all__ = ["cv2"]
