"""What could be cut from a model, and whether it is worth it; nothing is changed: `advise`."""

from compressm.advice.advise import advise
from compressm.advice.budget import Budget
from compressm.advice.result import Advice
from compressm.advice.rows import CutAdvice, LayerAdvice

__all__ = ["Advice", "Budget", "CutAdvice", "LayerAdvice", "advise"]
