"""Attention-guided diagnosis of whole-slide images, from training to a served model."""

import os

# ONNX Runtime from 1.29 on marks this machine with an id and reports to Microsoft what it runs,
# from the moment it is imported, unless it was told before that it must not.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["ORT_TELEMETRY_DISABLED"] = "1"  # its other name
