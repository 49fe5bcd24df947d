"""A JSON schema, to Python and back."""
