"""HTTP/2 without I/O, and the loop that does its I/O."""
