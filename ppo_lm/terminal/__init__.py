"""Text for people: nothing in it steers their terminal; curves in characters; lines that stay below what is printed."""

from ppo_lm.terminal.text import clock, printable, sparkline, wrapped

__all__ = ["clock", "printable", "sparkline", "wrapped"]
