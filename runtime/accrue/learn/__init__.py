"""Learning as exact addition: statistics, heads, rejection. Pure numpy, no I/O."""

from accrue.learn.calibrated import Calibrated
from accrue.learn.choice import HEADS, Choice, choose
from accrue.learn.cosine import Cosine
from accrue.learn.decision import Alternative, Calibration, Decision
from accrue.learn.fused import Fused
from accrue.learn.gaussian import Gaussian
from accrue.learn.learner import Learner
from accrue.learn.leave_one_out import LeftOut, leave_half_out, leave_one_out
from accrue.learn.prototype import Prototype
from accrue.learn.random_features import RandomFeatures
from accrue.learn.ridge import Ridge
from accrue.learn.served import Head, Served
from accrue.learn.state import State
from accrue.learn.statistics import ROW_LIMIT, SCALE, Statistics, check_rows, quantise

__all__ = [
    "HEADS",
    "ROW_LIMIT",
    "SCALE",
    "Alternative",
    "Calibrated",
    "Calibration",
    "Choice",
    "Cosine",
    "Decision",
    "Fused",
    "Gaussian",
    "Head",
    "Learner",
    "LeftOut",
    "Prototype",
    "RandomFeatures",
    "Ridge",
    "Served",
    "State",
    "Statistics",
    "check_rows",
    "choose",
    "leave_half_out",
    "leave_one_out",
    "quantise",
]
