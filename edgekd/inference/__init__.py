"""Models run: exported and held against torch, predictions, figures on the test rows."""
