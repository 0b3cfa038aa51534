"""Live objects under the released names of parameters, not built from the library's classes.

`tree` makes a module of a table of names and shapes. `LiveVAR` also samples, step by step, as an
object of the released kind does, with a key and value cache on its layers.
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests import reference


class Part(nn.Module):
    """A module with nothing but what is put into it."""


def layer(name, shape, bias):
    """A layer for a weight's name and shape, as torch has it."""
    leaf = name.split(".")[-1]
    if "emb" in leaf and leaf not in ("word_embed", "context_embed", "cond_embed"):
        return nn.Embedding(*shape)
    if len(shape) == 4:
        return nn.Conv2d(shape[1], shape[0], shape[2:], padding=shape[2] // 2, bias=bias)
    if len(shape) == 2:
        return nn.Linear(shape[1], shape[0], bias=bias)
    return None


def tree(shapes, root=None, seed=0):
    """Build a module whose parameters have the names and shapes of a table, in evaluation mode."""
    root = root or Part()
    torch.manual_seed(seed)
    for key, shape in shapes.items():
        path, _, leaf = key.rpartition(".")
        *above, last = path.split(".") if path else [None]
        owner = root
        for name in above:
            if name not in owner._modules:
                owner.add_module(name, Part())
            owner = owner._modules[name]
        if last is not None and last not in owner._modules:
            made = layer(path, shape, f"{path}.bias" in shapes) if leaf == "weight" else None
            owner.add_module(last, made or Part())
        owner = owner if last is None else owner._modules[last]
        if leaf in owner._parameters or leaf in owner._buffers:
            continue
        if leaf in ("zero_k_bias", "lvl_1L"):
            owner.register_buffer(leaf, torch.zeros(shape))
        else:
            owner.register_parameter(leaf, nn.Parameter(torch.empty(shape)))
    for name, parameter in root.named_parameters():
        scale = 0.3 if parameter.dim() < 2 else parameter[0].numel() ** -0.5
        nn.init.normal_(parameter, std=scale)
        if name.endswith("scale_mul_1H11"):
            nn.init.constant_(parameter, math.log(6.0))
        elif "norm" in name and name.endswith("weight"):
            nn.init.normal_(parameter, 1.0, 0.2)
    return root.eval()


def linear(name, rows, columns, bias=True):
    return {f"{name}.weight": (rows, columns)} | ({f"{name}.bias": (rows,)} if bias else {})


def attention(name, c, heads):
    return {
        f"{name}.scale_mul_1H11": (1, heads, 1, 1),
        **{f"{name}.{leaf}": (c,) for leaf in ("q_bias", "v_bias", "zero_k_bias")},
        **linear(f"{name}.mat_qkv", 3 * c, c, bias=False),
        **linear(f"{name}.proj", c, c),
    }


def ffn(name, c, hidden):
    return linear(f"{name}.fc1", hidden, c) | linear(f"{name}.fc2", c, hidden)


def var_names(depth=2, c=64, heads=2, sides=(1, 2, 3, 5, 6), classes=10, vocabulary=50, code=8,
              shared=False):  # fmt: skip
    names = {
        "pos_start": (1, 1, c),
        "pos_1LC": (1, sum(s * s for s in sides), c),
        **linear("word_embed", c, code),
        "class_emb.weight": (classes + 1, c),
        "lvl_embed.weight": (len(sides), c),
        "lvl_1L": (1, sum(s * s for s in sides)),
    }
    if shared:
        names |= linear("shared_ada_lin.1", 6 * c, c)
    for i in range(depth):
        block = f"blocks.{i}"
        names |= attention(f"{block}.attn", c, heads) | ffn(f"{block}.ffn", c, 4 * c)
        names |= (
            {f"{block}.ada_gss": (1, 1, 6, c)} if shared else linear(f"{block}.ada_lin.1", 6 * c, c)
        )
    return names | linear("head_nm.ada_lin.1", 2 * c, c) | linear("head", vocabulary, c)


def infinity_names(depth=4, c=64, heads=2, hidden=128, bits=6, text=32, length=12, chunks=2):
    names = {
        "cfg_uncond": (length, text),
        "pos_start": (1, 1, c),
        "text_norm.weight": (text,),
        "text_proj_for_sos.ca.mat_q": (1, 4, c // 4),
        **linear("text_proj_for_sos.ca.mat_kv", 2 * c, text, bias=False),
        "text_proj_for_sos.ca.v_bias": (c,),
        "text_proj_for_sos.ca.zero_k_bias": (c,),
        **linear("text_proj_for_sos.ca.proj", c, c),
        **linear("text_proj_for_ca.0", c, text),
        **linear("text_proj_for_ca.2", c, c),
        "lvl_embed.weight": (15, c),
        **linear("word_embed", c, bits),
        **linear("shared_ada_lin.1", 6 * c, c),
        **linear("head_nm.ada_lin.1", 2 * c, c),
        **linear("head", 2 * bits, c),
    }
    for i in range(depth):
        inner = depth // chunks
        block = f"block_chunks.{i // inner}.module.{i % inner}" if chunks > 1 else f"blocks.{i}"
        names |= {f"{block}.ada_gss": (1, 1, 6, c)}
        names |= attention(f"{block}.sa", c, heads) | ffn(f"{block}.ffn", c, hidden)
        names |= linear(f"{block}.ca.mat_q", c, c) | linear(f"{block}.ca.proj", c, c)
        names |= linear(f"{block}.ca.mat_kv", 2 * c, c, bias=False)
        names |= {f"{block}.ca.v_bias": (c,), f"{block}.ca.zero_k_bias": (c,)}
        names |= {f"{block}.ca_norm.weight": (c,), f"{block}.ca_norm.bias": (c,)}
    return names


def hart_names(depth=2, c=64, hidden=96, sides=(1, 2, 3, 4, 5, 6), context=9, text=24,
               vocabulary=700, code=32, inner=48):  # fmt: skip
    names = {
        "lvl_1L": (1, context - 1 + sum(s * s for s in sides)),
        **linear("word_embed", c, code),
        **linear("context_embed", c, text),
        "context_norm.weight": (text,),
        **linear("lvl_embed.mlp.0", c, 256),
        **linear("lvl_embed.mlp.2", c, c),
        "head_nm.ln_wo_grad.weight": (c,),
        **linear("head_nm.ada_lin.1", 2 * c, c),
        **linear("head", vocabulary, c),
        "decoder_norm.weight": (c,),
        **linear("diffloss.net.time_embed.mlp.0", inner, 256),
        **linear("diffloss.net.time_embed.mlp.2", inner, inner),
        **linear("diffloss.net.cond_embed", inner, c),
        **linear("diffloss.net.input_proj", inner, code),
        **linear("diffloss.net.final_layer.linear", 2 * code, inner),
        **linear("diffloss.net.final_layer.adaLN_modulation.1", 2 * inner, inner),
    }
    for i in range(depth):
        block = f"blocks.{i}"
        names |= {f"{block}.attn.{leaf}": (c,) for leaf in ("q_bias", "v_bias", "zero_k_bias")}
        names |= linear(f"{block}.attn.qkv_proj", 3 * c, c, bias=False)
        names |= linear(f"{block}.attn.proj", c, c) | {f"{block}.ln_wo_grad.weight": (c,)}
        for leaf, rows, columns in (("gate", hidden, c), ("up", hidden, c), ("down", c, hidden)):
            names |= linear(f"{block}.ffn.{leaf}_proj", rows, columns, bias=False)
        block = f"diffloss.net.res_blocks.{i}"
        names |= {f"{block}.in_ln.weight": (inner,), f"{block}.in_ln.bias": (inner,)}
        names |= linear(f"{block}.mlp.0", inner, inner) | linear(f"{block}.mlp.2", inner, inner)
        names |= linear(f"{block}.adaLN_modulation.1", 3 * inner, inner)
    return names


def conv(name, rows, columns, side=3):
    return {f"{name}.weight": (rows, columns, side, side), f"{name}.bias": (rows,)}


def autoencoder_names(d=8, width=32, attention=True, book=50, wrap=False):
    """A tokenizer of two levels; `wrap` puts one more level around layers, as Infinity's have it.

    `book` is the size of the codebook, 0 for none.
    """

    def norm(name):
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    def res(name):
        parts = norm(f"{name}.norm1") | norm(f"{name}.norm2")
        return parts | conv(f"{name}.conv1", width, width) | conv(f"{name}.conv2", width, width)

    def attn(name):
        inner = conv(f"{name}.qkv", 3 * width, width, 1) | conv(f"{name}.proj_out", width, width, 1)
        return norm(f"{name}.norm") | inner if attention else {}

    names = {
        **conv("encoder.conv_in", width, 3),
        **res("encoder.down.0.block.0"),
        **conv("encoder.down.0.downsample.conv", width, width),
        **res("encoder.down.1.block.0"),
        **attn("encoder.down.1.attn.0"),
        **conv("encoder.conv_out", d, width),
        **conv("decoder.conv_in", width, d),
        **res("decoder.up.0.block.0"),
        **res("decoder.up.1.block.0"),
        **attn("decoder.up.1.attn.0"),
        **conv("decoder.up.1.upsample.conv", width, width),
        **conv("decoder.conv_out", 3, width),
    }
    for half in ("encoder", "decoder"):
        names |= res(f"{half}.mid.block_1") | attn(f"{half}.mid.attn_1")
        names |= res(f"{half}.mid.block_2") | norm(f"{half}.norm_out")
    if wrap:
        leaves = {"n": "norm", "c": "conv"}
        split = [(key.rsplit(".", 2), shape) for key, shape in names.items()]
        names = {
            ".".join((*path[:-1], leaves["n" if "norm" in path[-2] else "c"], path[-1])): shape
            for path, shape in split
        }
    if book:
        names |= {"quantize.embedding.weight": (book, d)}
        names |= conv("quant_conv", d, d) | conv("post_quant_conv", d, d)
        for i in range(4):
            names |= conv(f"quantize.quant_resi.qresi_ls.{i}", d, d)
    return names


def levels(sides, context=1):
    """The released buffer: the scale step of every token."""
    counts = [context, *(s * s for s in sides[1:])]
    return torch.repeat_interleave(torch.arange(len(sides)), torch.tensor(counts))[None]


class LiveBlock(Part):
    """One layer of `LiveVAR`, called with the stream and the condition."""

    def forward(self, x, condition):
        c = x.shape[-1]
        packed = self.ada_lin._modules["1"](F.silu(condition))
        g1, g2, s1, s2, b1, b2 = packed.reshape(-1, 1, 6, c).unbind(2)
        x = x + self.attend(F.layer_norm(x, (c,), eps=1e-6) * (1 + s1) + b1) * g1
        z = F.layer_norm(x, (c,), eps=1e-6) * (1 + s2) + b2
        return x + self.ffn.fc2(F.gelu(self.ffn.fc1(z), approximate="tanh")) * g2

    def attend(self, x):
        part = self.attn
        bias = torch.cat((part.q_bias, part.zero_k_bias, part.v_bias))
        heads = part.scale_mul_1H11.shape[1]
        q, k, v = (reference.heads(t, heads) for t in (part.mat_qkv(x) + bias).chunk(3, dim=-1))
        q = F.normalize(q, dim=-1) * part.scale_mul_1H11.clamp(max=math.log(100)).exp()
        self.past.append((F.normalize(k, dim=-1), v))
        k, v = (torch.cat(part, 2) for part in zip(*self.past, strict=True))
        return part.proj(reference.attend(q, k, v, 1.0))


class LiveVAR(Part):
    """A class-conditional object with a sampler of its own; its tokenizer is in `vae_proxy`."""

    def __init__(self, depth=2, sides=(1, 2, 3, 5, 6)):
        super().__init__()
        self.patch_nums, self.blocks = sides, nn.ModuleList(LiveBlock() for _ in range(depth))
        tree(var_names(depth=depth, sides=sides), self)
        self.lvl_1L = levels(sides)
        self.vae_proxy = (tree(autoencoder_names(), seed=1),)

    @torch.no_grad()
    def sample(self, label, seed, cfg=4.0, top_k=20, top_p=0.95):
        """Sample the latent of one label."""
        rng, sides = torch.Generator().manual_seed(seed), self.patch_nums
        book = self.vae_proxy[0].state_dict()
        condition = self.class_emb(torch.tensor([label, self.class_emb.num_embeddings - 1]))
        where = (self.lvl_embed(self.lvl_1L) + self.pos_1LC).split([s * s for s in sides], dim=1)
        latent = torch.zeros(1, 8, sides[-1], sides[-1])
        for block in self.blocks:
            block.past = []
        for step, side in enumerate(sides):
            x = condition[:, None] + self.pos_start
            if step:
                small = F.interpolate(latent, size=(side, side), mode="area")
                x = self.word_embed(small.flatten(2).transpose(1, 2)).repeat(2, 1, 1)
            x = x + where[step]
            for block in self.blocks:
                x = block(x, condition)
            head = self.head_nm.ada_lin._modules["1"](F.silu(condition))
            scale, shift = head.reshape(2, 1, 2, -1).unbind(2)
            logits = self.head(F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale) + shift)
            t = cfg * step / (len(sides) - 1)
            logits = reference.filter_logits((1 + t) * logits[:1] - t * logits[1:], top_k, top_p)
            drawn = reference.multinomial(torch.softmax(logits, -1), rng, reference.Log())
            code = self.vae_proxy[0].quantize.embedding(drawn).transpose(1, 2)
            code = code.reshape(1, -1, side, side)
            if side != sides[-1]:
                code = F.interpolate(code, size=latent.shape[-2:], mode="bicubic")
            latent = latent + reference.phi(book, step, len(sides), code)
        for block in self.blocks:
            block.past = []
        return latent


def live_infinity(**sizes):
    """An Infinity in chunks of layers, whose pixel budget is 256 x 256."""
    live = tree(infinity_names(**sizes))
    live.pn, live.rope2d_normalized_by_hw, live.num_heads = "0.06M", 2, 2
    return live


def live_hart(sides=(1, 2, 3, 4, 5, 6)):
    """A HART; its tokenizer is inside the module that trained it, beside a discriminator."""
    live = tree(hart_names(sides=sides))
    live.lvl_1L, live.num_heads = levels(sides, 9), 2
    names = {f"vae.{k}": v for k, v in autoencoder_names(32, book=700).items()}
    return live, tree(names | linear("disc.main", 3, 3), seed=1)
