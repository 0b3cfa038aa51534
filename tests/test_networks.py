"""The evaluators' networks: resizes, names of released weights, shapes, and files."""

import hashlib
import io
import json
import os
import shutil
from dataclasses import replace
from operator import attrgetter

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, max_pool2d
from torch.overrides import TorchFunctionMode

import fastvar_lab as fv
from fastvar_lab.cli.main import main
from fastvar_lab.errors import WeightsError
from fastvar_lab.evaluators import known_answers, local_features
from fastvar_lab.evaluators.geneval import metadata
from fastvar_lab.evaluators.geneval_pictures import ItemJudge, open_judge
from fastvar_lab.measure.quality import METRICS
from fastvar_lab.networks import (
    collection,
    conversion,
    published,
    random_networks,
    renaming,
    resizing,
    throughput,
)
from fastvar_lab.networks.exact import exact
from fastvar_lab.networks.inception import Inception
from fastvar_lab.networks.lpips import LPIPS
from fastvar_lab.networks.pretrained import ImageReward, objects
from fastvar_lab.prompts import Item


def picture(h, w, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (h, w, 3)).astype(np.uint8)


def test_clean_resize_is_antialiased_bicubic_without_rounding():
    x = picture(40, 56)
    mine = resizing.clean(x, 24)
    theirs = interpolate(
        torch.from_numpy(x).permute(2, 0, 1)[None].float(), (24, 24), mode="bicubic",
        antialias=True,
    )[0].clip(0, 255)  # fmt: skip
    assert mine.shape == (3, 24, 24)
    assert (mine - theirs).abs().max() < 0.01
    assert (mine - mine.round()).abs().max() > 0.1  # not rounded, unlike PIL on uint8


def test_tensorflow_resize_has_no_half_pixel():
    x = picture(5, 7)
    mine = resizing.tensorflow(x, 9).permute(1, 2, 0).numpy()
    for i in range(9):
        for j in range(9):
            y, z = i * 5 / 9, j * 7 / 9
            a, b = int(y), int(z)
            c, d = min(a + 1, 4), min(b + 1, 6)
            u, v = y - a, z - b
            top = x[a, b] * (1 - v) + x[a, d] * v
            low = x[c, b] * (1 - v) + x[c, d] * v
            assert np.allclose(mine[i, j], top * (1 - u) + low * u, atol=1e-3)
    assert (resizing.half_pixel(x, 9).permute(1, 2, 0).numpy() - mine).std() > 1


@pytest.mark.parametrize(("h", "w"), [(64, 64), (48, 80), (81, 47)])
def test_crops_are_square_and_centered(h, w):
    x = np.zeros((h, w, 3), np.uint8)
    y, z = h // 2, w // 2
    x[y - 4 : y + 4, z - 4 : z + 4] = 255
    for crop in (resizing.clip_crop, resizing.float_crop):
        bright = crop(x, 32)[0]
        assert bright.shape == (32, 32)
        weight = (bright - bright.min()) / (bright - bright.min()).sum()
        places = torch.arange(32).float()
        assert abs((weight.sum(0) * places).sum() - 15.5) < 1.1
        assert abs((weight.sum(1) * places).sum() - 15.5) < 1.1


def test_antialiasing_changes_what_hps_sees():
    x = picture(96, 96)
    smooth, rough = (resizing.float_crop(x, 24, antialias=a) for a in (True, False))
    assert rough.std() > 1.5 * smooth.std()
    grey = rough * torch.tensor(resizing.CLIP_STD).view(3, 1, 1) + torch.tensor(
        resizing.CLIP_MEAN
    ).view(3, 1, 1)
    assert grey.min() < 0 or grey.max() > 1  # not clipped


def test_detector_input_is_padded_before_it_is_normalized():
    x = resizing.detector_input(picture(30, 50), long=64, short=40)
    assert resizing.detector_size(30, 50, 64, 40) == (38, 64)
    assert x.shape == (3, 64, 64)
    grey = x * torch.tensor(resizing.GREY_STD).view(3, 1, 1) + torch.tensor(
        resizing.GREY_MEAN
    ).view(3, 1, 1)
    assert torch.allclose(grey[:, 38:], torch.tensor(128.0), atol=1e-3)
    assert torch.allclose(grey, grey.round(), atol=1e-3)


def test_inception_has_the_released_names_and_shapes():
    with torch.device("meta"):
        network = Inception()
    state = network.state_dict()
    assert len(state) == 566
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(23.85e6, rel=2e-3)
    assert state["fc.weight"].shape == (1008, 2048)
    assert state["Mixed_6c.branch7x7dbl_4.conv.weight"].shape == (160, 160, 7, 1)
    assert state["Mixed_7c.branch3x3dbl_3a.bn.running_var"].shape == (384,)
    found = network(torch.zeros(2, 3, 299, 299, device="meta"))
    assert [tuple(t.shape) for t in found] == [(2, 2048), (2, 2023), (2, 1008)]


def test_inception_pools_as_tensorflow_did():
    torch.manual_seed(0)
    network = Inception(16).eval()
    seen = {}
    for name in ("Mixed_6d.branch1x1", "Mixed_7b.branch_pool", "Mixed_7c.branch_pool"):
        network.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: seen.update({name: (args[0], out)})
        )
    inner = {}
    for name in ("Mixed_7b", "Mixed_7c"):
        network.get_submodule(name).register_forward_hook(
            lambda module, args, out, name=name: inner.update({name: args[0]})
        )
    with torch.no_grad():
        found = network(torch.rand(1, 3, 299, 299) * 255)
    x = inner["Mixed_7b"][0, 0].numpy()
    mean = np.array([[x[max(0, i - 1) : i + 2, max(0, j - 1) : j + 2].mean() for j in range(8)]
                     for i in range(8)])  # fmt: skip
    assert np.allclose(seen["Mixed_7b.branch_pool"][0][0, 0].numpy(), mean, atol=1e-5)
    largest = max_pool2d(inner["Mixed_7c"], 3, 1, 1)
    assert torch.equal(seen["Mixed_7c.branch_pool"][0], largest)
    spatial = seen["Mixed_6d.branch1x1"][1][0, :7]  # (7, 17, 17); channels go last
    assert torch.equal(found.spatial.view(17, 17, 7)[3, 5], spatial[:, 3, 5])
    assert torch.allclose(found.logits, found.pooled @ network.fc.weight.T)


def test_lpips_is_its_definition():
    torch.manual_seed(0)
    network = LPIPS(8)
    one, other = torch.rand(2, 2, 3, 64, 64)
    with torch.no_grad():
        mine = network(one, other)
        assert torch.equal(network(one, one), torch.zeros(2))
        total = torch.zeros(2)
        shift, scale = (torch.tensor(v).view(1, 3, 1, 1) for v in
                        ((-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)))  # fmt: skip
        x, y = ((2 * z - 1 - shift) / scale for z in (one, other))
        for i, (place, conv) in enumerate(network.features.items()):
            assert place == ("0", "3", "6", "8", "10")[i]
            if i in (1, 2):
                x, y = max_pool2d(x, 3, 2), max_pool2d(y, 3, 2)
            x, y = conv(x).relu(), conv(y).relu()
            for n in range(2):
                gap = x[n] / (1e-8 + (x[n] ** 2).sum(0)).sqrt()
                gap = gap - y[n] / (1e-8 + (y[n] ** 2).sum(0)).sqrt()
                weighed = torch.einsum("chw,c->hw", gap**2, network.heads[i])
                total[n] += weighed.mean()
    assert torch.allclose(mine, total, atol=1e-6)


def test_objects_are_those_of_the_protocol():
    torch.manual_seed(1)
    logits, masks = torch.randn(6, 5) * 3, torch.randn(6, 8, 8) * 4
    masks[2] = -3.0  # an empty mask
    mine = objects(logits, masks, (40, 40), (32, 40), (64, 80))
    chances = logits.softmax(-1)[:, :4]
    order = sorted(((float(chances[q, c]), q, c) for q in range(6) for c in range(4)), reverse=True)
    assert len(mine.scores) == 24  # fewer pairs than 100: a query stands with every class
    for k, (chance, q, c) in enumerate(order):
        big = interpolate(masks[q][None, None], (40, 40), mode="bilinear")[..., :32, :]
        big = interpolate(big, (64, 80), mode="bilinear")[0, 0]
        inside = big > 0
        score = chance * float(big.sigmoid()[inside].sum() / (inside.sum() + 1e-6))
        assert mine.classes[k] == c
        assert mine.scores[k] == pytest.approx(score, rel=1e-4)
        assert np.array_equal(mine.masks[k], inside.numpy())
        ys, xs = np.nonzero(inside.numpy())
        box = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(ys) else [0, 0, 0, 0]
        assert mine.boxes[k].tolist() == box
    assert len(objects(logits, masks, (40, 40), (32, 40), (64, 80), at_least=0.3).scores) < 24


def test_names_of_mmdetection_cover_the_whole_network(tmp_path):
    transformers = pytest.importorskip("transformers")
    conversion.write_json(
        tmp_path / "config.json", conversion.mask2former(**random_networks.DETECTOR)
    )
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    network = transformers.Mask2FormerForUniversalSegmentation(config)
    network.save_pretrained(tmp_path)
    names, _ = conversion.read_tensors(tmp_path / "model.safetensors")
    source = mmdet_names(names)
    mine = renaming.from_mmdet(source)
    unread = {n for n in names if "swin.layernorm" in n or "criterion" in n
              or n.startswith("model.pixel_level_module.encoder.layernorm")
              or n.endswith("relative_position_index")}  # fmt: skip
    assert set(mine) == set(names) - unread
    for name, tensor in mine.items():
        assert torch.equal(tensor, names[name]), name
    target = tmp_path / "detector"
    target.mkdir()
    conversion.save(mine, target, json.loads((tmp_path / "config.json").read_text()))
    opened = collection.open_network("detector", tmp_path).model
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():  # what the file leaves out, such as indices of windows, is computed
        one, other = opened(pixel_values=x), network.eval()(pixel_values=x)
    assert torch.equal(one.class_queries_logits, other.class_queries_logits)
    assert torch.equal(one.masks_queries_logits, other.masks_queries_logits)
    broken = {**source, "backbone.stages.0.downsample.reduction.weight":
              source["backbone.stages.0.downsample.reduction.weight"].flip(-1)}  # fmt: skip
    moved = renaming.from_mmdet(broken)
    place = "model.pixel_level_module.encoder.encoder.layers.0.downsample.reduction.weight"
    assert not torch.equal(moved[place], names[place])
    with pytest.raises(WeightsError, match=r"hold backbone\.stranger"):
        renaming.from_mmdet({"backbone.stranger": torch.zeros(1)})


def mmdet_names(names):
    """Write mmdetection's state dict of the tensors of a tiny network, by the table of names."""
    e, d, t = ("model.pixel_level_module.encoder.", "model.pixel_level_module.decoder.",
               "model.transformer_module.")  # fmt: skip
    p = "panoptic_head."
    out = {}

    def put(new, old, change=lambda x: x):
        for leaf in ("weight", "bias"):
            if f"{old}.{leaf}" in names:
                out[f"{new}.{leaf}"] = change(names[f"{old}.{leaf}"])

    def apart(x):  # neighbours-first (4, C) to channels-first (C, 4), down before right
        rows = x.shape[:-1]
        parts = x.reshape(*rows, 4, -1).transpose(-1, -2)
        return parts[..., [0, 2, 1, 3]].reshape(x.shape)

    def join(*old):
        return torch.cat([names[name] for name in old])

    put("backbone.patch_embed.projection", f"{e}embeddings.patch_embeddings.projection")
    put("backbone.patch_embed.norm", f"{e}embeddings.norm")
    for i in range(4):
        put(f"backbone.norm{i}", f"{e}hidden_states_norms.stage{i + 1}")
        b, h = f"backbone.stages.{i}.blocks.0.", f"{e}encoder.layers.{i}.blocks.0."
        put(f"{b}norm1", f"{h}layernorm_before")
        put(f"{b}norm2", f"{h}layernorm_after")
        put(f"{b}attn.w_msa.proj", f"{h}attention.output.dense")
        table = "relative_position_bias_table"
        out[f"{b}attn.w_msa.{table}"] = names[f"{h}attention.self.{table}"]
        out[f"{b}attn.w_msa.relative_position_index"] = torch.zeros(1)
        for leaf in ("weight", "bias"):
            out[f"{b}attn.w_msa.qkv.{leaf}"] = join(
                *(f"{h}attention.self.{part}.{leaf}" for part in ("query", "key", "value"))
            )
        put(f"{b}ffn.layers.0.0", f"{h}intermediate.dense")
        put(f"{b}ffn.layers.1", f"{h}output.dense")
        for part in ("norm", "reduction"):
            put(f"backbone.stages.{i}.downsample.{part}",
                f"{e}encoder.layers.{i}.downsample.{part}", apart)  # fmt: skip
    for k in range(3):
        put(f"{p}pixel_decoder.input_convs.{k}.conv", f"{d}input_projections.{k}.0")
        put(f"{p}pixel_decoder.input_convs.{k}.gn", f"{d}input_projections.{k}.1")
        put(f"{p}mask_embed.{2 * k}", f"{t}decoder.mask_predictor.mask_embedder.{k}.0")
    for new, old in (("lateral_convs", "adapter_1"), ("output_convs", "layer_1")):
        put(f"{p}pixel_decoder.{new}.0.conv", f"{d}{old}.0")
        put(f"{p}pixel_decoder.{new}.0.gn", f"{d}{old}.1")
    out[f"{p}pixel_decoder.level_encoding.weight"] = names[f"{d}level_embed"]
    put(f"{p}pixel_decoder.mask_feature", f"{d}mask_projection")
    b, h = f"{p}pixel_decoder.encoder.layers.0.", f"{d}encoder.layers.0."
    for part in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
        put(f"{b}attentions.0.{part}", f"{h}self_attn.{part}")
    for new, old in (("ffns.0.layers.0.0", "fc1"), ("ffns.0.layers.1", "fc2"),
                     ("norms.0", "self_attn_layer_norm"),
                     ("norms.1", "final_layer_norm")):  # fmt: skip
        put(b + new, h + old)
    b, h = f"{p}transformer_decoder.layers.0.", f"{t}decoder.layers.0."
    for leaf in ("weight", "bias"):
        out[f"{b}attentions.0.attn.in_proj_{leaf}"] = names[f"{h}cross_attn.in_proj_{leaf}"]
        out[f"{b}attentions.1.attn.in_proj_{leaf}"] = join(
            *(f"{h}self_attn.{letter}_proj.{leaf}" for letter in "qkv")
        )
    for new, old in (("attentions.0.attn.out_proj", "cross_attn.out_proj"),
                     ("attentions.1.attn.out_proj", "self_attn.out_proj"),
                     ("ffns.0.layers.0.0", "fc1"), ("ffns.0.layers.1", "fc2"),
                     ("norms.0", "cross_attn_layer_norm"), ("norms.1", "self_attn_layer_norm"),
                     ("norms.2", "final_layer_norm")):  # fmt: skip
        put(b + new, h + old)
    put(f"{p}transformer_decoder.post_norm", f"{t}decoder.layernorm")
    for new, old in (("query_embed", "queries_embedder"), ("query_feat", "queries_features"),
                     ("level_embed", "level_embed")):  # fmt: skip
        put(p + new, t + old)
    put(f"{p}cls_embed", "class_predictor")
    return out


def open_clip_names(state):
    """Write open_clip's state dict of a CLIPModel's tensors, by the table of names."""
    out = {"logit_scale": state["logit_scale"]}
    for side, to in (("vision", "visual."), ("text", "")):
        model = f"{side}_model."
        for i in range(sum(n.startswith(model) and "layer_norm1.bias" in n for n in state)):
            h, b = f"{model}encoder.layers.{i}.", f"{to}transformer.resblocks.{i}."
            for leaf in ("weight", "bias"):
                out[f"{b}attn.in_proj_{leaf}"] = torch.cat(
                    [state[f"{h}self_attn.{letter}_proj.{leaf}"] for letter in "qkv"]
                )
                for new, old in (("attn.out_proj", "self_attn.out_proj"), ("ln_1", "layer_norm1"),
                                 ("ln_2", "layer_norm2"), ("mlp.c_fc", "mlp.fc1"),
                                 ("mlp.c_proj", "mlp.fc2")):  # fmt: skip
                    out[f"{b}{new}.{leaf}"] = state[f"{h}{old}.{leaf}"]
    look, read = "vision_model.embeddings.", "text_model.embeddings."
    out |= {"visual.conv1.weight": state[f"{look}patch_embedding.weight"],
            "visual.class_embedding": state[f"{look}class_embedding"],
            "visual.positional_embedding": state[f"{look}position_embedding.weight"],
            "visual.proj": state["visual_projection.weight"].T,
            "token_embedding.weight": state[f"{read}token_embedding.weight"],
            "positional_embedding": state[f"{read}position_embedding.weight"],
            "text_projection": state["text_projection.weight"].T,
            "attn_mask": torch.zeros(1)}  # fmt: skip
    for leaf in ("weight", "bias"):
        out[f"visual.ln_pre.{leaf}"] = state[f"vision_model.pre_layrnorm.{leaf}"]
        out[f"visual.ln_post.{leaf}"] = state[f"vision_model.post_layernorm.{leaf}"]
        out[f"ln_final.{leaf}"] = state[f"text_model.final_layer_norm.{leaf}"]
    return out


def test_names_of_open_clip_cover_the_whole_network(tiny_networks):
    state, _ = conversion.read_tensors(tiny_networks / "clip" / "model.safetensors")
    mine = renaming.from_open_clip(open_clip_names(state))
    assert {k: tuple(v.shape) for k, v in mine.items()} == {
        k: tuple(v.shape) for k, v in state.items()
    }
    assert all(torch.equal(mine[name], state[name]) for name in state)


def test_names_of_image_reward_cover_the_whole_network(tiny_networks):
    pytest.importorskip("transformers")
    with torch.device("meta"):
        network = ImageReward(None, text={"num_hidden_layers": 2},
                              vision={"num_hidden_layers": 2})  # fmt: skip
    released = {}
    turned = {"vision.embeddings.class_embedding": "blip.visual_encoder.cls_token",
              "vision.embeddings.position_embedding": "blip.visual_encoder.pos_embed"}  # fmt: skip
    for name, tensor in network.state_dict().items():
        old = turned.get(name) or name.replace("head.", "mlp.layers.").replace(
            "text.", "blip.text_encoder."
        ).replace("vision.embeddings.patch_embedding", "blip.visual_encoder.patch_embed.proj")
        old = old.replace("vision.encoder.layers.", "blip.visual_encoder.blocks.").replace(
            "vision.post_layernorm", "blip.visual_encoder.norm"
        )
        if "visual_encoder.blocks" in old:
            old = old.replace("self_attn.projection", "attn.proj").replace("self_attn", "attn")
            old = old.replace("layer_norm", "norm")
        released[old] = tensor
    released["blip.text_proj.weight"] = released["blip.vision_proj.bias"] = torch.zeros(1)
    mine = renaming.from_image_reward(released)
    assert {k: v.shape for k, v in mine.items()} == {
        k: v.shape for k, v in network.state_dict().items()
    }
    assert network.vision.config.layer_norm_eps == 1e-6
    assert network.text.config.layer_norm_eps == 1e-12


def test_image_rewards_head_is_one_affine_map(tiny_networks):
    network = collection.open_network("imagereward", tiny_networks)
    weight, bias = torch.eye(32), torch.zeros(32)
    for layer in network.head.values():
        weight, bias = layer.weight @ weight, layer.weight @ bias + layer.bias
    x = torch.randn(3, 32)
    y = x
    for layer in network.head.values():
        y = layer(y)
    assert torch.allclose(y, x @ weight.T + bias, atol=1e-5)
    scores = network.score(["a dog", "b"], [picture(40, 40), picture(40, 60)])
    assert scores.shape == (2,)
    assert scores.isfinite().all()


def test_a_networks_files_are_checked_and_named(tmp_path, tiny_networks):
    with pytest.raises(WeightsError, match=r"network hps is not in .*--fetch hps"):
        collection.open_network("hps", tmp_path)
    with pytest.raises(ValueError, match="no network 'inceptoin'; nearest: inception"):
        collection.open_network("inceptoin", tmp_path)
    name = published.NETWORKS["inception"].files[0].name
    torch.save(Inception(16).state_dict(), tmp_path / name)
    with pytest.raises(WeightsError, match="the published file begins with 6726825d"):
        collection.convert("inception", [tmp_path / name], tmp_path)
    with pytest.raises(WeightsError, match=r"needs the file .*pth, https://github"):
        collection.convert("inception", [], tmp_path)
    text = collection.table(tiny_networks)
    assert all(name in text for name in published.NETWORKS)
    assert "Apache-2.0" in text


def test_conversion_writes_a_folder_that_opens(tmp_path, tiny_networks, monkeypatch):
    pytest.importorskip("transformers")
    state, _ = conversion.read_tensors(tiny_networks / "clip" / "model.safetensors")
    weights = tmp_path / "HPS_v2.1_compressed.pt"
    torch.save({"epoch": 3, "state_dict": open_clip_names(state)}, weights)
    config = json.loads((tiny_networks / "clip" / "config.json").read_text())
    monkeypatch.setattr(conversion, "VIT_H", config)
    paths = {"HPS_v2.1_compressed.pt": weights}
    paths |= {p.name: p for p in (tiny_networks / "clip").glob("token*.json")}
    target = tmp_path / "hps"
    target.mkdir()
    conversion.hps(paths, target)
    one = collection.open_network("hps", tmp_path)
    other = collection.open_network("hps", tiny_networks)
    other.model.load_state_dict(state)
    x = picture(48, 48)
    assert torch.allclose(one.pictures([x]), other.pictures([x]), atol=1e-6)
    assert torch.allclose(one.texts(["a cat"]), other.texts(["a cat"]), atol=1e-6)


def test_downloads_and_hashes_show_bars_that_end(tmp_path, monkeypatch):
    bars = []

    class Bar(collection.tqdm):
        def __init__(self, *args, **options):
            super().__init__(*args, **{**options, "file": io.StringIO()})
            bars.append(self)

    monkeypatch.setattr(collection, "tqdm", Bar)
    content = np.random.default_rng(0).bytes(3 * 2**20 + 5)
    (tmp_path / "x.pth").write_bytes(content)
    file = published.File("x.pth", url=(tmp_path / "x.pth").as_uri())
    (tmp_path / "here").mkdir()
    path = collection._fetched(file, tmp_path / "here")
    assert path.read_bytes() == content
    found = collection._digests({"x": path, "y": tmp_path / "x.pth"}, "mine")
    assert set(found.values()) == {hashlib.sha256(content).hexdigest()}
    assert [bar.n for bar in bars] == [len(content), 2 * len(content)]
    assert bars[1].total == bars[1].n
    assert all(bar.delay == 2 for bar in bars)


def test_training_notes_with_numpy_numbers_open(tmp_path):
    path = tmp_path / "mmdet.pth"
    torch.save({"meta": {"epoch": np.float64(3)}, "state_dict": {
        "panoptic_head.cls_embed.bias": torch.zeros(2)}}, path)  # fmt: skip
    conversion.detector({"mmdet.pth": path}, tmp_path)
    assert list(conversion.read_tensors(tmp_path / "model.safetensors")[0]) == [
        "class_predictor.bias"
    ]


def test_weights_that_were_changed_after_conversion_are_refused(tmp_path):
    torch.manual_seed(0)
    files = published.NETWORKS["inception"].files
    torch.save(Inception(16).state_dict(), tmp_path / files[0].name)
    found = collection.digest_of_file(tmp_path / files[0].name)
    with pytest.MonkeyPatch.context() as patch:
        own = replace(published.NETWORKS["inception"], files=(replace(files[0], begins=found),))
        patch.setitem(published.NETWORKS, "inception", own)
        collection.convert("inception", [tmp_path / files[0].name], tmp_path)
    collection.check_files("inception", tmp_path)
    config = tmp_path / "inception" / "config.json"
    config.write_text('{"unit": 2}')
    with pytest.raises(WeightsError, match=r"config\.json has the SHA-256"):
        collection.open_network("inception", tmp_path)
    conversion.save(Inception(16).state_dict(), tmp_path / "inception", {"unit": 1})
    with pytest.raises(WeightsError, match=r"the converted one had .*--fetch inception"):
        collection.open_network("inception", tmp_path)


def test_networks_that_are_not_whole_are_refused(tiny_networks, tmp_path):
    """transformers would fill what is missing at random, and score with it."""
    pytest.importorskip("transformers")
    for name in ("clip", "hps", "dino", "detector", "imagereward"):
        shutil.copytree(tiny_networks / name, tmp_path / name)
        state, _ = conversion.read_tensors(tmp_path / name / "model.safetensors")
        lacking = next(
            n for n in state if n.endswith(("k_proj.weight", "key.weight", "qkv.weight"))
        )
        conversion.save({k: v for k, v in state.items() if k != lacking}, tmp_path / name, None)
        with pytest.raises(WeightsError, match=r"lack|miss"):
            collection.open_network(name, tmp_path)
    conversion.save({"x": torch.zeros(1)}, tmp_path / "clip", None)
    with pytest.raises(WeightsError, match=r"lack \d+ tensors of CLIPModel"):
        collection.open_network("clip", tmp_path)
    (tmp_path / "clip" / "model.safetensors").write_bytes(b"12345678{")
    with pytest.raises(WeightsError, match="cannot open the network in"):
        collection.open_network("clip", tmp_path)


@pytest.mark.parametrize("action", ["fetch", "convert"])
def test_the_command_opens_what_it_brings(action, tiny_networks, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    shutil.copytree(tiny_networks / "clip", tmp_path / "files")
    paths = [p for p in sorted((tmp_path / "files").iterdir()) if p.name != collection.SOURCE]
    clip = published.NETWORKS["clip"]
    files = tuple(published.File(path.name, "of/clip") for path in paths)
    monkeypatch.setitem(published.NETWORKS, "clip", replace(clip, files=files))
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "hf_hub_download", lambda repo, name: tmp_path / "files" / name)
    chosen = ["clip"] if action == "fetch" else ["clip", "--files", *map(str, paths)]

    def bring(place):
        status = main(["networks", "--networks", str(tmp_path / place), f"--{action}", *chosen])
        return status, capsys.readouterr().err

    assert bring("whole")[0] == 0
    collection.check_files("clip", tmp_path / "whole")
    state, _ = conversion.read_tensors(tmp_path / "files" / "model.safetensors")
    state.pop("visual_projection.weight")
    conversion.save(state, tmp_path / "files", None)
    status, error = bring("lacking")
    assert status == 2
    assert "lack 1 tensors of CLIPModel" in error


PRODUCTS = {"linear", "conv2d", "matmul", "bmm", "baddbmm", "einsum", "__matmul__",
            "scaled_dot_product_attention"}  # fmt: skip


class Watch(TorchFunctionMode):
    """Notes what the flags of reduced precision are wherever tensors are multiplied."""

    def __init__(self, *flags):
        super().__init__()
        self.flags, self.seen = flags, set()

    def now(self):
        return tuple(getattr(place, name) for place, name in self.flags)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in PRODUCTS:
            self.seen.add(self.now())
        return func(*args, **(kwargs or {}))


KINDS = {"allow_tf32": ("cudnn",), "fp32_precision": ("cudnn.conv", "mkldnn.matmul", "mkldnn.conv")}


@pytest.fixture(params=["allow_tf32", "fp32_precision", "set_float32_matmul_precision"])
def reduced(request):
    """Reduce precision by each of torch's names for it, and watch it; what full precision is."""
    new = hasattr(torch.backends.cuda.matmul, "fp32_precision")
    if request.param == "fp32_precision" and not new:
        pytest.skip("torch has the older names alone")
    name, full = ("fp32_precision", "ieee") if new else ("allow_tf32", False)
    places = [attrgetter(kind)(torch.backends) for kind in ("cuda.matmul", *KINDS[name])]
    watch = Watch(*((place, name) for place in places))
    before = watch.now()
    if request.param == "allow_tf32":
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    elif request.param == "fp32_precision":
        for place in places:
            place.fp32_precision = "tf32"
    else:
        torch.set_float32_matmul_precision("medium")
    assert watch.now() != before
    yield watch, watch.now(), (full,) * len(places)
    torch.set_float32_matmul_precision("highest")
    for place, value in zip(places, before):
        setattr(place, name, value)


def scorers(networks):
    """Functions of a picture that run the networks by every way that leads to one, by name."""
    names = ("lpips", "clip_i", "dino", "clip_score", "hps", "imagereward")
    for name in names:
        metric = METRICS[name]
        there = replace(metric, function=replace(metric.function, networks=str(networks)))
        yield name, lambda x, m=there: m.columns(x, x[::-1].copy(), item=Item("a ring", 0))
    item, where = Item(metadata()[0]["prompt"], 0), str(networks)
    yield "item judge", lambda x: ItemJudge(where)(item, x)
    yield "colors", lambda x: open_judge(where).colors("dog", [x])
    inception = collection.open_network("inception", networks)
    yield "inception", lambda x: inception(resizing.clean(x)[None])
    yield "local features", lambda x: local_features.sums(fv.load("tiny"), x)


def older():
    """What torch's oldest name for the precision of products says, or that it refuses to."""
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError as error:
        return str(error)


def test_every_network_computes_in_full_precision(reduced, tiny_networks, tmp_path):
    watch, on, off = reduced
    x, before = picture(64, 64), older()
    for name, score in scorers(tiny_networks):
        watch.seen.clear()
        with watch:
            score(x)
        assert watch.seen == {off}, name
        assert watch.now() == on, name
    for i in range(1, 5):
        Image.fromarray(x).save(tmp_path / f"{i}.webp")
    watch.seen.clear()
    with watch:
        known_answers.check("imagereward", known_answers.Inputs(tmp_path, networks=tiny_networks))
    assert watch.seen == {off}
    with pytest.raises(KeyError), exact():
        raise KeyError
    assert watch.now() == on
    assert older() == before


@pytest.mark.parametrize("lacking", range(4))
def test_a_network_that_is_copied_half_way_is_not_there(
    lacking, tiny_networks, tmp_path, monkeypatch
):
    paths = [p for p in sorted((tiny_networks / "clip").iterdir()) if p.suffix == ".json"]
    paths = [tiny_networks / "clip" / "model.safetensors", *paths]  # as published, weights first
    files = tuple(published.File(path.name, "of/clip") for path in paths)
    clip = replace(published.NETWORKS["clip"], files=files)
    monkeypatch.setitem(published.NETWORKS, "clip", clip)
    copied, whole = [], shutil.copyfile

    def copy(source, target):
        if len(copied) == lacking:
            target.write_bytes(source.read_bytes()[:90])
            raise KeyboardInterrupt
        copied.append(source)
        whole(source, target)

    monkeypatch.setattr(shutil, "copyfile", copy)
    with pytest.raises(KeyboardInterrupt):
        collection.convert("clip", paths, tmp_path)
    with pytest.raises(WeightsError, match=r"the network clip is not in .*--fetch clip"):
        collection.place("clip", tmp_path)
    assert sorted(p.name for p in (tmp_path / "clip").iterdir()) == [p.name for p in copied]
    monkeypatch.setattr(shutil, "copyfile", whole)
    collection.convert("clip", paths, tmp_path)
    collection.open_network("clip", tmp_path)


@pytest.mark.parametrize("name", sorted(published.NETWORKS))
def test_weights_are_the_last_that_is_written_of_a_network(name, tmp_path, monkeypatch):
    network = published.NETWORKS[name]
    paths = {file.name: tmp_path / file.name for file in network.files}
    for path in paths.values():
        path.write_text("{}")
    monkeypatch.setattr(conversion, "read_released", lambda path: {"x": torch.zeros(1)})
    for rename in ("from_alexnet", "from_open_clip", "from_image_reward", "from_mmdet"):
        monkeypatch.setattr(renaming, rename, lambda state, *heads: state)
    (target := tmp_path / "target").mkdir()
    order = []

    def noting(partial, path, real=os.replace):
        order.append(path.name)
        real(partial, path)

    monkeypatch.setattr(os, "replace", noting)
    network.convert(paths, target)
    assert order[-1] == "model.safetensors"
    assert sorted(order) == sorted(path.name for path in target.iterdir())


@pytest.mark.parametrize("name", ["clip", "imagereward"])
def test_tokenizers_are_needed_and_decide_scores(name, tiny_networks, tmp_path):
    pytest.importorskip("transformers")
    shutil.copytree(tiny_networks / name, place := tmp_path / name)
    before = collection.fingerprint(name, tmp_path)
    text = (place / "tokenizer.json").read_text()
    (place / "tokenizer.json").write_text(
        text.replace('"a": 1,', '"a": 2,').replace('"b": 2,', '"b": 1,')
    )
    assert collection.fingerprint(name, tmp_path) != before
    (place / "tokenizer.json").write_text("{")
    with pytest.raises(WeightsError, match="cannot open the network in"):
        collection.open_network(name, tmp_path)
    (place / "tokenizer.json").unlink()
    with pytest.raises(WeightsError, match=r"holds no tokenizer: one of tokenizer\.json"):
        collection.open_network(name, tmp_path)


def test_every_network_can_be_timed_without_its_file():
    assert list(throughput.BUILDERS) == list(published.NETWORKS)
    speeds = throughput.measure(["dino", "lpips"], batch=1, side=64, repeats=1)
    assert [round(s.parameters / 1e6) for s in speeds] == [22, 2]
    assert all(s.pictures_per_second > 0 for s in speeds)
    assert "threads, random weights" in throughput.table(speeds)
    with pytest.raises(ValueError, match="no network 'dyno'; nearest: dino"):
        throughput.measure(["dyno"])


def test_resizes_of_pytorch_fid_and_torchmetrics():
    x = picture(40, 56)
    plain = torch.from_numpy(x.transpose(2, 0, 1).copy()).float()[None]
    half = interpolate(plain, (9, 9), mode="bilinear")[0]
    # the network's (x - 128) / 128 of it is pytorch-fid's 2x - 1
    assert torch.allclose((resizing.half_pixel(x, 9) - 128) / 128, half / 255 * 2 - 1, atol=1e-5)
    assert torch.equal(
        resizing.antialias(x, 9), interpolate(plain, (9, 9), mode="bilinear", antialias=True)[0]
    )
