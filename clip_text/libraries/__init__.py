"""Models of other libraries: an adapter for each, in a file named after it, imported lazily.

A model is named ``LIBRARY:NAME`` (see :mod:`clip_text.libraries.names`); :func:`load` makes it a
:class:`~clip_text.libraries.encoder.LibraryEncoder`, which gives the rows of that library's own
calls. Nothing here is fine-tuned, exported or converted: that is for models of this package.
"""

from clip_text.libraries.names import LibraryName, parse, recognise

__all__ = ["LibraryName", "parse", "recognise"]
