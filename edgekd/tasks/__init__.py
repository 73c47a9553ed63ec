"""Tasks: one file each, under Hugging Face's own names. A task knows rows, inputs and its metric."""
