"""`connectrio serve`: `run` needs no cyclopts; `command` reads flags, environment and TOML file with it."""
