"""
First steps
===========

The five steps of gradient descent.
"""

import jax

import gdjax

# %%
# A loss is a pure function, and :math:`x_{t+1} = x_t - \eta \nabla f(x_t)`.

optimizer = gdjax.adam(0.1)
print(optimizer)
