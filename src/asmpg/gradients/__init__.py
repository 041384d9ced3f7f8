"""Policies, imagination through a model, the gradients of a return, and what is measured of them."""
