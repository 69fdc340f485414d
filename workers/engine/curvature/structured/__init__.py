"""Curvatures of which a part is kept: a block a layer, in Kronecker factors, or the diagonal.

With W_n = Σ_t g_t a_tᵀ a row's gradient at a layer with inputs a_t and cotangents g_t over T tokens,
A = Σ a aᵀ / tokens and S = Σ g gᵀ / tokens with their eigenvectors Q_A and Q_S,

    C W ≈ Q_S [Λ ⊙ (Q_Sᵀ W Q_A)] Q_Aᵀ,

where Λ is the outer product of both's eigenvalues (K-FAC; Martens and Grosse, 2015) or the mean over
rows of (Q_Sᵀ W_n Q_A)² (EK-FAC; George et al., 2018). (C + λI)⁻¹ divides by Λ + λ instead.
"""

from __future__ import annotations

from workers.engine.curvature.structured.blocks import Spectral
from workers.engine.curvature.structured.operator import Options, Structured

__all__ = ["Options", "Spectral", "Structured"]
