"""Tasks: one file each, under Hugging Face's own names. A task knows rows, inputs and its metric."""

DEFAULT = "text-classification"  # of `build`, `plan` and `diagnose` where no --task is given
