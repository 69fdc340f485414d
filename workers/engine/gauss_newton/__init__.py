"""A preconditioner from the generalised Gauss-Newton matrix, in the space of rows instead of parameters.

H is the mean of Jᵢᵀ Sᵢ Jᵢ over the rows i, with Jᵢ the model's derivative and Sᵢ the loss's Hessian in
the outputs, plus what the model's own curvature adds, which is small where the loss is (Martens, New
insights and perspectives on the natural gradient method, 2020). With Sᵢ = Rᵢ Rᵢᵀ the first part is
G Gᵀ, a column g = Jᵢᵀ r / √n for each column r of each Rᵢ. A row that the model is sure of has next to
none of it, so that a few columns hold nearly all: those longer than λ allows to forget. By Woodbury,

    (λI + G Gᵀ)⁻¹ = (I − G (λI + Gᵀ G)⁻¹ Gᵀ) / λ,

which takes a matrix with a row a column (Ren and Goldfarb, Efficient subsampled Gauss-Newton and
natural gradient methods for training neural networks, 2019). Of a linear layer, g is an outer product,
and is never written out.
"""

from __future__ import annotations

from workers.engine.gauss_newton.dual import DualGaussNewton, dual_gauss_newton

__all__ = ["DualGaussNewton", "dual_gauss_newton"]
