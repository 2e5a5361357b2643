"""`python -m trajmill` is the command `trajmill`."""

import os
import sys

from trajmill._process import binary

os.execv(binary(), [binary(), *sys.argv[1:]])
