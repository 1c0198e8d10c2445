"""Chains of elementwise work that torch can compile into one pass over memory.

What a stage computes between its matrix products and convolutions is written as plain functions of tensors
and declared as kernels. They run as they are written, or, once they were compiled for this machine, as that.
"""
