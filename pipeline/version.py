"""Version of Sunvisor, and of what else decides the bytes of a span."""

import av

VERSION = "0.1.0"


def software() -> str:
    """Sunvisor and PyAV, which brings FFmpeg and the encoders."""
    return f"sunvisor {VERSION}, av {av.__version__}"
