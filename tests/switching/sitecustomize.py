"""Python imports this first in every process of a run with ``--switch-interval``; see `repeating`."""

import os
import sys

sys.setswitchinterval(float(os.environ["TEST_SWITCH_INTERVAL"]))
