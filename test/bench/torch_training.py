"""The training step of the main job's model in PyTorch: test/bench/torch_peers.py asks. Names as in src/models/config.ts.

Parameters, norms, optimizer and all products but those of attention are float32 (TF32 on the GPU), as in TensorFlow;
attention is PyTorch's SDPA in bfloat16.
"""


def training_step(torch, config, settings):
    """Returns a function that does one step: forward, backward, clipping, Adam."""
    model = decoder(torch, config).cuda()
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["learningRate"], fused=True)
    batch, sequence = settings["batch"], settings["sequence"]
    ids = torch.randint(config["vocabSize"], (batch, sequence + 1), device="cuda")

    def step():
        logits = model(ids[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings["clipNorm"])
        optimizer.step()
        return loss

    return step


def decoder(torch, config):
    nn = torch.nn
    hidden, heads = config["hiddenSize"], config["numAttentionHeads"]
    nope, rope, value = (config[name] for name in ("qkNopeHeadDim", "qkRopeHeadDim", "vHeadDim"))
    rank = config["kvLoraRank"]

    def linear(inputs, outputs):
        return nn.Linear(inputs, outputs, bias=False)

    def norm(size):
        return nn.RMSNorm(size, eps=config["rmsNormEps"])

    def rotations(length):
        inverse = config["ropeTheta"] ** (-torch.arange(0, rope, 2, device="cuda") / rope)
        angles = torch.outer(torch.arange(length, device="cuda"), inverse)
        return torch.polar(torch.ones_like(angles), angles)

    def rotate(x, turns):
        """x [b, h, s, rope], pairs of neighbours as complex numbers."""
        pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turns).flatten(-2)

    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q_proj = linear(hidden, heads * (nope + rope))
            self.kv_a_proj = linear(hidden, rank + rope)
            self.kv_a_norm = norm(rank)
            self.kv_b_proj = linear(rank, heads * (nope + value))
            self.o_proj = linear(heads * value, hidden)

        def forward(self, x, turns):
            q = self.q_proj(x).unflatten(-1, (heads, -1)).transpose(1, 2)
            latent, k_rope = self.kv_a_proj(x).split([rank, rope], -1)
            kv = self.kv_b_proj(self.kv_a_norm(latent)).unflatten(-1, (heads, -1)).transpose(1, 2)
            k_nope, v = kv.split([nope, value], -1)
            k_rope = rotate(k_rope.unsqueeze(1), turns).expand(-1, heads, -1, -1)
            q = torch.cat([q[..., :nope], rotate(q[..., nope:], turns)], -1)
            q, k, v = (each.bfloat16() for each in (q, torch.cat([k_nope, k_rope], -1), v))
            out = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.o_proj(out.float().transpose(1, 2).flatten(2))

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.input_norm, self.attention_norm = Attention(), norm(hidden), norm(hidden)
            self.gate, self.up = (linear(hidden, config["intermediateSize"]) for _ in range(2))
            self.down = linear(config["intermediateSize"], hidden)

        def forward(self, x, turns):
            x = x + self.attention(self.input_norm(x), turns)
            y = self.attention_norm(x)
            return x + self.down(nn.functional.silu(self.gate(y)) * self.up(y))

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(config["vocabSize"], hidden)
            self.layers = nn.ModuleList(Layer() for _ in range(config["numHiddenLayers"]))
            self.norm = norm(hidden)

        def forward(self, ids):
            x, turns = self.embedding(ids), rotations(ids.shape[1])
            for layer in self.layers:
                x = layer(x, turns)
            return self.norm(x) @ self.embedding.weight.T

    torch.set_float32_matmul_precision("high")
    return Decoder()
