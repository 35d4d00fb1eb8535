"""The installed command ``clip-text``; the only room that imports both packages."""
