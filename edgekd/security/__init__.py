"""Keys, signatures, and calls in a limited child process."""
