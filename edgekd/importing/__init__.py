"""Models in formats that edgekd does not read as teachers, written again as Hugging Face folders."""
