"""Orders of states, most important first, by name of `MatrixStateMethod.order`: one file each."""

from compressm.families.matrix_state.orders import additive as additive
from compressm.families.matrix_state.orders import balanced as balanced
from compressm.families.matrix_state.orders import diagonal as diagonal
from compressm.families.matrix_state.orders import elimination as elimination
from compressm.families.matrix_state.orders import energy as energy
from compressm.families.matrix_state.orders import greedy as greedy
from compressm.families.matrix_state.orders import hankel as hankel
from compressm.families.matrix_state.orders import magnitude as magnitude
from compressm.families.matrix_state.orders import pivoted_qr as pivoted_qr
from compressm.families.matrix_state.orders import random as random
from compressm.families.matrix_state.orders import strong_rrqr as strong_rrqr
from compressm.families.matrix_state.orders.base import ORDERS, Order, Ranking, register_order

__all__ = ["ORDERS", "Order", "Ranking", "register_order"]
