"""Convert GeoJSON polygons to well-known binary and back (OGC 06-103r4, section 8.2)."""

import struct

import numpy as np

TYPES = {"Polygon": 3, "MultiPolygon": 6}


def to_wkb(geometry: dict) -> bytes:
    """A GeoJSON Polygon or MultiPolygon as well-known binary, little-endian."""
    kind, coordinates = geometry["type"], geometry["coordinates"]
    head = struct.pack("<BII", 1, TYPES[kind], len(coordinates))
    if kind == "MultiPolygon":
        return head + b"".join(to_wkb({"type": "Polygon", "coordinates": polygon}) for polygon in coordinates)
    rings = (struct.pack("<I", len(ring)) + np.asarray(ring, dtype="<f8")[:, :2].tobytes() for ring in coordinates)
    return head + b"".join(rings)
