"""Version of Sunvisor, and of what else decides the bytes of a span."""

import av
import cv2

VERSION = "0.1.0"


def software() -> str:
    """Sunvisor, PyAV, which brings FFmpeg and the encoders, and OpenCV, whose optical flow the temporal stage follows."""
    return f"sunvisor {VERSION}, av {av.__version__}, opencv {cv2.__version__}"
