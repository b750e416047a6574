"""The microscopic simulation: exact quantized SGD, independent of the limit theory."""

from .ensemble import Ensemble
from .run import Interrupted, simulate

__all__ = ["Ensemble", "Interrupted", "simulate"]
