"""PyTorch's attention on the shape of one of our lines; test/bench/peers.ts asks.

    python3 test/bench/torch_peers.py '{"op": "attention", "b": 1, "h": 16, "s": 1024, "dqk": 192, "dv": 128}'

or likewise for "decode" and "training"; it prints one line of JSON: {"versions": …, "results": {kernel:
[{"peer", "wallMs", "spreadMs", "gpuMs", "isSlow"}]}}.
All in bfloat16, attention causal, inputs resident. tfjs-mla's own bench measures in the same way: see figure.ts, clock.ts.
"""

import json
import math
import sys
import time

from torch_training import training_step

STREAMS = 5
# as figure.ts has it
MOST_SLOW_CALLS, LONGEST_STREAM_SECONDS = 20, 1.0
MOST_CALLS, SHORTEST_STREAM_SECONDS = 100, 0.02
REPEATS = 20
TOLERANCE = 1.1
MOST_ATTEMPTS = 6


def main():
    request = json.loads(sys.argv[1])
    try:
        import torch
    except ImportError as error:
        return {"absent": f"python3 has no torch ({error})"}
    if not torch.cuda.is_available():
        return {"absent": f"torch {torch.__version__} sees no CUDA device"}
    bench = Bench(torch)
    results = {"attention": attention, "decode": decode, "training": training}[request["op"]](bench, request)
    versions = {
        "torch": torch.__version__,
        "CUDA": str(torch.version.cuda),
        "cuDNN": str(torch.backends.cudnn.version()),
        "torch device": torch.cuda.get_device_name(),
    }
    return {"versions": versions, "results": results}


def attention(bench, request):
    torch = bench.torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    b, h, s, dqk, dv = (request[name] for name in ("b", "h", "s", "dqk", "dv"))
    q, k, v, d_out = (bench.normals(b, h, s, d) for d in (dqk, dqk, dv, dv))
    leaves = [x.detach().clone().requires_grad_() for x in (q, k, v)]
    sdpa = torch.nn.functional.scaled_dot_product_attention

    def forward():
        return sdpa(q, k, v, is_causal=True)

    def forward_and_backward():
        return torch.autograd.grad(sdpa(*leaves, is_causal=True), leaves, d_out)

    results = {"forward": [], "forward+backward": []}
    for name, backend in (("cuDNN", SDPBackend.CUDNN_ATTENTION), ("efficient", SDPBackend.EFFICIENT_ATTENTION)):
        peer = f"{name} SDPA bf16"
        with sdpa_kernel(backend):
            results["forward"].append(bench.measure(peer, forward))
            results["forward+backward"].append(bench.measure(peer, forward_and_backward))
    return results


def decode(bench, request):
    """PyTorch has no absorbed decode: plain ops over the latents, one query a head."""
    torch = bench.torch
    b, h, s, r, rr = (request[name] for name in ("b", "h", "s", "r", "rr"))
    q_latent, q_rope = bench.normals(b, h, r), bench.normals(b, h, rr)
    c_kv, k_rope = bench.normals(b, s, r), bench.normals(b, s, rr)
    scale = 1 / math.sqrt(192)

    def composed():
        scores = (q_latent @ c_kv.mT + q_rope @ k_rope.mT) * scale
        return torch.softmax(scores, -1, dtype=torch.float32).to(c_kv.dtype) @ c_kv

    return {"decode": [bench.measure("torch composed bf16", composed)]}


def training(bench, request):
    torch = bench.torch
    step = training_step(torch, request["config"], request["settings"])
    step()
    torch.cuda.reset_peak_memory_stats()
    figure = bench.measure("torch SDPA bf16", step)
    if "skipped" not in figure:
        figure["peakBytes"] = torch.cuda.max_memory_reserved()
        figure["tensorBytes"] = torch.cuda.max_memory_allocated()
    return {"training step": [figure]}


class Bench:
    def __init__(self, torch):
        self.torch = torch
        # float32, so that no power limit lowers the clock that it is to probe
        self.matrix = torch.full((1024, 1024), 1 / 1024, device="cuda")
        self.best_probe = math.inf

    def normals(self, *shape):
        return self.torch.randn(*shape, device="cuda", dtype=self.torch.bfloat16)

    def measure(self, peer, call):
        try:
            return {"peer": peer, **self.figure(call)}
        except RuntimeError as error:  # no such kernel, or out of memory
            return {"peer": peer, "skipped": str(error).splitlines()[0]}

    def figure(self, call):
        self.stream(call, 1)
        once = self.stream(call, 1)
        slow_calls = min(MOST_SLOW_CALLS, LONGEST_STREAM_SECONDS / once)
        short_calls = min(MOST_CALLS, SHORTEST_STREAM_SECONDS / once)
        calls = max(1, round(max(slow_calls, short_calls)))
        self.stream(call, calls)
        attempts = []
        while len(attempts) < MOST_ATTEMPTS:
            self.heat(0.1)
            before = self.probe()
            walls = [1000 * self.stream(call, calls) for _ in range(STREAMS)]
            gpu_ms = self.gpu_ms(call, REPEATS)
            after = self.probe()
            self.best_probe = min(self.best_probe, before, after)
            value = {"wallMs": median(walls), "spreadMs": [min(walls), max(walls)], "gpuMs": gpu_ms}
            if max(before, after) <= TOLERANCE * self.best_probe:
                return {**value, "isSlow": False}
            attempts.append((max(before, after), value))
        return {**min(attempts, key=lambda attempt: attempt[0])[1], "isSlow": True}

    def stream(self, call, calls):
        """Seconds a call, in a stream of calls with one wait at its end."""
        self.torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        self.torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls

    def gpu_ms(self, call, repeats):
        """Milliseconds of GPU time, behind queued work, so that no call waits for the CPU to launch it."""
        events = [[self.torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
        for _ in range(400):
            self.matrix @ self.matrix
        for start, end in events:
            start.record()
            call()
            end.record()
        self.torch.cuda.synchronize()
        return median([start.elapsed_time(end) for start, end in events])

    def heat(self, seconds):
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            for _ in range(100):
                self.matrix @ self.matrix
            self.torch.cuda.synchronize()

    def probe(self):
        return min(self.gpu_ms(lambda: self.matrix @ self.matrix, 5) for _ in range(3))


def median(values):
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    print(json.dumps(main()))
