"""run_pipeline.py without Ray, for tests of whoever starts it: everything is done in this process."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from run_pipeline import main
from tests.here import stand_in

if __name__ == "__main__":
    stand_in(setattr)
    sys.exit(main())
