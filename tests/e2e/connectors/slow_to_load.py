"""A module that does not finish loading before somebody writes to the FIFO that SLOW_TO_LOAD names."""

import os
from pathlib import Path

os.write(1, b'{"event": "loading"}\n')
Path(os.environ["SLOW_TO_LOAD"]).read_text()
