"""Bridges to other libraries' layers and files."""
