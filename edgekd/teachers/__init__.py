"""Teachers: one file for each way a teacher comes to us."""
