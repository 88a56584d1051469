"""Logits of an exported file, one token at a time, by the equations of the specification (models.md) alone.

    reference_model.py check FOLDER [NAME...]   compare with FOLDER/NAME.json within 1e-4; all files without NAME
    reference_model.py write FOLDER [NAME...]   write the logits into FOLDER/NAME.json

FOLDER/NAME.safetensors is what `statelab export` writes; FOLDER/NAME.json holds {"tokens": (sequences, length), "logits":
(sequences, length, vocabulary)}. Computes with PyTorch in fp32, or where there is none with numpy in float64. Ends with 0,
1 = a file disagrees, 77 = there is neither.
"""
import array
import json
import math
import pathlib
import struct
import sys

backend = "numpy"
try:
    if "--numpy" in sys.argv:
        raise ImportError
    import torch as xp
    backend = "torch"
except ImportError:
    try:
        import numpy as xp
    except ImportError:
        print("neither torch nor numpy is installed")
        sys.exit(77)
TOLERANCE = 1e-4


def tensor(values, shape=(-1,)):
    if backend == "torch":
        return xp.tensor(values, dtype=xp.float32).reshape(shape)
    return xp.array(values, dtype=xp.float64).reshape(shape)


def zeros(*shape):
    return tensor([0.0] * math.prod(shape), shape)


def read_safetensors(path):
    """-> {name: tensor}, metadata. u64 length of the header, header as JSON, then the arrays."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32", name
        begin, end = entry["data_offsets"]
        values = array.array("f")
        values.frombytes(data[8 + length + begin:8 + length + end])
        tensors[name] = tensor(list(values), entry["shape"])
    return tensors, metadata


# ---- primitives, section 1

def linear(x, weight):
    return x @ weight.T


def sigmoid(x):
    return 1 / (1 + xp.exp(-x))


def silu(x):
    return x * sigmoid(x)


def softplus(x):
    return xp.where(x > 0, x, 0 * x) + xp.log1p(xp.exp(-xp.abs(x)))


def heavy_tail(x):
    return xp.where(x >= 0, 1 + x, 1 / (1 - xp.where(x < 0, x, 0 * x)))


def rms_norm(x, weight, eps=1e-5):
    return x / xp.sqrt((x * x).mean(-1)[..., None] + eps) * weight


def l2_norm(x):
    return x / xp.sqrt((x * x).sum(-1)[..., None] + 1e-6)


def causal_conv(x, weight, bias=None):
    """x (T, C), weight (C, 1, W): index W - 1 multiplies the current token; SiLU follows."""
    width, length = weight.shape[2], x.shape[0]
    padded = xp.concatenate([zeros(width - 1, x.shape[1]), x])
    y = sum(padded[j:j + length] * weight[:, 0, j] for j in range(width))
    return silu(y if bias is None else y + bias)


def split(x, sizes):
    parts, begin = [], 0
    for size in sizes:
        parts.append(x[:, begin:begin + size])
        begin += size
    assert begin == x.shape[1], (begin, x.shape)
    return parts


def heads_of(x, heads):
    width = x.shape[1] // heads
    return [x[:, h * width:(h + 1) * width] for h in range(heads)]


def rotate(x, angle):
    """Interleaved pairs (2j, 2j + 1) of x (T, N) by +angle (T, S); channels from 2 S on stay."""
    pairs = angle.shape[1]
    even, odd = x[:, 0:2 * pairs:2], x[:, 1:2 * pairs:2]
    cos, sin = xp.cos(angle), xp.sin(angle)
    turned = xp.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return xp.concatenate([turned.reshape(x.shape[0], 2 * pairs), x[:, 2 * pairs:]], 1)


# ---- mixers; w: a layer's tensors by their last names, c: the `model:` block of the run

def mamba3(u, w, c, official):
    """Section 3; `official` = the module as it is, else this project's switches (section 5)."""
    inner, state, groups = c["expand"] * c["d_model"], c["d_state"], c["ngroups"]
    heads = inner // c["headdim"]
    rotated = int(state * c["rope_fraction"])
    pairs = (rotated - rotated % 2) // 2
    projected = linear(u, w["in_proj.weight"])
    if "conv1d.weight" in w:
        convolved = causal_conv(projected[:, inner:2 * inner + 2 * groups * state], w["conv1d.weight"], w["conv1d.bias"])
        projected = xp.concatenate(
            [projected[:, :inner], convolved, projected[:, 2 * inner + 2 * groups * state:]], 1)
    z, x, B, C, dd_dt, dd_A, trap, angle = split(
        projected, [inner, inner, groups * state, groups * state, heads, heads, heads, pairs])
    dt = softplus(dd_dt + w["dt_bias"])
    rate = softplus(dd_A) if c["a_activation"] == "softplus" else heavy_tail(dd_A)
    A = -xp.where(rate > c["a_floor"], rate, 0 * rate + c["a_floor"])
    lam = sigmoid(trap)
    if not official and c["discretization"] != "trapezoidal":
        lam = 0 * lam + {"euler": 1.0, "half": 0.5}[c["discretization"]]
    outputs = []
    for h in range(heads):
        group = h // (heads // groups)
        k, q = heads_of(B, groups)[group], heads_of(C, groups)[group]
        if "B_norm.weight" in w:
            k, q = rms_norm(k, w["B_norm.weight"]), rms_norm(q, w["C_norm.weight"])
        if "B_bias" in w:
            k, q = k + w["B_bias"][h, 0], q + w["C_bias"][h, 0]
        phase = xp.cumsum(dt[:, h, None] * math.pi * xp.tanh(angle), 0)
        if not official and c["rotation"] == "none":
            phase = 0 * phase
        if not official and c["rotation"] == "standard":
            phase = tensor([[t * 10000.0 ** (-j / pairs) for j in range(pairs)] for t in range(u.shape[0])],
                           (u.shape[0], pairs))
        k, q = rotate(k, phase), rotate(q, phase)
        v = heads_of(x, heads)[h]
        H, before, rows = zeros(c["headdim"], state), zeros(c["headdim"], state), []
        for t in range(u.shape[0]):
            alpha, gamma, delta = xp.exp(A[t, h] * dt[t, h]), lam[t, h] * dt[t, h], (1 - lam[t, h]) * dt[t, h]
            now = xp.outer(v[t], k[t])
            H = alpha * H + alpha * delta * before + gamma * now
            before = now
            rows.append(H @ q[t] + w["D"][h] * v[t])
        outputs.append(xp.stack(rows))
    o = xp.concatenate(outputs, 1)
    if "norm.weight" in w:
        o = xp.concatenate([rms_norm(part, weight) for part, weight in zip(
            heads_of(o, heads), heads_of(w["norm.weight"][None], heads))], 1)
    return linear(o * silu(z), w["out_proj.weight"])


def mamba2(u, w, c, official):
    """Section 6; eigenvalues in [-1, 1] (6.4) are this project's."""
    inner, state, groups = c["expand"] * c["d_model"], c["d_state"], c["ngroups"]
    heads = inner // c["headdim"]
    z, xBC, dd_dt = split(linear(u, w["in_proj.weight"]), [inner, inner + 2 * groups * state, heads])
    xBC = causal_conv(xBC, w["conv1d.weight"], w["conv1d.bias"])
    x, B, C = split(xBC, [inner, groups * state, groups * state])
    dt = softplus(dd_dt + w["dt_bias"])
    signed = not official and c["eigenvalue_range"][0] < 0
    outputs = []
    for h in range(heads):
        group = h // (heads // groups)
        k, q, v = heads_of(B, groups)[group], heads_of(C, groups)[group], heads_of(x, heads)[h]
        H, rows = zeros(c["headdim"], state), []
        for t in range(u.shape[0]):
            alpha = xp.exp(-dt[t, h] * xp.exp(w["A_log"][h]))
            H = (2 * alpha - 1 if signed else alpha) * H + dt[t, h] * xp.outer(v[t], k[t])
            rows.append(H @ q[t] + w["D"][h] * v[t])
        outputs.append(xp.stack(rows))
    y = xp.concatenate(outputs, 1) * silu(z)
    y = xp.concatenate([rms_norm(part, weight) for part, weight in zip(
        heads_of(y, groups), heads_of(w["norm.weight"][None], groups))], 1)
    return linear(y, w["out_proj.weight"])


def delta_rule(u, w, c, official):
    """Section 7: Gated DeltaNet, and DeltaNet, which has neither decay nor gate."""
    keys, groups, inner = c["d_state"], c["ngroups"], c["expand"] * c["d_model"]
    heads = inner // c["headdim"]
    if official:
        q, k, v, b = (linear(u, w[name + "_proj.weight"]) for name in "qkvb")
        gate = linear(u, w["g_proj.weight"]) if "g_proj.weight" in w else None
        a = linear(u, w["a_proj.weight"]) if "a_proj.weight" in w else None
        convs = [w.get(name + "_conv1d.weight") for name in "qkv"]
    else:
        gated = c["mixer"] == "gated_delta_net"
        parts = split(linear(u, w["in_proj.weight"]),
                      [groups * keys] * 2 + [inner] * (2 if gated else 1) + [heads] * (2 if gated else 1))
        q, k, v, b = parts[0], parts[1], parts[2], parts[-1]
        gate, a = (parts[3], parts[4]) if gated else (None, None)
        convs = [None] * 3
        if "conv1d.weight" in w:
            weight = w["conv1d.weight"]
            convs = [weight[:groups * keys], weight[groups * keys:2 * groups * keys], weight[2 * groups * keys:]]
    q, k, v = (silu(x) if conv is None else causal_conv(x, conv) for x, conv in zip((q, k, v), convs))
    beta = sigmoid(b) * (2 if c.get("eigenvalue_range", [0, 1])[0] < 0 else 1)
    g = 0 * beta if a is None else -xp.exp(w["A_log"]) * softplus(a + w["dt_bias"])
    norm, out = ("o_norm.weight", "o_proj.weight") if official else ("norm.weight", "out_proj.weight")
    outputs = []
    for h in range(heads):
        group = h // (heads // groups)
        qh, kh, vh = (l2_norm(heads_of(q, groups)[group]), l2_norm(heads_of(k, groups)[group]),
                      heads_of(v, heads)[h])
        S, rows = zeros(keys, c["headdim"]), []
        for t in range(u.shape[0]):
            S = xp.exp(g[t, h]) * S
            S = S + beta[t, h] * xp.outer(kh[t], vh[t] - S.T @ kh[t])
            rows.append(S.T @ qh[t] / math.sqrt(keys))
        o = rms_norm(xp.stack(rows), w[norm])
        outputs.append(o if gate is None else o * silu(heads_of(gate, heads)[h]))
    return linear(xp.concatenate(outputs, 1), w[out])


def lstm(u, w, c, official):
    hidden = c["expand"] * c["d_model"]
    ih, hh, bias = ((w["lstm.weight_ih_l0"], w["lstm.weight_hh_l0"], w["lstm.bias_ih_l0"] + w["lstm.bias_hh_l0"])
                    if official else (w["in_proj.weight"], w["weight_hh"], w["bias"]))
    h, cell, rows = zeros(hidden), zeros(hidden), []
    for x in linear(u, ih):
        i, f, g, o = split((x + hh @ h + bias)[None], [hidden] * 4)
        cell = sigmoid(f[0]) * cell + sigmoid(i[0]) * xp.tanh(g[0])
        h = sigmoid(o[0]) * xp.tanh(cell)
        rows.append(h)
    return linear(xp.stack(rows), w["out_proj.weight"])


MIXERS = {"mamba3": mamba3, "mamba2": mamba2, "gated_delta_net": delta_rule, "delta_net": delta_rule, "lstm": lstm}


# ---- the model, section 2

def logits(tensors, metadata, tokens):
    c = json.loads(metadata["statelab.config"])["model"]
    layout = metadata["statelab.layout"]
    fla = layout == "flash-linear-attention"
    root, mixer_name, norm_name = ("model.", "attn.", "attn_norm") if fla else ("backbone.", "mixer.", "norm")

    def below(prefix):
        return {name[len(prefix):]: value for name, value in tensors.items() if name.startswith(prefix)}

    h = tensors[root + ("embeddings" if fla else "embedding") + ".weight"][tokens]
    for layer in range(c["n_layers"]):
        w = below(f"{root}layers.{layer}.")
        u = rms_norm(h, w[norm_name + ".weight"])
        h = h + MIXERS[c["mixer"]](u, below(f"{root}layers.{layer}.{mixer_name}"), c, layout != "statelab")
        if "mlp.fc1.weight" in w:
            value, gate = heads_of(linear(rms_norm(h, w["norm2.weight"]), w["mlp.fc1.weight"]), 2)
            h = h + linear(value * silu(gate), w["mlp.fc2.weight"])
        if "mlp.down_proj.weight" in w:
            x = rms_norm(h, w["mlp_norm.weight"])
            h = h + linear(linear(x, w["mlp.up_proj.weight"]) * silu(linear(x, w["mlp.gate_proj.weight"])),
                           w["mlp.down_proj.weight"])
    h = rms_norm(h, tensors[root + ("norm" if fla else "norm_f") + ".weight"])
    return linear(h, tensors.get("lm_head.weight", tensors.get(root + "embedding.weight")))


def module_logits(tensors, metadata, tokens):
    """With PyTorch: the same logits by the class that models/interchange.md shows, loaded with strict=True."""
    page = pathlib.Path(__file__).parents[3] / "models" / "interchange.md"
    code = next(block for block in page.read_text().split("```python\n") if "class LstmLanguageModel" in block)
    scope = {}
    exec(code.split("```")[0], scope)
    c = json.loads(metadata["statelab.config"])["model"]
    vocabulary, width = tensors["lm_head.weight"].shape
    hidden = tensors.get("backbone.layers.0.mlp.fc2.weight")
    model = scope["LstmLanguageModel"](vocabulary, width, c["expand"] * c["d_model"], c["n_layers"],
                                       0 if hidden is None else hidden.shape[1])
    model.load_state_dict(tensors, strict=True)
    with xp.no_grad():
        return model(xp.tensor([tokens]))[0]


def main(arguments):
    arguments = [a for a in arguments if a != "--numpy"]
    if len(arguments) < 2 or arguments[0] not in ("check", "write"):
        print(__doc__)
        return 2
    folder = pathlib.Path(arguments[1])
    names = arguments[2:] or sorted(path.stem for path in folder.glob("*.safetensors"))
    worst = 0.0
    for name in names:
        tensors, metadata = read_safetensors(folder / (name + ".safetensors"))
        path = folder / (name + ".json")
        golden = json.loads(path.read_text())
        computed = [logits(tensors, metadata, tokens) for tokens in golden["tokens"]]
        if arguments[0] == "write":
            rows = [[[float(f"{x:.9g}") for x in row] for row in sequence.tolist()] for sequence in computed]
            text = ",\n ".join("[" + ",\n  ".join(json.dumps(row) for row in rows_of) + "]" for rows_of in rows)
            path.write_text('{"generator": "reference_model.py, %s %s",\n"tokens": %s,\n"logits": [\n %s]}\n' % (
                backend, xp.__version__, json.dumps(golden["tokens"]), text))
            print(f"{name}: written")
            continue
        error = max(float(xp.abs(sequence - tensor(expected, sequence.shape)).max())
                    for sequence, expected in zip(computed, golden["logits"]))
        if backend == "torch" and metadata["statelab.layout"] == "torch.nn.LSTM":
            error = max([error] + [float(xp.abs(module_logits(tensors, metadata, tokens) - tensor(expected)
                                                .reshape(len(tokens), -1)).max())
                                   for tokens, expected in zip(golden["tokens"], golden["logits"])])
        worst = max(worst, error if error == error else math.inf)
        print(f"{name}: largest difference {error:.2e}")
    print(f"{backend} {xp.__version__}, {len(names)} files")
    return 0 if worst <= TOLERANCE and names else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
