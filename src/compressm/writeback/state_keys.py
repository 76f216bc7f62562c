"""What the keys of optimizer states mean, by who writes them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch.optim import Optimizer


class Kind(Enum):
    """What a tensor of optimizer state is; the value says what a cut does to it."""

    GRADIENT = "follows as gradients do"
    SQUARE = "follows as squares of gradients do"
    MAGNITUDE = "follows as roots of such squares do"
    WEIGHT = (
        "goes through the linear map that made the new values of the old ones, and gets what these "
        "have beside; where no map did, it is the new value"
    )
    STEP = "is indexed where existing states are kept, else starts anew"
    UNKNOWN = "is indexed where existing states keep their values too, else starts anew"


@dataclass(frozen=True)
class Entry:
    """What a key means.

    Attributes:
        key: in the state of a parameter.
        kind: what lies there.
        optimizers: that write it, in words.
        only: parts of class names; elsewhere the key may mean something else. Empty: everywhere.
        never: parts of class names where it does mean something else.
        mean: of a mean of squares, the key of the mean of gradients whose square the optimizer
            takes away from it, where it keeps one.
    """

    key: str
    kind: Kind
    optimizers: str
    only: tuple[str, ...] = ()
    never: tuple[str, ...] = ()
    mean: str = ""

    def holds_for(self, owner: Optimizer) -> bool:
        """Whether the optimizer is one that means this by the key."""
        names = [base.__name__ for base in type(owner).__mro__]
        named = [any(part in name for name in names) for part in self.only]
        other = [any(part in name for name in names) for part in self.never]
        return not any(other) and (any(named) or not self.only)


# Of several entries for one key the first that holds for an optimizer says what it means there.
TABLE = (
    Entry("exp_avg", Kind.GRADIENT, "Adam and its kin, Lion, Prodigy, Adafactor with momentum"),
    Entry("momentum_buffer", Kind.GRADIENT, "SGD, RMSprop, Muon"),
    Entry("exp_avg_fast", Kind.GRADIENT, "AdEMAMix"),
    Entry("exp_avg_slow", Kind.GRADIENT, "AdEMAMix"),
    Entry("exp_avg_diff", Kind.GRADIENT, "Adan"),
    Entry("neg_pre_grad", Kind.GRADIENT, "Adan"),
    Entry("previous_grad", Kind.GRADIENT, "Adan, diffGrad"),
    Entry("last_grad", Kind.GRADIENT, "MARS"),
    Entry("grok_exp_avg", Kind.GRADIENT, "GrokFast"),
    Entry("moment1", Kind.GRADIENT, "Muon as published"),
    Entry("grad_avg", Kind.GRADIENT, "RMSprop, centred"),
    Entry("momentum", Kind.GRADIENT, "third parties' SGD"),
    Entry("e_w", Kind.GRADIENT, "SAM"),
    Entry("old_g", Kind.GRADIENT, "SAM"),
    Entry("prev", Kind.GRADIENT, "Rprop", only=("Rprop",)),
    Entry("s", Kind.GRADIENT, "Prodigy, D-Adaptation", only=("Prodigy", "DAdapt")),
    Entry("exp_mean_avg_beta2", Kind.GRADIENT, "LaProp, centred"),
    Entry(
        "state1",
        Kind.SQUARE,
        "bitsandbytes, where not quantised",
        only=("RMSprop", "Adagrad"),
    ),
    Entry("state1", Kind.GRADIENT, "the others of bitsandbytes, where not quantised"),
    Entry("exp_avg_sq", Kind.SQUARE, "M-SVAG", only=("MSVAG",), mean="exp_avg"),
    Entry(
        "exp_avg_sq",
        Kind.SQUARE,
        "Adam and its kin, Prodigy, schedule-free AdamW",
        mean="exp_mean_avg_beta2",
    ),
    Entry("max_exp_avg_sq", Kind.SQUARE, "Adam and AdamW with amsgrad"),
    Entry("square_avg", Kind.SQUARE, "RMSprop, Adadelta", mean="grad_avg"),
    Entry("exp_avg_var", Kind.SQUARE, "AdaBelief"),
    Entry("max_exp_avg_var", Kind.SQUARE, "AdaBelief with amsgrad"),
    Entry("moment2", Kind.SQUARE, "Muon as published"),
    Entry("sum", Kind.SQUARE, "Adagrad", only=("Adagrad",)),
    Entry("variance", Kind.SQUARE, "Adafactor, vectors", only=("Adafactor",)),
    Entry("state2", Kind.SQUARE, "bitsandbytes, where not quantised"),
    Entry("exp_inf", Kind.MAGNITUDE, "Adamax"),
    Entry("z", Kind.WEIGHT, "schedule-free AdamW and SGD", never=("FTRL", "Ftrl")),
    Entry("ax", Kind.WEIGHT, "ASGD"),
    Entry("p0", Kind.WEIGHT, "Prodigy"),
    Entry("old_p", Kind.WEIGHT, "SAM"),
    Entry("slow", Kind.WEIGHT, "Lookahead"),
    Entry("slow_param", Kind.WEIGHT, "Lookahead"),
    Entry("slow_buffer", Kind.WEIGHT, "Lookahead"),
    Entry("slow_params", Kind.WEIGHT, "Lookahead"),
    Entry("slow_weights", Kind.WEIGHT, "Lookahead"),
    Entry("lookahead_slow_buff", Kind.WEIGHT, "Lookahead"),
    Entry("cached_params", Kind.WEIGHT, "Lookahead"),
    Entry("master", Kind.WEIGHT, "float32 copies of rounded weights"),
    Entry("master_param", Kind.WEIGHT, "float32 copies of rounded weights"),
    Entry("master_params", Kind.WEIGHT, "float32 copies of rounded weights"),
    Entry("master_weight", Kind.WEIGHT, "float32 copies of rounded weights"),
    Entry("fp32_param", Kind.WEIGHT, "float32 copies of rounded weights"),
    Entry("acc_delta", Kind.STEP, "Adadelta"),
    Entry("step_size", Kind.STEP, "Rprop"),
)
_BY_KEY = {key: [e for e in TABLE if e.key == key] for key in {e.key for e in TABLE}}


def kind_by_key(owner: Optimizer, key: str) -> Kind:
    """What an optimizer keeps under a key, as far as its name and that of the key say."""
    entry = entry_of(owner, key)
    return Kind.UNKNOWN if entry is None else entry.kind


def entry_of(owner: Optimizer, key: str) -> Entry | None:
    """What is known of a key of an optimizer."""
    return next((e for e in _BY_KEY.get(key, ()) if e.holds_for(owner)), None)
