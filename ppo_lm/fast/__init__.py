"""Passes and decoding of our own, for the families of networks that they know."""
