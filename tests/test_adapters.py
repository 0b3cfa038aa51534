"""Whatever stands in a projection's place acts: hooks, adapters, quantised layers."""

import copy

import pytest
import torch
from torch import nn

import fastvar_lab as fv
from tests.families import FAMILIES, prompt, small_model

PROJECTIONS = {
    "infinity": (
        *("blocks.1.sa.mat_qkv", "blocks.1.sa.proj", "blocks.1.ca.mat_q", "blocks.1.ca.mat_kv"),
        *("blocks.1.ca.proj", "blocks.1.ffn.fc1", "blocks.1.ffn.fc2", "head", "word_embed"),
        *("text_proj_for_sos.ca.mat_kv", "text_proj_for_sos.ca.proj", "text_proj_for_ca.0"),
        *("shared_ada_lin.1", "blocks.1.ca_norm", "lvl_embed"),
    ),
    "var": (
        *("blocks.1.attn.mat_qkv", "blocks.1.attn.proj", "blocks.1.ffn.fc1", "blocks.1.ffn.fc2"),
        *("head", "word_embed", "blocks.1.ada_lin.1", "lvl_embed"),
    ),
    "hart": (
        *("blocks.1.attn.qkv_proj", "blocks.1.attn.proj", "blocks.1.ffn.gate_proj"),
        *("blocks.1.ffn.up_proj", "blocks.1.ffn.down_proj", "head", "word_embed", "context_embed"),
        *("lvl_embed", "lvl_embed.mlp.0"),
    ),
}


def logits_of(model, method=None):
    """Generate; return the logits of all steps, flat: bits alone are too coarse to compare."""
    seen = []

    class Keep(fv.Wrapper):
        def after(self, grid, tokens, canvas, logits=None):
            seen.append(logits.flatten())
            self.inner.after(grid, tokens, canvas, logits)

    fv.generate(model, prompt(model), method or fv.Dense(), seed=3, watch=[Keep])
    return torch.cat(seen)


class Adapter(nn.Module):
    """As an adapter wraps a layer: its own output beside the layer's, no attributes passed on."""

    def __init__(self, base, gain=1.0):
        super().__init__()
        self.base, self.gain = base, gain
        self.called = 0

    def forward(self, x):
        self.called += 1
        return self.base(x) * self.gain


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    model = small_model(request.param)
    return request.param, model, logits_of(model)


def test_hooks_on_every_projection_act(family):
    name, model, plain = family
    for place in PROJECTIONS[name]:
        layer = model.transformer.get_submodule(place)
        handle = layer.register_forward_hook(lambda layer, inputs, out: out * 1.5)
        changed = logits_of(model)
        handle.remove()
        assert not torch.equal(changed, plain), place
    assert torch.equal(logits_of(model), plain)


def test_a_layer_in_a_projections_place_acts(family):
    name, model, plain = family
    for place in PROJECTIONS[name]:
        changed = copy.copy(model)
        changed.transformer = copy.deepcopy(model.transformer)
        parent, _, leaf = place.rpartition(".")
        parent = changed.transformer.get_submodule(parent)
        gaps = []
        for gain in (1.0, 3.0):
            layer = model.transformer.get_submodule(place)
            adapter = Adapter(layer, gain)
            setattr(parent, leaf, adapter)
            if place == "head":
                adapter.weight = layer.weight  # tells the device
            made = logits_of(changed)
            assert adapter.called, place
            gaps.append(float((made - plain).abs().max()))
        assert gaps[0] < 1e-4, place  # but for rounding the layer itself
        assert gaps[1] > 3 * gaps[0], place


@pytest.mark.parametrize("kind", ["infinity", "var", "hart"])
def test_quantised_layers_act(kind):
    model = small_model(kind)
    plain = logits_of(model, fv.Prune({-1: 0.5}))
    blocks = torch.ao.quantization.quantize_dynamic(model.transformer.blocks, {nn.Linear})
    model.transformer.blocks = blocks
    made = logits_of(model, fv.Prune({-1: 0.5}))
    assert made.isfinite().all()
    assert not torch.equal(made, plain)
