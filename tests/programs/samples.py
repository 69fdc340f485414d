"""Valid input of every operator that programs may use, away from where it has no derivative."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from workers.programs.names import names

# Not differentiable: what they return is an integer, a boolean or a constant.
COMPARISONS = names(
    """
    eq ge greater greater_equal gt isclose isfinite isinf isnan isneginf isposinf le less less_equal
    logical_and logical_not logical_or logical_xor lt ne not_equal signbit all any
    """
)
INTEGERS = names(
    """
    __and__ __or__ __xor__ argmax argmin argsort bitwise_and bitwise_not bitwise_or bitwise_xor
    bucketize one_hot searchsorted
    """
)
CREATION = names(
    """
    arange eye full full_like linspace logspace new_full new_ones new_zeros ones ones_like
    scalar_tensor zeros zeros_like zero bartlett_window blackman_window hamming_window hann_window
    kaiser_window
    """
)
# Constant in each piece, or cut off from the graph: their derivative is 0 where they have one.
CONSTANT = names("ceil detach floor floor_divide heaviside round sgn sign special_round trunc")
NOT_DIFFERENTIABLE = COMPARISONS | INTEGERS | CREATION | CONSTANT

_draw = torch.Generator().manual_seed(3)


def x(*shape: int) -> Tensor:
    """Normal numbers, none near zero."""
    drawn = torch.randn(shape, generator=_draw, dtype=torch.float64)
    return drawn + 0.1 * drawn.sign()


def between(low: float, high: float, *shape: int) -> Tensor:
    """Uniform numbers."""
    return low + (high - low) * torch.rand(shape, generator=_draw, dtype=torch.float64)


def positive(*shape: int) -> Tensor:
    """From 0.5 to 2."""
    return between(0.5, 2.0, *shape)


def apart(*shape: int) -> Tensor:
    """Numbers of which no two are near each other, nor near zero, in a random order."""
    count = int(torch.Size(shape).numel())
    return ((torch.randperm(count, generator=_draw) - count / 2 + 0.3) / 4).double().view(shape)


def regular(size: int) -> Tensor:
    """A well-conditioned matrix."""
    return 0.4 * x(size, size) + 2 * torch.eye(size, dtype=torch.float64)


def whole(values: Any) -> Tensor:
    """Integers."""
    return torch.tensor(values)


@dataclass(frozen=True)
class Made:
    """An argument that is a function of a real tensor: complex, symmetric or triangular."""

    leaf: Tensor
    make: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Fixed:
    """An argument in which the operator is not differentiated, although it is real."""

    value: Tensor


def z(*shape: int) -> Made:
    """Complex numbers, none near zero."""
    return Made(x(*shape, 2), torch.view_as_complex)


def definite() -> Made:
    """A symmetric positive definite matrix."""
    return Made(regular(3), lambda root: root @ root.T)


def symmetric() -> Made:
    """A matrix whose eigenvalues are apart."""
    far = torch.diag(torch.tensor([0.0, 3.0, 7.0], dtype=torch.float64))
    return Made(x(3, 3), lambda half: half + half.T + far)


def triangular() -> Made:
    """A lower triangle, well-conditioned."""
    return Made(regular(3), torch.tril)


def signs() -> Fixed:
    """Of three rows."""
    return Fixed(torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64))


Call = tuple[tuple[Any, ...], dict[str, Any]]


def of(*args: Any, **kwargs: Any) -> Call:
    """One call."""
    return args, kwargs


SAMPLES: dict[str, list[Call]] = {}


def _all(listed: str, make: Callable[[], list[Call]]) -> None:
    for name in listed.split():
        SAMPLES[name] = make()


# One tensor, entry by entry.
_all(
    """
    abs absolute arctan asinh atan celu cos cosh deg2rad elu erf erfc exp exp2 expm1 frac gelu
    hardshrink hardsigmoid hardswish hardtanh leaky_relu log_sigmoid log_sigmoid_forward mish
    nan_to_num neg negative positive rad2deg relu relu6 selu sigmoid silu sin sinc sinh softplus
    softshrink special_erf special_erfc special_expit special_expm1 square tan tanh conj angle
    resolve_conj resolve_neg real alias clone contiguous lift_fresh lift_fresh_copy special_sinc
    special_exp2 special_ndtr special_log_ndtr special_erfcx i0 special_i0e special_i1 special_i1e
    """,
    lambda: [of(x(3, 4))],
)
_all("hardsigmoid hardswish relu6 hardtanh softshrink", lambda: [of(3 * x(3, 4))])
_all("acos asin atanh erfinv", lambda: [of(between(-0.8, 0.8, 3, 4))])
_all("acosh", lambda: [of(between(1.5, 3.0, 3, 4))])
_all(
    """
    digamma lgamma log log10 log1p log2 reciprocal rsqrt special_log1p sqrt special_digamma
    special_gammaln special_entr special_psi
    """,
    lambda: [of(positive(3, 4))],
)
_all("logit special_logit special_ndtri", lambda: [of(between(0.1, 0.9, 3, 4))])
_all("mvlgamma special_multigammaln", lambda: [of(positive(3) + 2, 2)])
_all("special_polygamma", lambda: [of(1, positive(3))])
_all("polygamma", lambda: [of(2, positive(3))])
SAMPLES |= {
    "threshold": [of(x(3, 4), 0.05, 0.2)],
    "clamp": [of(x(3, 4), -0.5, 0.5), of(x(3, 4), x(4) - 1, x(4) + 1)],
    "clip": [of(x(3, 4), -0.5, 0.5), of(x(3, 4), x(4) - 1, x(4) + 1)],
    "clamp_max": [of(x(3, 4), 0.5), of(x(3, 4), x(4))],
    "clamp_min": [of(x(3, 4), 0.5), of(x(3, 4), x(4))],
    "_prelu_kernel": [of(x(3, 4), x(1, 4))],
    "prelu": [of(x(3, 4), x(4))],
    "rrelu": [of(x(3, 4))],
    "glu": [of(x(3, 4))],
    "gelu": [of(x(3, 4)), of(x(3, 4), approximate="tanh")],
    "imag": [of(z(3, 4))],
    "_conj": [of(z(3, 4))],
    "conj": [of(z(3, 4))],
    "abs": [of(x(3, 4)), of(z(3, 4))],
    "angle": [of(z(3, 4))],
    "view_as_real": [of(z(3, 4))],
    "view_as_complex": [of(x(3, 2))],
    "complex": [of(x(3), x(3))],
    "polar": [of(x(3), x(3))],
    "dropout": [of(x(3, 4), 0.5, False)],
    "alpha_dropout": [of(x(3, 4), 0.5, False)],
    "feature_dropout": [of(x(3, 4), 0.5, False)],
    "feature_alpha_dropout": [of(x(3, 4), 0.5, False)],
    "native_dropout": [of(x(3, 4), 0.5, False)],
}
# Two tensors, entry by entry.
_all(
    """
    add arctan2 atan2 copysign fmax fmin huber_loss hypot l1_loss logaddexp logaddexp2 maximum
    minimum mse_loss mul multiply rsub smooth_l1_loss sub subtract max min
    """,
    lambda: [of(x(3, 4), x(3, 4))],
)
_all("add sub subtract mul multiply rsub", lambda: [of(x(3, 4), x(4)), of(x(3), 2.0)])
_all("copysign", lambda: [of(x(3, 4), x(4)), of(x(3), -2.0)])
_all("div divide true_divide", lambda: [of(x(3, 4), positive(4)), of(x(3), 2.0)])
_all("fmod remainder", lambda: [of(3 * x(3, 4), positive(4)), of(3 * x(3), 1.5)])
_all(
    "float_power pow",
    lambda: [of(positive(3, 4), x(4)), of(positive(3), 2.5), of(2.0, x(3)), of(x(3), 3)],
)
_all("xlogy special_xlogy", lambda: [of(x(3), positive(3)), of(x(3), 2.0), of(2.0, positive(3))])
_all("special_xlog1py", lambda: [of(x(3), positive(3))])
_all("dist", lambda: [of(x(3, 4), x(3, 4)), of(x(3), x(3), 3.0)])
SAMPLES |= {
    "lerp": [of(x(3, 4), x(3, 4), 0.3), of(x(3, 4), x(3, 4), x(3, 4))],
    "addcdiv": [of(x(3), x(3), positive(3), value=0.5)],
    "addcmul": [of(x(3), x(3), x(3), value=0.5)],
    "where": [
        of(whole([True, False, True]), x(3), x(3)),
        of(whole([True, False, True]), x(3), 1.0),
        of(whole([True, False, True]), 1.0, x(3)),
    ],
    "cross": [of(x(2, 3), x(2, 3))],
    "linalg_cross": [of(x(2, 3), x(2, 3))],
    "linalg_vecdot": [of(x(2, 3), x(2, 3))],
}
# Products.
_all("linear", lambda: [of(x(2, 3), x(4, 3), x(4)), of(x(2, 3), x(4, 3))])
_all("dot vdot inner", lambda: [of(x(3), x(3))])
_all("outer ger", lambda: [of(x(3), x(2))])
_all("mm matmul linalg_matmul kron", lambda: [of(x(2, 3), x(3, 2))])
SAMPLES |= {
    "matmul": [of(x(2, 3), x(3, 2)), of(x(2, 2, 3), x(3)), of(x(3), x(3))],
    "bmm": [of(x(2, 2, 3), x(2, 3, 2))],
    "mv": [of(x(2, 3), x(3))],
    "addmm": [of(x(2, 2), x(2, 3), x(3, 2), beta=0.5, alpha=2.0)],
    "addmv": [of(x(2), x(2, 3), x(3))],
    "addr": [of(x(2, 3), x(2), x(3))],
    "addbmm": [of(x(2, 2), x(3, 2, 3), x(3, 3, 2))],
    "baddbmm": [of(x(2, 2, 2), x(2, 2, 3), x(2, 3, 2))],
    "chain_matmul": [of([x(2, 3), x(3, 2), x(2, 2)])],
    "linalg_multi_dot": [of([x(2, 3), x(3, 2), x(2, 2)])],
    "einsum": [of("bij,bjk->bk", [x(2, 3, 2), x(2, 2, 2)])],
    "tensordot": [of(x(2, 3, 2), x(3, 2, 2), [1, 2], [0, 1])],
    "bilinear": [of(x(2, 3), x(2, 2), x(4, 3, 2), x(4))],
    "scaled_dot_product_attention": [
        of(x(1, 2, 3, 4), x(1, 2, 3, 4), x(1, 2, 3, 4)),
        of(x(1, 2, 3, 4), x(1, 2, 3, 4), x(1, 2, 3, 4), is_causal=True),
        of(x(1, 2, 3, 4), x(1, 2, 3, 4), x(1, 2, 3, 4), x(3, 3)),
    ],
}
# Linear algebra.
_all(
    "inverse linalg_inv linalg_det det logdet matrix_exp linalg_matrix_exp pinverse",
    lambda: [of(regular(3))],
)
_all("linalg_slogdet slogdet linalg_qr", lambda: [of(regular(3))])
_all("linalg_svdvals linalg_pinv", lambda: [of(x(3, 2)), of(regular(3))])
_all("matrix_power linalg_matrix_power", lambda: [of(regular(3), 3), of(regular(3), -2)])
_all(
    "linalg_solve",
    lambda: [of(regular(3), x(3, 2)), of(regular(3), x(3)), of(regular(3), x(2, 3), left=False)],
)
_all("linalg_solve_ex _linalg_solve_ex", lambda: [of(regular(3), x(3, 2))])
_all(
    "linalg_norm linalg_vector_norm",
    lambda: [of(x(3, 4)), of(x(3, 4), 1), of(x(3, 4), 3, [1], True)],
)

SAMPLES |= {
    "norm": [
        of(x(3, 4)),
        of(x(3, 4), 3),
        of(x(3, 4), 2, [1]),
        of(x(3, 4), 1, [1], True),
    ],
    "linalg_matrix_norm": [of(x(3, 4)), of(x(3, 4), 1), of(x(3, 4), "nuc"), of(x(3, 4), 2)],
    "linalg_solve_triangular": [
        of(regular(3), x(3, 2), upper=True),
        of(regular(3), x(2, 3), upper=False, left=False, unitriangular=True),
    ],
    "cholesky_solve": [of(x(3, 2), triangular())],
    "cholesky_inverse": [of(triangular())],
    "linalg_cholesky": [of(definite()), of(definite(), upper=True)],
    "linalg_cholesky_ex": [of(definite())],
    "linalg_inv_ex": [of(regular(3))],
    "linalg_householder_product": [of(x(3, 2), x(2))],
    "linalg_vander": [of(x(3))],
    "linalg_eigvalsh": [of(symmetric())],
    "linalg_eigh": [of(symmetric())],
    "linalg_svd": [of(regular(3)), of(x(3, 2), False)],
    "trace": [of(x(3, 3))],
    "cov": [of(x(3, 4))],
    "corrcoef": [of(x(3, 4))],
}
# Sums and the like.
_all(
    "sum mean nansum nanmean", lambda: [of(x(3, 4)), of(x(3, 4), [1], True), of(x(2, 3, 2), [0, 2])]
)
_all(
    "std var std_mean var_mean",
    lambda: [of(x(3, 4)), of(x(3, 4), [1]), of(x(3, 4), [1], correction=0)],
)
_all("prod", lambda: [of(x(3)), of(x(3, 4), 1), of(x(3, 4), 1, True)])
_all("logsumexp special_logsumexp", lambda: [of(x(3, 4), [1])])
_all("amax amin", lambda: [of(apart(3, 4), [1]), of(apart(3, 4))])
_all("max min median nanmedian", lambda: [of(apart(3, 4)), of(apart(3, 4), 1)])
SAMPLES["max"].append(of(x(3), x(3)))
SAMPLES["min"].append(of(x(3), x(3)))
_all("aminmax", lambda: [of(apart(3, 4), dim=1), of(apart(3, 4))])
_all("cumprod cumsum logcumsumexp cummax cummin", lambda: [of(apart(3, 4), 1)])
_all(
    "softmax log_softmax special_softmax special_log_softmax _safe_softmax",
    lambda: [of(x(3, 4), 1)],
)
_all("_softmax _log_softmax", lambda: [of(x(3, 4), 1, False)])
_all("sort msort", lambda: [of(apart(3, 4))])
_all("topk kthvalue", lambda: [of(apart(3, 4), 2)])
_all(
    "quantile nanquantile",
    lambda: [of(apart(3, 4), 0.3, 1), of(apart(3, 4), whole([0.2, 0.7]).double(), 1)],
)
_all("trapezoid trapz cumulative_trapezoid", lambda: [of(x(3, 4)), of(x(3, 4), x(4))])
_all("diff", lambda: [of(x(3, 4)), of(x(3, 4), 2)])
_all("renorm", lambda: [of(3 * x(3, 4), 2, 0, 1.5)])
# Shapes.
_all(
    """
    adjoint atleast_1d atleast_2d atleast_3d flatten fliplr flipud matrix_H mH mT numpy_T ravel squeeze
    squeeze_copy t t_copy
    """,
    lambda: [of(x(3, 4))],
)
_all("expand broadcast_to expand_copy", lambda: [of(x(1, 4), [3, 4])])
_all("reshape view view_copy _unsafe_view", lambda: [of(x(3, 4), [2, 6])])
_all("reshape_as view_as", lambda: [of(x(3, 4), x(2, 6))])
_all("permute permute_copy", lambda: [of(x(2, 3, 4), [2, 0, 1])])
_all("transpose transpose_copy swapaxes swapdims", lambda: [of(x(2, 3, 4), 0, 2)])
_all("movedim moveaxis", lambda: [of(x(2, 3, 4), 0, 2), of(x(2, 3, 4), [0, 1], [2, 0])])
_all("unsqueeze unsqueeze_copy", lambda: [of(x(3, 4), 1)])
_all("split split_copy unsafe_split", lambda: [of(x(4, 3), 2)])
_all("chunk unsafe_chunk tensor_split", lambda: [of(x(4, 3), 2)])
_all(
    "split_with_sizes split_with_sizes_copy unsafe_split_with_sizes", lambda: [of(x(4, 3), [1, 3])]
)
_all("hsplit vsplit", lambda: [of(x(4, 4), 2)])
_all("unbind unbind_copy", lambda: [of(x(3, 4))])
_all(
    "cat concat concatenate stack hstack vstack dstack column_stack broadcast_tensors",
    lambda: [of([x(3, 4), x(3, 4)])],
)
_all("select select_copy", lambda: [of(x(3, 4), 1, 2)])
_all("slice slice_copy", lambda: [of(x(3, 4), 1, 1, 4, 2)])
_all("narrow narrow_copy", lambda: [of(x(3, 4), 1, 1, 2)])
_all("unfold unfold_copy", lambda: [of(x(3, 4), 1, 2, 1)])
_all("tril triu", lambda: [of(x(3, 4), 1)])
_all("diag diag_embed diagonal", lambda: [of(x(3, 3))])
_all("tile repeat", lambda: [of(x(3, 4), [2, 1])])
SAMPLES |= {
    "atleast_1d": [of(x(2)), of([x(2), x(3)])],
    "dsplit": [of(x(2, 2, 4), 2)],
    "expand_as": [of(x(1, 4), x(3, 4))],
    "sum_to_size": [of(x(3, 4), [1, 4])],
    "unflatten": [of(x(3, 4), 1, [2, 2])],
    "flip": [of(x(3, 4), [0, 1])],
    "roll": [of(x(3, 4), [1], [1])],
    "rot90": [of(x(3, 4))],
    "meshgrid": [of([x(2), x(3)]), of([x(2), x(3)], indexing="xy")],
    "repeat_interleave": [of(x(3, 4), 2, 1), of(x(3, 4), whole([1, 2, 1]), 0)],
    "block_diag": [of([x(2, 2), x(1, 3)])],
    "cartesian_prod": [of([x(2), x(3)])],
    "combinations": [of(x(3))],
    "channel_shuffle": [of(x(1, 4, 2, 2), 2)],
    "pixel_shuffle": [of(x(1, 4, 2, 2), 2)],
    "pixel_unshuffle": [of(x(1, 1, 4, 4), 2)],
    "copy": [of(x(3, 4), x(3, 4))],
    "to": [of(x(3, 4), torch.float64)],
    "_to_copy": [of(x(3, 4), dtype=torch.float64)],
    "type_as": [of(x(3, 4), x(1))],
    "fill": [of(x(3, 4), 2.0), of(x(3, 4), x(1)[0])],
}
# Indexing.
_ROWS = whole([2, 0, 2])
SAMPLES |= {
    "embedding": [of(x(3, 4), whole([[0, 2], [2, 2]])), of(x(3, 4), whole([0, 2, 1]), 2)],
    "index": [of(x(3, 4), [_ROWS]), of(x(3, 4), [None, _ROWS])],
    "index_select": [of(x(3, 4), 0, _ROWS)],
    "index_add": [of(x(3, 4), 0, _ROWS, x(3, 4))],
    "index_copy": [of(x(3, 4), 0, whole([2, 0]), x(2, 4))],
    "index_fill": [of(x(3, 4), 0, whole([1]), 2.0), of(x(3, 4), 0, whole([1]), x(1)[0])],
    "index_put": [of(x(3, 4), [whole([0, 2])], x(2, 4)), of(x(3, 4), [_ROWS], x(3, 4), True)],
    "gather": [of(x(3, 4), 1, whole([[0, 0], [1, 3], [2, 2]]))],
    "take": [of(x(3, 4), whole([0, 5, 5]))],
    "take_along_dim": [of(x(3, 4), whole([[0, 0], [1, 3], [2, 2]]), 1)],
    "scatter": [
        of(x(3, 4), 1, whole([[0, 1], [1, 3], [2, 0]]), x(3, 2)),
        of(x(3, 4), 1, whole([[0, 1], [1, 3], [2, 0]]), 2.0),
        of(x(3, 4), 1, whole([[0, 1], [1, 3], [2, 0]]), x(3, 2), reduce="add"),
    ],
    "scatter_add": [of(x(3, 4), 1, whole([[0, 0], [1, 3], [2, 2]]), x(3, 2))],
    "scatter_reduce": [
        of(x(3, 4), 1, whole([[0, 0], [1, 3], [2, 2]]), x(3, 2), each)
        for each in ("sum", "mean", "amax", "amin", "prod")
    ],
    "masked_fill": [
        of(x(3), whole([True, False, True]), 2.0),
        of(x(3), whole([True, False, True]), x(1)[0]),
    ],
    "masked_scatter": [of(x(3), whole([True, False, True]), x(3))],
    "select_scatter": [of(x(3, 4), x(3), 1, 2)],
    "slice_scatter": [of(x(3, 4), x(3, 2), 1, 1, 3)],
    "diagonal_scatter": [of(x(3, 3), x(3))],
}
# Normalisation.
_all(
    "batch_norm",
    lambda: [of(x(3, 2, 2), x(2), x(2), Fixed(x(2)), Fixed(positive(2)), False, 0.1, 1e-5, False)],
)
SAMPLES |= {
    "native_batch_norm": [
        of(x(3, 2, 2), x(2), x(2), Fixed(x(2)), Fixed(positive(2)), False, 0.1, 1e-5)
    ],
    "_native_batch_norm_legit": [of(x(1, 2, 4), x(2), x(2), True, 0.1, 1e-5)],
    "_native_batch_norm_legit_no_training": [
        of(x(3, 2, 2), x(2), x(2), Fixed(x(2)), Fixed(positive(2)), 0.1, 1e-5)
    ],
    "instance_norm": [of(x(2, 2, 4), x(2), x(2), None, None, True, 0.1, 1e-5, False)],
    "layer_norm": [of(x(3, 4), [4], x(4), x(4))],
    "native_layer_norm": [of(x(3, 4), [4], x(4), x(4), 1e-5)],
    "group_norm": [of(x(2, 4, 2), 2, x(4), x(4))],
    "native_group_norm": [of(x(2, 4, 2), x(4), x(4), 2, 4, 2, 2, 1e-5)],
    "rms_norm": [of(x(3, 4), [4], x(4))],
    "_fused_rms_norm": [of(x(3, 4), [4], x(4), 1e-5)],
    "_weight_norm": [of(x(3, 4), x(3, 1)), of(x(3, 4), x(1, 4), 1), of(x(3, 4), x(1)[0], -1)],
    "_weight_norm_interface": [of(x(3, 4), x(3, 1)), of(x(3, 4), x(1, 4), 1)],
    "cosine_similarity": [of(x(3, 4), x(3, 4))],
    "pairwise_distance": [of(x(3, 4), x(3, 4))],
    "cdist": [of(x(3, 4), x(2, 4), p) for p in (0.5, 1.0, 2.0, 3.0, float("inf"))],
    "_cdist_forward": [of(x(3, 4), x(2, 4), 2.0, None)],
    "pdist": [of(x(4, 3)), of(x(4, 3), 1.0)],
    "_pdist_forward": [of(x(4, 3))],
}
# Convolution, pooling, padding, sizes of images.
SAMPLES |= {
    "conv1d": [
        of(x(2, 2, 5), x(3, 2, 2), x(3), [2], [1]),
        of(x(2, 2, 5), x(3, 2, 2), x(3), [1], "same"),
    ],
    "conv2d": [
        of(x(1, 2, 4, 4), x(2, 1, 2, 2), x(2), [1, 2], [1, 0], [1, 1], 2),
        of(x(1, 1, 4, 4), x(2, 1, 3, 3), None, [1, 1], "same"),
    ],
    "conv3d": [
        of(x(1, 1, 3, 3, 3), x(2, 1, 2, 2, 2), x(2)),
        of(x(1, 1, 3, 3, 3), x(1, 1, 3, 3, 3), None, [1, 1, 1], "same"),
    ],
    "conv_transpose1d": [of(x(2, 2, 3), x(2, 3, 2), x(3), [2])],
    "conv_transpose2d": [of(x(1, 2, 3, 3), x(2, 2, 2, 2), x(2), [2, 1])],
    "conv_transpose3d": [of(x(1, 1, 2, 2, 2), x(1, 2, 2, 2, 2), x(2))],
    "convolution": [
        of(x(2, 2, 5), x(3, 2, 2), x(3), [1], [0], [1], False, [0], 1),
        of(x(2, 2, 5), x(2, 3, 2), x(3), [1], [0], [1], True, [0], 1),
    ],
    "_convolution": [
        of(x(2, 2, 5), x(3, 2, 2), x(3), [1], [0], [1], False, [0], 1, False, False, False, False)
    ],
    "avg_pool1d": [of(x(1, 2, 6), [2])],
    "avg_pool2d": [of(x(1, 2, 4, 4), [2, 2], [1, 1], [1, 1], False, False)],
    "avg_pool3d": [of(x(1, 1, 2, 4, 4), [2, 2, 2])],
    "max_pool1d": [of(apart(1, 2, 6), [2])],
    "max_pool1d_with_indices": [of(apart(1, 2, 6), [2])],
    "max_pool2d": [of(apart(1, 2, 4, 4), [2, 2])],
    "max_pool2d_with_indices": [of(apart(1, 2, 4, 4), [2, 2], [1, 1])],
    "max_pool3d": [of(apart(1, 1, 2, 4, 4), [2, 2, 2])],
    "max_pool3d_with_indices": [of(apart(1, 1, 2, 4, 4), [2, 2, 2])],
    "max_unpool2d": [of(x(1, 1, 1, 2), whole([[[[1, 2]]]]), [1, 4])],
    "max_unpool3d": [of(x(1, 1, 1, 1, 2), whole([[[[[1, 2]]]]]), [1, 1, 4], [1, 1, 2], [0, 0, 0])],
    "adaptive_avg_pool1d": [of(x(1, 2, 5), [2])],
    "adaptive_max_pool1d": [of(apart(1, 2, 5), [2])],
    "adaptive_max_pool2d": [of(apart(1, 2, 5, 4), [2, 3])],
    "adaptive_max_pool3d": [of(apart(1, 1, 3, 3, 2), [2, 1, 2])],
    "im2col": [of(x(1, 1, 3, 3), [2, 2], [1, 1], [0, 0], [1, 1])],
    "col2im": [of(x(1, 4, 4), [3, 3], [2, 2], [1, 1], [0, 0], [1, 1])],
    "constant_pad_nd": [of(x(2, 3), [1, 2], 0.5)],
    "pad": [
        of(x(1, 2, 4), [1, 2], "reflect"),
        of(x(1, 2, 4), [1, 2], "circular"),
        of(x(1, 2, 4), [1, 2]),
    ],
    "_pad_enum": [of(x(1, 2, 4), [1, 2], 1)],
    "upsample_linear1d": [of(x(1, 2, 3), [5], False)],
    "upsample_nearest1d": [of(x(1, 2, 3), [5])],
    "_upsample_nearest_exact1d": [of(x(1, 2, 3), [5])],
    "upsample_trilinear3d": [of(x(1, 1, 2, 2, 2), [3, 3, 2], True)],
    "affine_grid_generator": [
        of(x(2, 2, 3), [2, 1, 3, 2], False),
        of(x(2, 3, 4), [2, 1, 2, 3, 2], True),
    ],
}
_all("adaptive_avg_pool2d _adaptive_avg_pool2d", lambda: [of(x(1, 2, 5, 4), [2, 3])])
_all("adaptive_avg_pool3d _adaptive_avg_pool3d", lambda: [of(x(1, 1, 3, 3, 2), [2, 1, 2])])
for _number in (1, 2, 3):
    _input = [1, 2, *[4] * _number]
    _all(
        f"reflection_pad{_number}d replication_pad{_number}d",
        lambda s=_input, n=_number: [of(x(*s), [1, 2] * n)],
    )
_all(
    "upsample_nearest2d _upsample_nearest_exact2d",
    lambda: [of(x(1, 2, 3, 2), [5, 3]), of(x(1, 2, 3, 2), None, [2.0, 1.5])],
)
_all("upsample_nearest3d _upsample_nearest_exact3d", lambda: [of(x(1, 1, 2, 2, 2), [3, 3, 2])])
_all(
    "upsample_bicubic2d upsample_bilinear2d _upsample_bicubic2d_aa _upsample_bilinear2d_aa",
    lambda: [of(x(1, 2, 3, 2), [5, 3], False), of(x(1, 2, 3, 2), [2, 4], True)],
)
_all(
    "upsample_bicubic2d upsample_bilinear2d",
    lambda: [of(x(1, 2, 3, 2), [5, 3], False), of(x(1, 2, 3, 2), None, True, [2.0, 2.0])],
)


def _grids(*axes: int) -> list[Call]:
    return [
        of(
            x(2, 2, *axes),
            between(-1.3, 1.3, 2, 3, *[2] * (len(axes) - 1), len(axes)),
            mode,
            padding,
            align,
        )
        for mode in ((0, 1, 2) if len(axes) == 2 else (0, 1))
        for padding in (0, 1, 2)
        for align in (False, True)
    ]


_all("grid_sampler grid_sampler_2d", lambda: _grids(4, 3))
_all("grid_sampler_3d", lambda: _grids(3, 2, 3))
SAMPLES["grid_sampler"] += _grids(3, 2, 3)[:2]
# Fourier transforms.
_all(
    "fft_fft fft_ifft fft_fft2 fft_ifft2 fft_fftn fft_ifftn fft_fftshift fft_ifftshift",
    lambda: [of(z(3, 4)), of(x(3, 4))],
)
_all("fft_rfft fft_rfft2 fft_rfftn fft_ihfft fft_ihfft2 fft_ihfftn", lambda: [of(x(3, 4))])
_all("fft_irfft fft_irfft2 fft_irfftn fft_hfft fft_hfft2 fft_hfftn", lambda: [of(z(3, 4))])
SAMPLES |= {
    "stft": [
        of(x(2, 8), 4, 2, 4, positive(4), False, True, True),
        of(x(2, 8), 4, 2, 4, None, True, False, True),
    ],
    "istft": [of(z(3, 4), 4, 2, 4, positive(4), False)],
}
# Losses.
_ONE = whole([0, 2, 1])
_all("nll_loss nll_loss_nd", lambda: [of(x(3, 4), _ONE), of(x(3, 4), _ONE, Fixed(positive(4)), 2)])
_all("nll_loss2d", lambda: [of(x(3, 4, 1, 2), whole([[[0, 1]], [[2, 2]], [[3, 1]]]))])
SAMPLES |= {
    "nll_loss_forward": [of(x(3, 4), _ONE, None, 1, -100)],
    "nll_loss2d_forward": [of(x(3, 4, 1, 2), whole([[[0, 1]], [[2, 2]], [[3, 1]]]), None, 1, -100)],
    "cross_entropy_loss": [
        of(x(3, 4), _ONE, None, 0),
        of(x(3, 4), x(3, 4).softmax(1), Fixed(positive(4)), 1, -100, 0.1),
    ],
    "binary_cross_entropy": [of(between(0.1, 0.9, 3), between(0.1, 0.9, 3), Fixed(positive(3)))],
    "binary_cross_entropy_with_logits": [
        of(x(3), between(0.1, 0.9, 3), Fixed(positive(3)), Fixed(positive(3)))
    ],
    "kl_div": [of(x(3), positive(3)), of(x(3), x(3), 2, log_target=True)],
    "soft_margin_loss": [of(x(3), signs())],
    "margin_ranking_loss": [of(x(3), x(3), signs())],
    "cosine_embedding_loss": [of(x(3, 3), x(3, 3), signs())],
    "triplet_margin_loss": [of(x(2, 3), x(2, 3), x(2, 3), 5.0)],
    "hinge_embedding_loss": [of(x(3), signs(), 5.0)],
    "poisson_nll_loss": [of(x(3), positive(3), True, False, 1e-8, 1)],
}


def _recurrent(gates: int) -> tuple[Any, ...]:
    layers = [x(2 * gates, 3), x(2 * gates, 2), x(2 * gates), x(2 * gates)]
    return [0.5 * each for each in layers], True, 1, 0.0, False, False, True


SAMPLES |= {
    "lstm": [of(x(2, 3, 3), [x(1, 2, 2), x(1, 2, 2)], *_recurrent(4))],
    "gru": [of(x(2, 3, 3), x(1, 2, 2), *_recurrent(3))],
    "rnn_tanh": [of(x(2, 3, 3), x(1, 2, 2), *_recurrent(1))],
    "rnn_relu": [of(x(2, 3, 3), x(1, 2, 2), *_recurrent(1))],
    "gru_cell": [of(x(3, 3), x(3, 2), *_recurrent(3)[0]), of(x(3, 3), x(3, 2), x(6, 3), x(6, 2))],
    "lstm_cell": [of(x(3, 3), [x(3, 2), x(3, 2)], *_recurrent(4)[0])],
    "rnn_tanh_cell": [of(x(3, 3), x(3, 2), *_recurrent(1)[0])],
    "rnn_relu_cell": [of(x(3, 3), x(3, 2), *_recurrent(1)[0])],
}


def _bag(*options: Any) -> Call:
    return of(x(4, 3), whole([0, 2, 2, 1, 3, 0]), whole([0, 2, 2]), *options)


SAMPLES["embedding_bag"] = [
    _bag(False, 0),
    _bag(False, 1),
    _bag(False, 2),
    _bag(False, 0, False, x(6)),
    _bag(False, 1, False, None, False, 2),
    _bag(False, 2, False, None, True, 0),
]
SAMPLES["_embedding_bag"] = SAMPLES["embedding_bag"]
