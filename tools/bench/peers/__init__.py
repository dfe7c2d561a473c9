"""Peers of Accrue's learner, each a small file written from its paper, for comparison only."""

from peers.acil import Acil
from peers.base import Peer
from peers.fecam import FeCam
from peers.fetril import FeTril
from peers.gda import Gda
from peers.joint import LinearSvm, Logistic
from peers.ranpac import RanPac
from peers.simplecil import SimpleCil
from peers.slca import Slca
from peers.slda import DeepSlda, ExactSlda
from peers.teen import Teen
from peers.tip_adapter import TipAdapter
from peers.zero_shot import ZeroShot

PEERS: tuple[type[Peer], ...] = (
    SimpleCil,
    Teen,
    TipAdapter,
    DeepSlda,
    ExactSlda,
    Gda,
    FeCam,
    Acil,
    RanPac,
    FeTril,
    Slca,
    LinearSvm,
    Logistic,
)

__all__ = ["PEERS", "Peer", "ZeroShot"]
