"""A small dense DeepSeek-V3-style decoder over bytes, and Adam: the model of `npm start` in plain tf.Variables.

Source: DeepSeek-V2, arXiv:2405.04434, section 2.1; names as in Hugging Face's DeepseekV3ForCausalLM.
"""

import dataclasses

import numpy as np
import tensorflow as tf

import tfjs_mla


@dataclasses.dataclass(frozen=True)
class Config:
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    qk_nope_head_dim: int = 16
    qk_rope_head_dim: int = 8
    v_head_dim: int = 16
    kv_lora_rank: int = 32
    vocab_size: int = 256
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.05


class Decoder(tf.Module):
    """Token embedding, layers of MLA and SwiGLU behind RMSNorms, a head tied to the embedding."""

    def __init__(self, config, seed):
        super().__init__(name="decoder")
        self.config = config
        weights = Weights(config.initializer_range, seed)
        self.embed_tokens = weights.normal("embed_tokens", config.vocab_size, config.hidden_size)
        self.layers = [DecoderLayer(config, weights) for _ in range(config.num_hidden_layers)]
        self.norm = weights.ones("norm", config.hidden_size)

    def logits(self, ids):
        """ids [b, s] -> [b, s, vocabulary], every position seeing those up to itself."""
        # as a product, the embedding has a dense gradient that is summed in a fixed order
        x = linear(tf.one_hot(ids, self.config.vocab_size), self.embed_tokens)
        rope = rope_tables(self.config, ids.shape[1])
        for layer in self.layers:
            x = layer(x, rope)
        return linear(rms_norm(x, self.norm, self.config.rms_norm_eps), tf.transpose(self.embed_tokens))


class DecoderLayer(tf.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config, weights):
        super().__init__(name="layer")
        self.config = config
        d, h, r, dr = config.hidden_size, config.num_attention_heads, config.kv_lora_rank, config.qk_rope_head_dim
        self.input_layernorm = weights.ones("input_layernorm", d)
        self.q_proj = weights.normal("q_proj", d, h * (config.qk_nope_head_dim + dr))
        self.kv_a_proj_with_mqa = weights.normal("kv_a_proj_with_mqa", d, r + dr)
        self.kv_a_layernorm = weights.ones("kv_a_layernorm", r)
        self.kv_b_proj = weights.normal("kv_b_proj", r, h * (config.qk_nope_head_dim + config.v_head_dim))
        self.o_proj = weights.normal("o_proj", h * config.v_head_dim, d)
        self.post_attention_layernorm = weights.ones("post_attention_layernorm", d)
        self.gate_proj = weights.normal("gate_proj", d, config.intermediate_size)
        self.up_proj = weights.normal("up_proj", d, config.intermediate_size)
        self.down_proj = weights.normal("down_proj", config.intermediate_size, d)

    def __call__(self, x, rope):
        eps = self.config.rms_norm_eps
        x += self.attention(rms_norm(x, self.input_layernorm, eps), rope)
        return x + self.mlp(rms_norm(x, self.post_attention_layernorm, eps))

    def attention(self, x, rope):
        """Eq. 9-19: keys and values come from one small latent per token, and all heads share the rotary key."""
        config, [b, s, _] = self.config, x.shape
        h, dn, dr, dv = (
            config.num_attention_heads,
            config.qk_nope_head_dim,
            config.qk_rope_head_dim,
            config.v_head_dim,
        )
        q_nope, q_rope = tf.split(tf.reshape(linear(x, self.q_proj), [b, s, h, dn + dr]), [dn, dr], axis=-1)
        c_kv, k_rope = tf.split(linear(x, self.kv_a_proj_with_mqa), [config.kv_lora_rank, dr], axis=-1)
        kv = linear(rms_norm(c_kv, self.kv_a_layernorm, config.rms_norm_eps), self.kv_b_proj)
        k, v = tf.split(tf.reshape(kv, [b, s, h, dn + dv]), [dn, dv], axis=-1)
        out = tfjs_mla.mla_attention(
            tf.concat([q_nope, rotate(q_rope, rope)], axis=-1),
            k,
            v,
            k_rope=tf.squeeze(rotate(k_rope[:, :, tf.newaxis], rope), axis=2),
            causal=True,
        )
        return linear(tf.reshape(out, [b, s, h * dv]), self.o_proj)

    def mlp(self, x):
        """SwiGLU: Shazeer, arXiv:2002.05202, eq. 6."""
        return linear(tf.nn.silu(linear(x, self.gate_proj)) * linear(x, self.up_proj), self.down_proj)


class Weights:
    """Makes variables; the n-th one depends on the seed and on n alone."""

    def __init__(self, initializer_range, seed):
        self.initializer_range, self.seed, self.count = initializer_range, seed, 0

    def normal(self, name, *shape):
        self.count += 1
        values = tf.random.stateless_normal(shape, seed=[self.seed, self.count], stddev=self.initializer_range)
        return tf.Variable(values, name=name)

    def ones(self, name, size):
        return tf.Variable(tf.ones([size]), name=name)


def linear(x, weight):
    return tf.tensordot(x, weight, axes=1)


def rms_norm(x, gain, eps):
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), axis=-1, keepdims=True) + eps) * gain


def rope_tables(config, length):
    """cos and sin [s, 1, dr / 2] of positions from 0: Su et al., arXiv:2104.09864, eq. 34."""
    pairs = np.arange(config.qk_rope_head_dim // 2)
    frequencies = config.rope_theta ** (-2 * pairs / config.qk_rope_head_dim)
    angles = np.arange(length)[:, np.newaxis, np.newaxis] * frequencies
    return tf.constant(np.cos(angles), tf.float32), tf.constant(np.sin(angles), tf.float32)


def rotate(x, rope):
    """x [b, s, h, dr]: columns (0, 1), (2, 3), ... turned by their positions."""
    cos, sin = rope
    even, odd = x[..., 0::2], x[..., 1::2]
    turned = tf.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return tf.reshape(turned, x.shape)


class Adam(tf.Module):
    """Kingma and Ba, arXiv:1412.6980, algorithm 1. Its whole state are the moments, and the number of updates, which is the
    caller's."""

    def __init__(self, variables, beta1=0.9, beta2=0.95, eps=1e-8):
        super().__init__(name="adam")
        self.beta1, self.beta2, self.eps = beta1, beta2, eps
        self.first_moments = [tf.Variable(tf.zeros(v.shape), trainable=False, name="first_moment") for v in variables]
        self.second_moments = [tf.Variable(tf.zeros(v.shape), trainable=False, name="second_moment") for v in variables]

    def update(self, variables, gradients, learning_rate, updates):
        """`updates`: how many there are with this one."""
        updates = tf.cast(updates, tf.float32)
        rate = learning_rate / (1 - self.beta1**updates)
        correction2 = 1 - self.beta2**updates
        for variable, gradient, first, second in zip(variables, gradients, self.first_moments, self.second_moments):
            first.assign(self.beta1 * first + (1 - self.beta1) * gradient)
            second.assign(self.beta2 * second + (1 - self.beta2) * tf.square(gradient))
            variable.assign_sub(rate * first / (tf.sqrt(second / correction2) + self.eps))
