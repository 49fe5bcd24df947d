"""Protobuf's wire format, to betterproto2's classes and back."""
