"""Names of released weights, turned into those of the networks that are built here.

Three sources: open_clip (HPSv2.1), mmdetection 2.x (GenEval's detector), ImageReward. Every map is
a list of patterns; what no pattern matches is an error, so that another file is noticed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from fastvar_lab.errors import WeightsError, short

Rules = Sequence[tuple[str, str]]


def renamed(name: str, rules: Rules) -> str:
    """Apply the first rule whose pattern matches all of a name; raise WeightsError without one.

    >>> renamed("visual.ln_pre.bias", OPEN_CLIP)
    'vision_model.pre_layrnorm.bias'
    """
    for pattern, replacement in rules:
        match = re.fullmatch(pattern, name)
        if match:
            return match.expand(replacement)
    raise WeightsError(f"the weights hold {short(name)}, which this network does not have")


_LEAF = r"(weight|bias)"
_LAYER = r"encoder.layers.\1"
OPEN_CLIP: Rules = [
    (r"visual\.conv1\.weight", "vision_model.embeddings.patch_embedding.weight"),
    (r"visual\.class_embedding", "vision_model.embeddings.class_embedding"),
    (r"visual\.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
    (rf"visual\.ln_pre\.{_LEAF}", r"vision_model.pre_layrnorm.\1"),  # spelt so in transformers
    (rf"visual\.ln_post\.{_LEAF}", r"vision_model.post_layernorm.\1"),
    (r"visual\.proj", "visual_projection.weight"),
    (r"text_projection", "text_projection.weight"),
    (r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (rf"ln_final\.{_LEAF}", r"text_model.final_layer_norm.\1"),
    (r"logit_scale", "logit_scale"),
]
_CLIP_LAYER: Rules = [
    (rf"(\d+)\.attn\.out_proj\.{_LEAF}", rf"{_LAYER}.self_attn.out_proj.\2"),
    (rf"(\d+)\.ln_([12])\.{_LEAF}", rf"{_LAYER}.layer_norm\2.\3"),
    (rf"(\d+)\.mlp\.c_fc\.{_LEAF}", rf"{_LAYER}.mlp.fc1.\2"),
    (rf"(\d+)\.mlp\.c_proj\.{_LEAF}", rf"{_LAYER}.mlp.fc2.\2"),
]


def from_open_clip(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn a state dict of open_clip into one of transformers' CLIPModel."""
    result = dict[str, Tensor]()
    for name, tensor in tensors.items():
        if name.endswith("attn_mask"):  # a buffer of older versions
            continue
        block = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(.+)", name)
        if block is None:
            turned = name in ("visual.proj", "text_projection")
            result[renamed(name, OPEN_CLIP)] = tensor.T.contiguous() if turned else tensor
            continue
        part = "vision_model" if block[1] else "text_model"
        fused = re.fullmatch(rf"(\d+)\.attn\.in_proj_{_LEAF}", block[2])
        if fused is None:
            result[f"{part}.{renamed(block[2], _CLIP_LAYER)}"] = tensor
            continue
        for letter, third in zip("qkv", tensor.chunk(3)):
            result[f"{part}.encoder.layers.{fused[1]}.self_attn.{letter}_proj.{fused[2]}"] = third
    return result


_ENCODER, _DECODER = "model.pixel_level_module.encoder.", "model.pixel_level_module.decoder."
_TRANSFORMER = "model.transformer_module."
_PIXEL, _QUERY = r"panoptic_head\.pixel_decoder\.", r"panoptic_head\.transformer_decoder\."
_SWIN, _DEEP = r"backbone\.stages\.(\d)\.blocks\.(\d+)\.", rf"{_PIXEL}encoder\.layers\.(\d)\."
_SWIN_TO, _DEEP_TO = rf"{_ENCODER}encoder.layers.\1.blocks.\2.", rf"{_DECODER}encoder.layers.\1."
_QLAYER, _QLAYER_TO = rf"{_QUERY}layers\.(\d)\.", rf"{_TRANSFORMER}decoder.layers.\1."
_MASKS = rf"{_TRANSFORMER}decoder.mask_predictor.mask_embedder."
_STAGE_NORM = rf"{_ENCODER}hidden_states_norms.stage"
MMDET: Rules = [
    (
        rf"backbone\.patch_embed\.projection\.{_LEAF}",
        rf"{_ENCODER}embeddings.patch_embeddings.projection.\1",
    ),
    (rf"backbone\.patch_embed\.norm\.{_LEAF}", rf"{_ENCODER}embeddings.norm.\1"),
    (rf"{_SWIN}norm1\.{_LEAF}", rf"{_SWIN_TO}layernorm_before.\3"),
    (rf"{_SWIN}norm2\.{_LEAF}", rf"{_SWIN_TO}layernorm_after.\3"),
    (rf"{_SWIN}attn\.w_msa\.proj\.{_LEAF}", rf"{_SWIN_TO}attention.output.dense.\3"),
    (
        rf"{_SWIN}attn\.w_msa\.(relative_position_bias_table)",
        rf"{_SWIN_TO}attention.self.\3",
    ),
    (rf"{_SWIN}ffn\.layers\.0\.0\.{_LEAF}", rf"{_SWIN_TO}intermediate.dense.\3"),
    (rf"{_SWIN}ffn\.layers\.1\.{_LEAF}", rf"{_SWIN_TO}output.dense.\3"),
    (
        r"backbone\.stages\.(\d)\.downsample\.(norm|reduction)\.(weight|bias)",
        rf"{_ENCODER}encoder.layers.\1.downsample.\2.\3",
    ),
    *((rf"backbone\.norm{i}\.{_LEAF}", rf"{_STAGE_NORM}{i + 1}.\1") for i in range(4)),
    (rf"{_PIXEL}input_convs\.(\d)\.conv\.{_LEAF}", rf"{_DECODER}input_projections.\1.0.\2"),
    (rf"{_PIXEL}input_convs\.(\d)\.gn\.{_LEAF}", rf"{_DECODER}input_projections.\1.1.\2"),
    (rf"{_PIXEL}lateral_convs\.0\.conv\.{_LEAF}", rf"{_DECODER}adapter_1.0.\1"),
    (rf"{_PIXEL}lateral_convs\.0\.gn\.{_LEAF}", rf"{_DECODER}adapter_1.1.\1"),
    (rf"{_PIXEL}output_convs\.0\.conv\.{_LEAF}", rf"{_DECODER}layer_1.0.\1"),
    (rf"{_PIXEL}output_convs\.0\.gn\.{_LEAF}", rf"{_DECODER}layer_1.1.\1"),
    (rf"{_PIXEL}level_encoding\.weight", rf"{_DECODER}level_embed"),
    (rf"{_PIXEL}mask_feature\.{_LEAF}", rf"{_DECODER}mask_projection.\1"),
    (rf"{_DEEP}attentions\.0\.(\w+)\.{_LEAF}", rf"{_DEEP_TO}self_attn.\2.\3"),
    (rf"{_DEEP}ffns\.0\.layers\.0\.0\.{_LEAF}", rf"{_DEEP_TO}fc1.\2"),
    (rf"{_DEEP}ffns\.0\.layers\.1\.{_LEAF}", rf"{_DEEP_TO}fc2.\2"),
    (rf"{_DEEP}norms\.0\.{_LEAF}", rf"{_DEEP_TO}self_attn_layer_norm.\2"),
    (rf"{_DEEP}norms\.1\.{_LEAF}", rf"{_DEEP_TO}final_layer_norm.\2"),
    (
        rf"{_QLAYER}attentions\.0\.attn\.(in_proj_\w+|out_proj\.\w+)",
        rf"{_QLAYER_TO}cross_attn.\2",
    ),
    (rf"{_QLAYER}attentions\.1\.attn\.out_proj\.{_LEAF}", rf"{_QLAYER_TO}self_attn.out_proj.\2"),
    (rf"{_QLAYER}ffns\.0\.layers\.0\.0\.{_LEAF}", rf"{_QLAYER_TO}fc1.\2"),
    (rf"{_QLAYER}ffns\.0\.layers\.1\.{_LEAF}", rf"{_QLAYER_TO}fc2.\2"),
    (rf"{_QLAYER}norms\.0\.{_LEAF}", rf"{_QLAYER_TO}cross_attn_layer_norm.\2"),
    (rf"{_QLAYER}norms\.1\.{_LEAF}", rf"{_QLAYER_TO}self_attn_layer_norm.\2"),
    (rf"{_QLAYER}norms\.2\.{_LEAF}", rf"{_QLAYER_TO}final_layer_norm.\2"),
    (rf"{_QUERY}post_norm\.{_LEAF}", rf"{_TRANSFORMER}decoder.layernorm.\1"),
    *((rf"panoptic_head\.mask_embed\.{2 * i}\.{_LEAF}", rf"{_MASKS}{i}.0.\1") for i in range(3)),
    (r"panoptic_head\.query_embed\.weight", f"{_TRANSFORMER}queries_embedder.weight"),
    (r"panoptic_head\.query_feat\.weight", f"{_TRANSFORMER}queries_features.weight"),
    (r"panoptic_head\.level_embed\.weight", f"{_TRANSFORMER}level_embed.weight"),
    (rf"panoptic_head\.cls_embed\.{_LEAF}", r"class_predictor.\1"),
]


def from_mmdet(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn a state dict of mmdetection's Mask2Former into one of transformers, names of 4.x.

    Files with these names open in every version by `from_pretrained`.
    """
    result = dict[str, Tensor]()
    for name, tensor in tensors.items():
        if name.endswith("relative_position_index") or ".loss_" in name:
            continue
        if ".downsample." in name:
            tensor = _neighbours_together(tensor)
        thirds = list(_thirds(name))
        if thirds:
            result |= dict(zip(thirds, tensor.chunk(3)))
        else:
            result[renamed(name, MMDET)] = tensor
    return result


def _thirds(name: str) -> Iterator[str]:
    """Return the names of query, key and value of a fused projection; none for other names."""
    swin = re.fullmatch(rf"{_SWIN}attn\.w_msa\.qkv\.{_LEAF}", name)
    query = re.fullmatch(rf"{_QLAYER}attentions\.1\.attn\.in_proj_{_LEAF}", name)
    if swin:
        for part in ("query", "key", "value"):
            yield swin.expand(rf"{_SWIN_TO}attention.self.{part}.\3")
    elif query:
        for letter in "qkv":
            yield query.expand(rf"{_QLAYER_TO}self_attn.{letter}_proj.\2")


def _neighbours_together(tensor: Tensor) -> Tensor:
    """Reorder the last axis (4C) of a patch merging: mmdetection takes a pixel's channels apart.

    There, channels come first and neighbours go down, then right; in Swin neighbours come first.
    """
    *rows, width = tensor.shape
    parts = tensor.reshape(*rows, width // 4, 4)[..., [0, 2, 1, 3]]
    return parts.transpose(-1, -2).reshape(tensor.shape).contiguous()


_BLIP_BLOCK = r"blip\.visual_encoder\.blocks\.(\d+)\."
IMAGE_REWARD: Rules = [
    (r"blip\.visual_encoder\.cls_token", "vision.embeddings.class_embedding"),
    (r"blip\.visual_encoder\.pos_embed", "vision.embeddings.position_embedding"),
    (
        rf"blip\.visual_encoder\.patch_embed\.proj\.{_LEAF}",
        r"vision.embeddings.patch_embedding.\1",
    ),
    (rf"{_BLIP_BLOCK}attn\.qkv\.{_LEAF}", r"vision.encoder.layers.\1.self_attn.qkv.\2"),
    (rf"{_BLIP_BLOCK}attn\.proj\.{_LEAF}", r"vision.encoder.layers.\1.self_attn.projection.\2"),
    (rf"{_BLIP_BLOCK}norm([12])\.{_LEAF}", r"vision.encoder.layers.\1.layer_norm\2.\3"),
    (rf"{_BLIP_BLOCK}mlp\.(fc[12])\.{_LEAF}", r"vision.encoder.layers.\1.mlp.\2.\3"),
    (rf"blip\.visual_encoder\.norm\.{_LEAF}", r"vision.post_layernorm.\1"),
    (r"blip\.text_encoder\.(.+)", r"text.\1"),
    (rf"mlp\.layers\.(\d)\.{_LEAF}", r"head.\1.\2"),
]


def from_image_reward(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Turn ImageReward's state dict into one of `ImageReward` here."""
    unread = re.compile(r"blip\.(vision_proj|text_proj|text_encoder\.embeddings\.position_ids).*")
    kept = {name: tensor for name, tensor in tensors.items() if not unread.fullmatch(name)}
    return {renamed(name, IMAGE_REWARD): tensor for name, tensor in kept.items()}


def from_alexnet(tensors: Mapping[str, Tensor], heads: Sequence[Tensor]) -> dict[str, Tensor]:
    """Join torchvision's AlexNet and the weights of LPIPS's five layers, (1, C, 1, 1) each."""
    features = {name: t for name, t in tensors.items() if name.startswith("features.")}
    return {**features, **{f"heads.{i}": torch.as_tensor(h).flatten() for i, h in enumerate(heads)}}
