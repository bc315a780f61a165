"""Every figure that the documentation quotes, each with the command that makes it."""

import os

# Before any benchmark imports onnxruntime: its wheel reports home unless told not to.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
