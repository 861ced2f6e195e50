"""PyTorch's attention at the shapes that `harness --time` times, to be run right before or after it.

    python3 test/cuda/peers.py [TEXT]      only shapes whose name holds TEXT

GPU time of single calls between events, median of 25, of warm clocks, as timing.cpp does it; bfloat16, attention causal.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))
import torch
from torch_peers import Bench, attention, decode

SHAPES = {
    "B2 H8 S512": {"b": 2, "h": 8, "s": 512, "dqk": 192, "dv": 128},
    "B1 H16 S1024": {"b": 1, "h": 16, "s": 1024, "dqk": 192, "dv": 128},
    "B1 H16 S2048": {"b": 1, "h": 16, "s": 2048, "dqk": 192, "dv": 128},
    "B1 H16 S4096": {"b": 1, "h": 16, "s": 4096, "dqk": 192, "dv": 128},
    "B1 H128 S4096": {"b": 1, "h": 128, "s": 4096, "dqk": 192, "dv": 128},
    "decode B1 H16 S2048": {"b": 1, "h": 16, "s": 2048, "r": 512, "rr": 64},
    "decode B1 H128 S4096": {"b": 1, "h": 128, "s": 4096, "r": 512, "rr": 64},
    "decode B8 H128 S4096": {"b": 8, "h": 128, "s": 4096, "r": 512, "rr": 64},
    "decode B1 H128 S32768": {"b": 1, "h": 128, "s": 32768, "r": 512, "rr": 64},
}


class GpuTimes(Bench):
    """Only what the harness measures too."""

    def figure(self, call):
        for _ in range(3):
            call()
        self.heat(0.06)
        return {"gpuMs": self.gpu_ms(call, 25)}


def main():
    bench = GpuTimes(torch)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}")
    for name, shape in SHAPES.items():
        if len(sys.argv) > 1 and sys.argv[1] not in name:
            continue
        for kernel, figures in (decode if "r" in shape else attention)(bench, shape).items():
            for figure in figures:
                ms = f"{figure['gpuMs']:.4f} ms" if "gpuMs" in figure else figure["skipped"]
                print(f"time {name} [bfloat16]  {kernel} {figure['peer']}  {ms}", flush=True)


main()
