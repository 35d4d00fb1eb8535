"""Indexes that a server keeps, behind what ingest and search ask of a catalogue.

One folder for each kind of server; nothing else of the package knows which there are. Their client
libraries are imported when an address names them.
"""

from retrieval.stores.address import SCHEMES, Location, StoreAddress, as_location
from retrieval.stores.copying import CopyReport, copy_index
from retrieval.stores.opening import connect, open_as_store, open_for_reading, open_for_writing
from retrieval.stores.upkeep import describe, verify

__all__ = [
    "SCHEMES",
    "CopyReport",
    "Location",
    "StoreAddress",
    "as_location",
    "connect",
    "copy_index",
    "describe",
    "open_as_store",
    "open_for_reading",
    "open_for_writing",
    "verify",
]
