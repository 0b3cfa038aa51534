"""Adapters and quantised layers inside of live objects act, and change the model's identity."""

import pytest
import torch
from torch import nn

import fastvar_lab as fv
from fastvar_lab.verification import counted
from tests.test_attach import FAMILIES, attached


class LoRA(nn.Module):
    """As peft puts it around a linear layer: a low-rank product beside it, or added to its weight.

    `base_layer`, `lora_A`, `lora_B`, `scaling` are its names.
    """

    def __init__(self, base, rank=3, size=0.3):
        super().__init__()
        self.base_layer, self.scaling, self.merged = base, {"default": 2.0}, False
        self.in_features, self.out_features = base.in_features, base.out_features
        down = nn.Linear(base.in_features, rank, bias=False)
        up = nn.Linear(rank, base.out_features, bias=False)
        nn.init.normal_(down.weight, std=base.in_features**-0.5)
        nn.init.normal_(up.weight, std=size)
        self.lora_A, self.lora_B = (nn.ModuleDict({"default": part}) for part in (down, up))
        self.called = False

    @property
    def weight(self):
        return self.base_layer.weight

    def forward(self, x):
        self.called = True
        out = self.base_layer(x)
        if self.merged:
            return out
        return out + self.lora_B["default"](self.lora_A["default"](x)) * self.scaling["default"]

    def merge(self):
        product = self.lora_B["default"].weight @ self.lora_A["default"].weight
        self.base_layer.weight.data += product.data * self.scaling["default"]
        self.merged = True


def adapt(live, size=0.3, kinds=(nn.Linear,)):
    """Put an adapter around every linear layer; return the adapters by name."""
    torch.manual_seed(5)
    linear = [name for name, m in live.named_modules() if type(m) in kinds]
    adapters = {}
    for name in linear:
        parent, _, leaf = name.rpartition(".")
        owner = live.get_submodule(parent)
        adapters[name] = LoRA(owner._modules[leaf], size=size)
        owner._modules[leaf] = adapters[name].eval()
    return adapters


def attach(live, tokenizer, model):
    return fv.attach(live, tokenizer=tokenizer, sizes=model.sizes)


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_on_every_projection(family):
    live, tokenizer, model, condition = attached(family)
    plain = fv.generate(model, condition, fv.Dense(), seed=1)
    adapters = adapt(live)
    adapted = attach(live, tokenizer, model)
    assert torch.equal(fv.generate(model, condition, fv.Dense(), seed=1).canvas, plain.canvas)
    identity = adapted.fingerprint
    assert identity != model.fingerprint
    made = fv.generate(adapted, condition, fv.Dense(), seed=1)
    assert all(adapter.called for adapter in adapters.values())
    assert not torch.equal(made.canvas, plain.canvas)

    for adapter in adapters.values():
        adapter.merge()
    assert adapted.fingerprint != identity
    merged = fv.generate(adapted, condition, fv.Dense(), seed=1)
    for name, adapter in adapters.items():  # as peft's merge_and_unload leaves the object
        parent, _, leaf = name.rpartition(".")
        live.get_submodule(parent)._modules[leaf] = adapter.base_layer
    unloaded = fv.generate(attach(live, tokenizer, model), condition, fv.Dense(), seed=1)
    most = made.canvas.abs().max()
    assert (merged.canvas - made.canvas).abs().max() < 1e-3 * most
    assert (unloaded.canvas - made.canvas).abs().max() < 1e-3 * most


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_of_nothing_change_nothing(family):
    live, tokenizer, model, condition = attached(family)
    plain = fv.generate(model, condition, fv.Dense(), seed=1).canvas
    adapt(live, size=0.0)
    made = fv.generate(attach(live, tokenizer, model), condition, fv.Dense(), seed=1).canvas
    assert (made - plain).abs().max() < 1e-4 * plain.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_quantised_layers(family):
    live, tokenizer, model, condition = attached(family)
    plain = fv.generate(model, condition, fv.Dense(), seed=1).canvas
    count = sum(type(m) is nn.Linear for m in live.modules())
    narrow = torch.ao.quantization.quantize_dynamic(live, {nn.Linear})
    quantised = attach(narrow, tokenizer, model)
    assert quantised.precision == f"float32, {count} layers in qint8"
    assert model.precision == "float32"
    made = fv.generate(quantised, condition, fv.Prune({-1: 0.5}), seed=1, snapshot=True)
    if family == "var":  # the others here have no text encoder
        saved = fv.memory(model, fv.Dense()).weights - fv.memory(quantised, fv.Dense()).weights
        weights = sum(m.weight.numel() for m in live.modules() if type(m) is nn.Linear)
        assert 2.8 * weights < saved < 3.2 * weights
    assert made.canvas.isfinite().all()
    assert not torch.equal(made.canvas, plain)
    assert quantised.fingerprint != model.fingerprint
    again = torch.ao.quantization.quantize_dynamic(live, {nn.Linear})
    assert attach(again, tokenizer, model).fingerprint == quantised.fingerprint
    with torch.no_grad():
        live.head.weight[0] += 1
    other = torch.ao.quantization.quantize_dynamic(live, {nn.Linear})
    assert attach(other, tokenizer, model).fingerprint != quantised.fingerprint


@pytest.mark.parametrize("change", ["quantised", "adapted", "both"])
def test_operations_of_swapped_layers_are_those_counted(change):
    """Products are inside of kernels or beside the layer's; a layer counts as one of its shape."""
    live, tokenizer, model, _ = attached("var")
    if change != "adapted":
        live = torch.ao.quantization.quantize_dynamic(live, {nn.Linear})
    if change != "quantised":
        kinds = nn.Linear, torch.ao.nn.quantized.dynamic.Linear
        adapt(live, kinds=kinds)
    swapped, method = attach(live, tokenizer, model), fv.Prune({-1: 0.5})
    before = [len(m._forward_hooks) for m in live.modules()]
    assert counted(swapped, method, "3", 0) == counted(model, method, "3", 0)
    assert counted(swapped, method, "3", 0).passed
    assert [len(m._forward_hooks) for m in live.modules()] == before


class Packed(torch.Tensor):
    """A weight as quantisation libraries hold it: a type of its own around plain tensors."""

    @staticmethod
    def __new__(cls, data, scale):
        kept = {"dtype": scale.dtype, "device": data.device}
        return torch.Tensor._make_wrapper_subclass(cls, data.shape, **kept)

    def __init__(self, data, scale):
        self.data_, self.scale = data, scale

    def __tensor_flatten__(self):
        return ["data_", "scale"], {}

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is nn.functional.linear:
            x, weight, *bias = args
            return function(x, weight.data_ * weight.scale, *bias)
        return super().__torch_function__(function, types, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.detach.default:
            return cls(args[0].data_, args[0].scale)
        raise NotImplementedError(function)  # such types know few operations


def test_tensors_of_quantisation_libraries_are_part_of_the_identity():
    live, tokenizer, model, condition = attached("var")
    fc1 = live.blocks[0].ffn.fc1
    scale = fc1.weight.detach().abs().amax(1, keepdim=True) / 127
    data = (fc1.weight.detach() / scale).round().to(torch.int8)
    fc1.weight = nn.Parameter(Packed(data, scale), requires_grad=False)
    narrow = attach(live, tokenizer, model)
    assert narrow.precision == "float32, 1 layers in Packed of float32"
    identity = narrow.fingerprint
    assert fv.generate(narrow, condition, fv.Dense(), seed=1).canvas.isfinite().all()
    assert fv.memory(narrow, fv.Dense()).weights > 0
    fc1.weight.scale[3] *= 2
    assert narrow.fingerprint != identity


def test_adapters_of_embeddings_are_measured_by_their_base():
    """peft's are named in_features for the rows, out_features for the width."""
    live, tokenizer, model, condition = attached("var")
    plain = fv.generate(model, condition, fv.Dense(), seed=1).canvas

    class Embedded(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base_layer = base
            self.in_features, self.out_features = base.num_embeddings, base.embedding_dim

        @property
        def weight(self):
            return self.base_layer.weight

        def forward(self, x):
            return self.base_layer(x) * 2

    live.lvl_embed = Embedded(live.lvl_embed).eval()
    adapted = attach(live, tokenizer, model)
    assert not torch.equal(fv.generate(adapted, condition, fv.Dense(), seed=1).canvas, plain)
