"""Layers of flash-linear-attention (`fla.layers`), known by class name, parameters and sizes.

They run on GPUs only and are never imported. Their kernels pad the key dimension of a head to a
power of two, so a cut to 48 computes as much as one to 64: `multiple_of` belongs in the policy.
"""
