"""What runs on a device: these files import nothing of edgekd, need at most numpy and onnxruntime, and travel whole."""

RUNNER_FILES = ("runner.py", "machine.py", "programs.py", "forward.py")  # the runner and what it loads from beside it
