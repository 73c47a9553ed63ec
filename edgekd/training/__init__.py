"""Training: the teacher made ready, the student distilled, the loop that both share."""
