"""The operators which a program may use: differentiable or indexing maths, without effects.

An operator is allowed by its name, and each overload of it only if its schema writes to none of
its arguments. What is not named here is refused: files, printing, uninitialised memory, random
numbers, raw strides, data-dependent shapes, custom operators.
"""

import math
import operator
import re
from collections.abc import Callable
from typing import Any

import torch
from torch._ops import OpOverload

from workers.programs.errors import OperatorRefused, RandomOperator, TrainMode
from workers.programs.names import names

_TARGET = re.compile(r"torch\.ops\.aten\.([A-Za-z0-9_]{1,100})\.([A-Za-z0-9_]{1,100})")

ALLOWED = names(
    """
    abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d
    _adaptive_avg_pool3d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d
    adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr adjoint affine_grid_generator
    alias all alpha_dropout amax amin aminmax __and__ angle any arange arctan arctan2 argmax argmin
    argsort asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d
    avg_pool3d baddbmm bartlett_window batch_norm bilinear binary_cross_entropy
    binary_cross_entropy_with_logits bitwise_and bitwise_not bitwise_or bitwise_xor blackman_window
    block_diag bmm broadcast_tensors broadcast_to bucketize cartesian_prod cat cdist _cdist_forward
    ceil celu chain_matmul channel_shuffle cholesky_inverse cholesky_solve chunk clamp clamp_max
    clamp_min clip clone col2im column_stack combinations complex concat concatenate conj _conj
    constant_pad_nd contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d _convolution convolution copy copysign corrcoef cos cosh cosine_embedding_loss
    cosine_similarity cov cross cross_entropy_loss cummax cummin cumprod cumsum
    cumulative_trapezoid deg2rad det detach diag diag_embed diagonal diagonal_scatter diff digamma
    dist div divide dot dropout dsplit dstack einsum elu embedding _embedding_bag embedding_bag eq
    erf erfc erfinv exp exp2 expand expand_as expand_copy expm1 eye feature_alpha_dropout
    feature_dropout fft_fft fft_fft2 fft_fftn fft_fftshift fft_hfft fft_hfft2 fft_hfftn fft_ifft
    fft_ifft2 fft_ifftn fft_ifftshift fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2
    fft_irfftn fft_rfft fft_rfft2 fft_rfftn fill flatten flip fliplr flipud float_power floor
    floor_divide fmax fmin fmod frac full full_like _fused_rms_norm gather ge gelu ger glu greater
    greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru gru_cell gt
    hamming_window hann_window hardshrink hardsigmoid hardswish hardtanh heaviside
    hinge_embedding_loss hsplit hstack huber_loss hypot i0 im2col imag index index_add index_copy
    index_fill index_put index_select inner instance_norm inverse isclose isfinite isinf isnan
    isneginf isposinf istft kaiser_window kl_div kron kthvalue l1_loss layer_norm le leaky_relu
    lerp less less_equal lgamma lift_fresh lift_fresh_copy linalg_cholesky linalg_cholesky_ex
    linalg_cross linalg_det linalg_eigh linalg_eigvalsh linalg_householder_product linalg_inv
    linalg_inv_ex linalg_matmul linalg_matrix_exp linalg_matrix_norm linalg_matrix_power
    linalg_multi_dot linalg_norm linalg_pinv linalg_qr linalg_slogdet linalg_solve _linalg_solve_ex
    linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals linalg_vander linalg_vecdot
    linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid log_sigmoid_forward
    log_softmax _log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not
    logical_or logical_xor logit logspace logsumexp lstm lstm_cell lt mH mT margin_ranking_loss
    masked_fill masked_scatter matmul matrix_H matrix_exp matrix_power max max_pool1d
    max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices
    max_unpool2d max_unpool3d maximum mean median meshgrid min minimum mish mm moveaxis movedim
    mse_loss msort mul multiply mv mvlgamma nan_to_num nanmean nanmedian nanquantile nansum narrow
    narrow_copy native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    native_dropout native_group_norm native_layer_norm ne neg negative new_full new_ones new_zeros
    nll_loss nll_loss2d nll_loss2d_forward nll_loss_forward nll_loss_nd norm not_equal numpy_T
    one_hot ones ones_like __or__ outer pad _pad_enum pairwise_distance pdist _pdist_forward
    permute permute_copy pinverse pixel_shuffle pixel_unshuffle poisson_nll_loss polar polygamma
    positive pow prelu _prelu_kernel prod quantile rad2deg ravel real reciprocal reflection_pad1d
    reflection_pad2d reflection_pad3d relu relu6 remainder renorm repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj
    resolve_neg rms_norm rnn_relu rnn_relu_cell rnn_tanh rnn_tanh_cell roll rot90 round rrelu rsqrt
    rsub _safe_softmax scalar_tensor scaled_dot_product_attention scatter scatter_add
    scatter_reduce searchsorted select select_copy select_scatter selu sgn sigmoid sign signbit
    silu sin sinc sinh slice slice_copy slice_scatter slogdet smooth_l1_loss soft_margin_loss
    _softmax softmax softplus softshrink sort special_digamma special_entr special_erf special_erfc
    special_erfcx special_exp2 special_expit special_expm1 special_gammaln special_i0e special_i1
    special_i1e special_log1p special_log_ndtr special_log_softmax special_logit special_logsumexp
    special_multigammaln special_ndtr special_ndtri special_polygamma special_psi special_round
    special_sinc special_softmax special_xlog1py special_xlogy split split_copy split_with_sizes
    split_with_sizes_copy sqrt square squeeze squeeze_copy stack std std_mean stft sub subtract sum
    sum_to_size swapaxes swapdims t t_copy take take_along_dim tan tanh tensor_split tensordot
    threshold tile to _to_copy topk trace transpose transpose_copy trapezoid trapz tril
    triplet_margin_loss triu true_divide trunc type_as unbind unbind_copy unflatten unfold
    unfold_copy unsafe_chunk unsafe_split unsafe_split_with_sizes _unsafe_view unsqueeze
    unsqueeze_copy upsample_bicubic2d _upsample_bicubic2d_aa upsample_bilinear2d
    _upsample_bilinear2d_aa upsample_linear1d upsample_nearest1d upsample_nearest2d
    upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d upsample_trilinear3d var var_mean vdot view view_as view_as_complex
    view_as_real view_copy vsplit vstack _weight_norm _weight_norm_interface where xlogy __xor__
    zero zeros zeros_like
    """
)

# What these return beside their result is for their own backward, and taken for a constant.
FIRST_ALONE = names(
    """
    _embedding_bag embedding_bag _fused_rms_norm _linalg_solve_ex log_sigmoid_forward
    native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training
    native_group_norm native_layer_norm _weight_norm_interface
    """
)

# Asserts of the tracer about shapes: the reader checks shapes itself, and transforms have no rule
# for them.
ASSERTIONS = frozenset(
    {
        "torch.ops.aten._assert_async.msg",
        "torch.ops.aten._assert_scalar.default",
        "torch.ops.aten._assert_tensor_metadata.default",
    }
)

_RANDOM = names(
    """
    bernoulli cauchy exponential fractional_max_pool2d fractional_max_pool3d geometric
    log_normal multinomial normal normal_functional poisson rand rand_like randint randint_like
    randn randn_like random randperm rrelu_with_noise rrelu_with_noise_functional uniform
    binomial _fused_dropout _sample_dirichlet _standard_gamma
    """
)
# What to do about them; `rewritten` has those that can be written in others exactly.
_NO_SECOND_DERIVATIVE = {
    **dict.fromkeys(
        ("ctc_loss", "_ctc_loss"),
        "write the sum over alignments with torch.logsumexp over time steps, or take the loss "
        "'cross_entropy' on aligned labels",
    ),
    **dict.fromkeys(
        ("multi_margin_loss", "multilabel_margin_loss"),
        "write it with torch.gather, torch.relu and a mean",
    ),
    **dict.fromkeys(
        ("segment_reduce", "_segment_reduce"), "use torch.scatter_reduce over segment numbers"
    ),
    "linalg_lstsq": "use torch.linalg.pinv(a) @ b, or torch.linalg.solve of the normal equations",
}
_TRAINING_ONLY = frozenset(
    {"_native_batch_norm_legit_functional", "_batch_norm_with_update_functional"}
)

# `pow` and shifts are absent: a few of them make an integer that fills the memory.
SYMBOLIC: dict[str, Callable[..., Any]] = {
    **{
        f"_operator.{name}": getattr(operator, name)
        for name in names("add sub mul floordiv truediv mod neg pos eq ne lt le gt ge and_ or_")
    },
    "math.trunc": math.trunc,
    "torch.sym_float": torch.sym_float,
    "torch.sym_int": torch.sym_int,
    "torch.sym_ite": torch.sym_ite,
    "torch.sym_max": torch.sym_max,
    "torch.sym_min": torch.sym_min,
    "torch.sym_not": torch.sym_not,
    "torch.sym_sqrt": torch.sym_sqrt,
}
SIZES = {
    "torch.ops.aten.sym_size.int": torch.ops.aten.sym_size.int,
    "torch.ops.aten.sym_numel.default": torch.ops.aten.sym_numel.default,
}


def resolve(target: str) -> OpOverload:
    """The overload which `target` names, if it is allowed and writes to no argument."""
    if target in SIZES:
        size: OpOverload = SIZES[target]
        return size
    name, overload = _parts(target)
    if name not in ALLOWED:
        raise _refusal(name, target)
    found = _overload(name, overload, target)
    if found._schema.is_mutable:
        raise OperatorRefused(f"{target} writes to its arguments. {FUNCTIONALISE}")
    return found


def resolve_in_place(target: str) -> OpOverload | None:
    """For `aten.relu_` and the like, the overload that computes the same without writing."""
    match = _TARGET.fullmatch(target)
    if match is None or match[1].endswith("__") or not match[1].endswith("_"):
        return None
    name, overload = match[1][:-1], match[2]
    return resolve(f"torch.ops.aten.{name}.{overload}")


_TENSORS = frozenset({"Tensor", "List[Tensor]"})

FUNCTIONALISE = (
    "Export it as torch.export.export(...).run_decompositions(), which computes without writing"
)


def _parts(target: str) -> tuple[str, str]:
    match = _TARGET.fullmatch(target)
    if match is None:
        raise OperatorRefused(
            f"{target[:100]!r} is refused: programs may use torch.ops.aten operators and "
            "arithmetic on sizes, no custom operators, control flow or compiled code"
        )
    return match[1], match[2]


def _refusal(name: str, target: str) -> OperatorRefused:
    if name.rstrip("_") in _RANDOM:
        return RandomOperator(
            f"{target} draws random numbers, so the model has no one gradient: "
            "call model.eval() before exporting, and take sampling out of forward"
        )
    if name in _TRAINING_ONLY:
        return TrainMode(f"{target} updates statistics: call model.eval() before exporting")
    if name in _NO_SECOND_DERIVATIVE:
        return OperatorRefused(
            f"{target} has no second derivative in torch, which influence needs: "
            f"{_NO_SECOND_DERIVATIVE[name]}"
        )
    return OperatorRefused(
        f"{target} is not on the list of operators that programs may use: write this part of the "
        "model in other torch operations, or, if it has no parameters and comes first, compute it "
        "beforehand and register its results as a column"
    )


def _overload(name: str, overload: str, target: str) -> OpOverload:
    packet = getattr(torch.ops.aten, name, None)
    if packet is None or overload not in packet.overloads():
        raise OperatorRefused(f"{target} does not exist in this worker's torch {torch.__version__}")
    found: OpOverload = getattr(packet, overload)
    # TorchScript has overloads of the same names on numbers, lists and strings.
    tensors = all(str(result.type) in _TENSORS for result in found._schema.returns)
    if not tensors or not torch._C._dispatch_has_kernel(found.name()):
        raise OperatorRefused(f"{target} is not an operator on tensors")
    return found
