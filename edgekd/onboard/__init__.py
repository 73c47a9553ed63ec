"""What runs on a device: these files import nothing of edgekd, need at most numpy and onnxruntime, and travel whole."""

# the runner, and what it loads from beside it
RUNNER_FILES = ("runner.py", "machine.py", "programs.py", "forward.py", "causal.py")
