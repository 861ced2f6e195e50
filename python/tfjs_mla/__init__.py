"""MLAAttention and MLADecode in Python TensorFlow: the very library that tfjs-node loads, with gradients registered.

Works eagerly, in tf.function and in a SavedModel, for float32, half and bfloat16 (computed in float32 on the CPU).
"""

import os
import pathlib
import platform

import tensorflow as tf

__all__ = ["mla_attention", "mla_decode"]


def _library_path():
    """TFJS_MLA_LIBRARY, or what `npm run build:native` has made."""
    given = os.environ.get("TFJS_MLA_LIBRARY")
    if given:
        return given
    machine = {"x86_64": "x64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
    path = pathlib.Path(__file__).parents[2] / "native" / f"mla-{platform.system().lower()}-{machine}.node"
    if not path.exists():
        raise ImportError(
            f"tfjs_mla: no library {path.name}: run 'npm run build:native', or set TFJS_MLA_LIBRARY to the file"
        )
    return str(path)


_ops = tf.load_op_library(_library_path())

_ATTRIBUTES = ("layout", "softmax_scale", "causal", "window_left", "window_right", "precision")
_PRECISIONS = ("float32", "tf32", "float16", "bfloat16")


def mla_attention(
    q,
    k,
    v,
    *,
    k_rope=None,
    q_lengths=None,
    kv_lengths=None,
    layout="bshd",
    softmax_scale=None,
    causal=False,
    window=(-1, -1),
    precision="float32",
    return_lse=False,
):
    """softmax(softmax_scale * q [k | k_rope]^T + mask) v, in O(s) memory, with exact gradients for q, k, v and k_rope.

    With layout 'bshd': q [b, sq, hq, dqk], k [b, skv, hkv, dqk] (or [b, skv, hkv, dqk - dr] beside k_rope [b, skv, dr]),
    v [b, skv, hkv, dv] -> out [b, sq, hq, dv]; 'bhsd' and 'sbhd' likewise. q_lengths, kv_lengths: int32 [b], how many rows and
    keys exist. causal: False, True or 'bottom-right' (aligned by the lengths), or 'top-left'. window: keys seen to the left
    and right of the diagonal, -1 for all. softmax_scale: 1 / sqrt(dqk) unless given. With return_lse -> (out, lse [b, hq, sq]),
    the natural logarithm of the sum of exp(scores); a row that sees no key is 0 with lse -inf. precision: what float32
    tensors are multiplied as on a GPU, 'float32', 'tf32', 'float16' or 'bfloat16'; sums are float32 always.

    Raises ValueError on options that do not exist, tf.errors.InvalidArgumentError on shapes that do not fit.

    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1, eq. 9-19.
    """
    q = tf.convert_to_tensor(q)
    if softmax_scale is None:
        if q.shape.rank is None or q.shape[-1] is None:
            raise ValueError("mla_attention: softmax_scale is needed where q's last dimension is not known")
        softmax_scale = q.shape[-1] ** -0.5
    out, lse = _ops.mla_attention(
        q=q,
        k=k,
        v=v,
        k_rope=tf.zeros([0], q.dtype) if k_rope is None else k_rope,
        q_lengths=_lengths(q_lengths),
        kv_lengths=_lengths(kv_lengths),
        **_attributes("mla_attention", layout, softmax_scale, causal, window, precision),
    )
    return (out, lse) if return_lse else out


def mla_decode(
    q_latent,
    q_rope,
    c_kv,
    k_rope,
    *,
    softmax_scale,
    kv_lengths=None,
    layout="bshd",
    causal=True,
    window=(-1, -1),
    precision="float32",
    return_lse=False,
):
    """softmax(softmax_scale * (q_latent c_kv^T + q_rope k_rope^T) + mask) c_kv: absorbed attention over the latent cache.

    q_latent [b, sq, h, r], q_rope [b, sq, h, rr], c_kv [b, s, r], k_rope [b, s, rr] -> out [b, sq, h, r], with gradients for all
    four. The rest is as in mla_attention.

    Source: DeepSeek-V2, arXiv:2405.04434, section 2.1.2 and appendix C.
    """
    out, lse = _ops.mla_decode(
        q_latent=q_latent,
        q_rope=q_rope,
        c_kv=c_kv,
        k_rope=k_rope,
        kv_lengths=_lengths(kv_lengths),
        **_attributes("mla_decode", layout, softmax_scale, causal, window, precision),
    )
    return (out, lse) if return_lse else out


def _lengths(lengths):
    """No numbers: all exist."""
    return tf.zeros([0], tf.int32) if lengths is None else tf.cast(lengths, tf.int32)


def _attributes(name, layout, softmax_scale, causal, window, precision):
    """Those of both ops."""
    known = {False: "none", True: "bottom-right", "bottom-right": "bottom-right", "top-left": "top-left"}
    if causal not in known:
        raise ValueError(f"{name}: causal must be False, True, 'bottom-right' or 'top-left', got {causal!r}")
    if precision not in _PRECISIONS:
        raise ValueError(f"{name}: precision must be one of {', '.join(_PRECISIONS)}, got {precision!r}")
    return {
        "layout": layout,
        "softmax_scale": softmax_scale,
        "causal": known[causal],
        "window_left": window[0],
        "window_right": window[1],
        "precision": precision,
    }


def _attributes_of(op):
    return {name: _text(op.get_attr(name)) for name in _ATTRIBUTES}


def _text(value):
    return value.decode() if isinstance(value, bytes) else value


@tf.RegisterGradient("MLAAttention")
def _attention_gradient(op, d_out, d_lse):
    names = ("q", "k", "v", "k_rope", "q_lengths", "kv_lengths")
    out, lse = op.outputs
    inputs = {**dict(zip(names, op.inputs)), "d_out": d_out, "lse": lse, "out": out, "d_lse": d_lse}
    return [*_ops.mla_attention_backward(**inputs, **_attributes_of(op)), None, None]


@tf.RegisterGradient("MLADecode")
def _decode_gradient(op, d_out, d_lse):
    names = ("q_latent", "q_rope", "c_kv", "k_rope", "kv_lengths")
    out, lse = op.outputs
    delta = _ops.mla_delta(out=out, d_out=d_out, d_lse=d_lse, layout=op.get_attr("layout"))
    inputs = {**dict(zip(names, op.inputs)), "d_out": d_out, "lse": lse, "delta": delta, **_attributes_of(op)}
    return [*_ops.mla_decode_dq(**inputs), *_ops.mla_decode_dkv(**inputs), None]
