"""Reads protobuf's wire format into betterproto2's classes, and writes it."""
