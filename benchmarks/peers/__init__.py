"""The rivals: one class each, with one small interface (``peer.Peer``)."""

from __future__ import annotations

from benchmarks.peers.gatewright_layers import GatewrightPeer
from benchmarks.peers.jax_scan import JaxPeer
from benchmarks.peers.keras_layers import KerasPeer
from benchmarks.peers.onnx_graphs import OnnxRuntimePeer, OpenVinoPeer
from benchmarks.peers.peer import Peer
from benchmarks.peers.torch_layers import TorchPeer
from benchmarks.peers.torchrecurrent_layers import TorchRecurrentPeer

from gatewright.backends.dispatch import CHOICES

OURS = "gatewright"
"""The name of the one that all others are compared with."""


def make_peers(backend: str = "") -> dict[str, Peer]:
    """Every rival by name, ours first.

    Args:
        backend: what ``gatewright`` runs on; the compiled one unless given, as far as there is one.

    Returns:
        The rivals; each backend of ours stands there under its own name as well.
    """
    ours = backend or ("cpu" if "cpu" in CHOICES else "auto")
    peers: list[Peer] = [
        GatewrightPeer(OURS, ours),
        TorchPeer(),
        JaxPeer(),
        KerasPeer(),
        OnnxRuntimePeer(),
        OpenVinoPeer(),
        TorchRecurrentPeer(),
        *(GatewrightPeer(f"{OURS}-{choice}", choice) for choice in CHOICES),
    ]
    return {peer.name: peer for peer in peers}


DEFAULT = (OURS, "torch", "jax", "keras", "onnxruntime", "openvino", "torchrecurrent", f"{OURS}-eager")
"""Those that run unless others are asked for."""
