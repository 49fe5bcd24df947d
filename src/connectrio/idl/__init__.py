"""Messages and service bases generated from `protos/` by `just gen`; never edited by hand."""
