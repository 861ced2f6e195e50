"""The ops and their gradients against PyTorch's float64 (test/golden), eagerly, in tf.function and out of a SavedModel, and
bit for bit against Node."""

import hashlib
import json
import pathlib
import subprocess
import tempfile
import unittest

import numpy as np
import tensorflow as tf
from safetensors.numpy import load_file

import tfjs_mla

# a function for each case is traced anew, and should be
tf.get_logger().setLevel("ERROR")

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "test" / "golden"


def manifest(kind):
    return json.loads((GOLDEN / kind / "manifest.json").read_text())["cases"]


def attention_call(case):
    """The names of a case's inputs, and the op on them."""
    attrs, window = case["attrs"], case["attrs"]["window"] or {"left": -1, "right": -1}
    options = {
        "layout": attrs["layout"],
        "softmax_scale": attrs["scale"],
        "causal": attrs["causal"],
        "window": (window["left"], window["right"]),
        "q_lengths": case["qLengths"],
        "kv_lengths": case["kvLengths"],
    }
    names = ["q", "k_nope", "v", "k_rope"] if case["kForm"] == "split" else ["q", "k", "v"]

    def call(q, k, v, k_rope=None):
        return tfjs_mla.mla_attention(q, k, v, k_rope=k_rope, return_lse=True, **options)

    return names, call


def decode_call(case):
    attrs = case["attrs"]

    def call(*inputs):
        return tfjs_mla.mla_decode(
            *inputs, softmax_scale=attrs["scale"], causal=attrs["causal"], kv_lengths=case["lengths"], return_lse=True
        )

    return ["q_latent", "q_rope", "c_kv", "k_rope"], call


CASES = [("attention", case, attention_call(case)) for case in manifest("attention")] + [
    ("decode", case, decode_call(case)) for case in manifest("decode")
]


def results(case, call, inputs, data):
    """out, lse and the gradients of sum(out * dout) + sum(lse * dlse), the latter over rows that see something.

    Scores near 4e6 leave no gradient that float32 could hold: such a case has none.
    """
    if case.get("forwardOnly"):
        return list(call(*inputs))
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        out, lse = call(*inputs)
        loss = tf.reduce_sum(out * data["dout"])
        if "dlse" in data:
            loss += tf.reduce_sum(tf.where(tf.math.is_finite(lse), lse, 0.0) * data["dlse"])
    return [out, lse, *tape.gradient(loss, inputs)]


def hash_of(tensor):
    return hashlib.sha256(tensor.numpy().tobytes()).hexdigest()


class Golden(unittest.TestCase):
    def compare(self, case, name, got):
        expected = self.data[f"expected.{name}"].astype(np.float64)
        got = got.numpy().astype(np.float64)
        finite = np.isfinite(expected)
        np.testing.assert_array_equal(np.isfinite(got), finite, f"{case['name']}: {name} is not finite where it should be")
        a, b = got[finite], expected[finite]
        metric, relative = case["tolerance"]["f32"][name]
        self.assertLessEqual(np.abs(a - b).max(initial=0) / (1 + np.abs(b).max(initial=0)), metric, f"{case['name']}: {name}")
        if relative is not None:
            self.assertLessEqual(np.linalg.norm(a - b) / np.linalg.norm(b), relative, f"{case['name']}: {name}")

    def test_all_cases(self):
        self.assertGreater(len(CASES), 10)
        for kind, case, (names, call) in CASES:
            self.data = load_file(GOLDEN / kind / case["file"])
            inputs = [tf.constant(self.data[name]) for name in names]
            eager = results(case, call, inputs, self.data)
            for name, got in zip(["out", "lse", *[f"d{name}" for name in names]], eager):
                self.compare(case, name, got)
            graph = tf.function(lambda *x: results(case, call, list(x), self.data))(*inputs)
            for first, second in zip(eager, graph):
                np.testing.assert_array_equal(first, second, f"{case['name']}: tf.function has other bits")

    def test_saved_model_and_the_bits_of_node(self):
        class Attention(tf.Module):
            @tf.function(input_signature=[tf.TensorSpec([None, None, 2, 2], tf.float32, name="x")])
            def __call__(self, x):
                return {"out": tfjs_mla.mla_attention(x, x, x, causal=True, softmax_scale=0.01)}

        x = tf.reshape(tf.range(56, dtype=tf.float32), [2, 7, 2, 2])
        expected = tfjs_mla.mla_attention(x, x, x, causal=True, softmax_scale=0.01)
        with tempfile.TemporaryDirectory() as folder:
            module = Attention()
            tf.saved_model.save(module, folder, signatures=module.__call__)
            np.testing.assert_array_equal(tf.saved_model.load(folder)(x)["out"], expected)
            flags = ["--no-experimental-require-module", "--import", "tsx"]
            node = subprocess.run(
                ["node", *flags, "test/support/besidePython.ts", folder], cwd=ROOT, capture_output=True, text=True
            )
        if node.returncode == 3:
            self.skipTest(f"Node has no TensorFlow: {node.stderr.strip()}")
        self.assertEqual(node.returncode, 0, node.stderr)
        answers = json.loads(node.stdout.splitlines()[-1])
        self.assertEqual(answers["savedModel"], hash_of(expected), "the SavedModel in Node has other bits")
        attention = [entry for entry in CASES if entry[0] == "attention" and not entry[1].get("forwardOnly")]
        self.assertEqual(len(answers["cases"]), len(attention))
        for kind, case, (names, call) in attention:
            data = load_file(GOLDEN / kind / case["file"])
            data.pop("dlse", None)
            got = results(case, call, [tf.constant(data[name]) for name in names], data)
            self.assertEqual([hash_of(x) for x in got], answers["cases"][case["name"]], f"{case['name']}: Node has other bits")

    def test_narrow_types(self):
        x = tf.random.stateless_normal([1, 5, 2, 8], seed=[3, 4])
        expected = tfjs_mla.mla_attention(x, x, x)
        for dtype, bound in ((tf.half, 4e-3), (tf.bfloat16, 3e-2)):
            y = tf.cast(x, dtype)
            out = tfjs_mla.mla_attention(y, y, y)
            self.assertEqual(out.dtype, dtype)
            np.testing.assert_allclose(tf.cast(out, tf.float32), expected, atol=bound, rtol=bound)

    def test_errors(self):
        x = tf.ones([1, 5, 2, 8])
        with self.assertRaisesRegex(ValueError, "causal must be"):
            tfjs_mla.mla_attention(x, x, x, causal="left")
        with self.assertRaisesRegex(ValueError, "precision must be"):
            tfjs_mla.mla_attention(x, x, x, precision="float64")
        with self.assertRaisesRegex(tf.errors.InvalidArgumentError, "MLAAttention: k"):
            tfjs_mla.mla_attention(x, x[..., :7], x)


if __name__ == "__main__":
    unittest.main()
