"""Linear time-invariant systems, their Gramians, and their reduction: pure tensors in, out.

Everything is computed in float64 / complex128 on the CPU, whatever comes in.
"""

from compressm.numerics.lti.cauchy import disc_defect
from compressm.numerics.lti.compose import adjoint, difference, stack
from compressm.numerics.lti.coordinates import real_parts
from compressm.numerics.lti.diagonal import Diagonalisation, diagonalise
from compressm.numerics.lti.discretise import DISCRETISATIONS, discretise, undiscretise
from compressm.numerics.lti.empirical import StateMoments
from compressm.numerics.lti.gramians import Gramians, cross_gramian, gramians
from compressm.numerics.lti.greedy import ModeOrder, greedy_modes
from compressm.numerics.lti.hankel import (
    Balancing,
    balance,
    hankel_singular_values,
    psd_factor,
    truncation_bound,
)
from compressm.numerics.lti.kautz import balance_closed, has_closed_form
from compressm.numerics.lti.norms import h2_error, h2_norm, hinf_error, hinf_norm
from compressm.numerics.lti.nuclear_norm import hankel_nuclear_norm
from compressm.numerics.lti.output_fit import OutputFit, fit_to_outputs
from compressm.numerics.lti.padding import padded, with_driven_parts, with_idle_parts_driven
from compressm.numerics.lti.perturbation import HankelMatrix, hankel_matrix, weyl_bound
from compressm.numerics.lti.placing import decay_and_phase, farthest
from compressm.numerics.lti.reduction import Reduction, with_system
from compressm.numerics.lti.refit import (
    DATA_RIDGE,
    data_refit,
    h2_refit,
    joint_of_modes,
    output_error,
    refit_input,
    refit_output,
    split_joint,
)
from compressm.numerics.lti.rounding import mode_distance, rounding_error, width
from compressm.numerics.lti.selection import mode_reduction
from compressm.numerics.lti.simulation import simulated
from compressm.numerics.lti.system import StateSpace
from compressm.numerics.lti.truncation import balanced_truncation

__all__ = [
    "DATA_RIDGE",
    "DISCRETISATIONS",
    "Balancing",
    "Diagonalisation",
    "Gramians",
    "HankelMatrix",
    "ModeOrder",
    "OutputFit",
    "Reduction",
    "StateMoments",
    "StateSpace",
    "adjoint",
    "balance",
    "balance_closed",
    "balanced_truncation",
    "cross_gramian",
    "data_refit",
    "decay_and_phase",
    "diagonalise",
    "difference",
    "disc_defect",
    "discretise",
    "farthest",
    "fit_to_outputs",
    "gramians",
    "greedy_modes",
    "h2_error",
    "h2_norm",
    "h2_refit",
    "hankel_matrix",
    "hankel_nuclear_norm",
    "hankel_singular_values",
    "has_closed_form",
    "hinf_error",
    "hinf_norm",
    "joint_of_modes",
    "mode_distance",
    "mode_reduction",
    "output_error",
    "padded",
    "psd_factor",
    "real_parts",
    "refit_input",
    "refit_output",
    "rounding_error",
    "simulated",
    "split_joint",
    "stack",
    "truncation_bound",
    "undiscretise",
    "weyl_bound",
    "width",
    "with_driven_parts",
    "with_idle_parts_driven",
    "with_system",
]
