"""Options and arguments of commands, as values."""
