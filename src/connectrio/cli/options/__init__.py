"""What a command line says, as values."""
