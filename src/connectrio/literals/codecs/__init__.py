"""A declared type, to Python and back."""
