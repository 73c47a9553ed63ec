"""What runs on a device: these files import nothing of edgekd, need at most numpy and onnxruntime, and travel whole."""

RUNNER_FILES = (  # the runner and what it loads from beside it
    "runner.py",
    "machine.py",
    "programs.py",
    "forward.py",
    "causal.py",
    "recurrent.py",
    "seq2seq.py",
    "decoding.py",
    "logmel.py",
    "voice.py",
    "wav.py",
)
