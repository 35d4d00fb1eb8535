"""Figures that commands draw, on matplotlib."""
