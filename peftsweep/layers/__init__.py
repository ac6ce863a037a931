"""What wraps the base: packed layers, attention within each text, the heads, and their kernels."""

from __future__ import annotations

from peftsweep.layers.context import ForwardContext
from peftsweep.layers.dropout import Masks
from peftsweep.layers.packed_layer import LayerSpec, PackedLayer
from peftsweep.layers.segments import FAR, TILE, Segments, Texts, tiled

__all__ = ["FAR", "TILE", "ForwardContext", "LayerSpec", "Masks", "PackedLayer", "Segments", "Texts", "tiled"]
