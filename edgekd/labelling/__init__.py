"""Labels from a teacher that only answers: asked over an API, paid once, never over the ceiling."""
