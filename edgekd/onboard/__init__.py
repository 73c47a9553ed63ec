"""What runs on a device: these files import nothing of edgekd, need at most numpy and onnxruntime, and travel whole."""
