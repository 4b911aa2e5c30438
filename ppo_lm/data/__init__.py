"""Prompts, demonstrations, preferences."""
