"""Where models run: one file each. A device takes a runner's job and brings back its answer."""
