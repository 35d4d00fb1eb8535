"""Hits over HTTP, and the page; needs ``clip-text[serve]``."""
