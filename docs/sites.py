"""Writes the tables of docs/sites.md: which semantic sites every family of models has.

`python docs/sites.py` builds one model of each family without weights, and finds its sites.
"""

from __future__ import annotations

import re
from pathlib import Path

import timm
import torch
import torchvision

from vitscope.models.sites import Found, find_sites

PAGE = Path(__file__).parent / "sites.md"
FAMILIES = {
    "ViT, DeiT": "vit_tiny_patch16_224",
    "DeiT, distilled": "deit_tiny_distilled_patch16_224",
    "ViT, fused parallel": "vit_base_patch16_xp_224",
    "ViT, 2 x parallel": "vit_small_patch16_18x2_224",
    "ViT with registers": "vit_small_patch14_reg4_dinov2",
    "CLIP (timm)": "vit_base_patch32_clip_224",
    "BEiT": "beit_base_patch16_224",
    "EVA: RoPE, SwiGLU": "eva02_tiny_patch14_224",
    "DINOv3": "vit_small_patch16_dinov3",
    "CaiT": "cait_xxs24_224",
    "XCiT": "xcit_nano_12_p16_224",
    "ConViT": "convit_tiny",
    "PiT": "pit_ti_224",
    "CoaT": "coat_tiny",
    "CoaT-Lite": "coat_lite_tiny",
    "CrossViT": "crossvit_tiny_240",
    "LeViT": "levit_128s",
    "Swin": "swin_tiny_patch4_window7_224",
    "Swin v2": "swinv2_cr_tiny_224",
    "Twins-SVT": "twins_svt_small",
    "Twins-PCPVT": "twins_pcpvt_small",
    "PVT v2": "pvt_v2_b0",
    "MViT v2": "mvitv2_tiny",
    "Hiera": "hiera_tiny_224",
    "NesT": "nest_tiny",
    "DaViT": "davit_tiny",
    "MaxViT": "maxvit_nano_rw_256",
    "CoAtNet": "coatnet_nano_rw_224",
    "MobileViT": "mobilevit_xxs",
    "EfficientFormer": "efficientformer_l1",
    "EfficientViT (MIT)": "efficientvit_b0",
    "EfficientViT (MSRA)": "efficientvit_m0",
    "SHViT": "shvit_s1",
    "SwiftFormer": "swiftformer_xs",
    "MobileNet v4, hybrid": "mobilenetv4_hybrid_medium",
    "PoolFormer": "poolformer_s12",
    "CAFormer": "caformer_s18",
    "MLP-Mixer": "mixer_s32_224",
    "ResMLP": "resmlp_12_224",
    "gMLP": "gmlp_ti16_224",
    "ConvMixer": "convmixer_768_32",
    "ConvNeXt": "convnext_atto",
    "ResNet": "resnet18",
    "ResNeXt": "resnext50_32x4d",
    "RegNet": "regnety_002",
    "EfficientNet": "efficientnet_b0",
    "EfficientNet v2": "tf_efficientnetv2_b0",
    "MobileNet v2": "mobilenetv2_100",
    "MobileNet v3": "mobilenetv3_small_050",
    "DenseNet": "densenet121",
    "VGG": "vgg11",
    "HRNet": "hrnet_w18_small",
    "ViT (torchvision)": "tv:vit_b_32",
}
"""Family -> the model that stands for it: the smallest of its kind."""
COLUMNS = {
    "attn": r"blocks\.\d+\.attn",
    "q k v": r"blocks\.\d+\.attn\.v",
    "heads": r"blocks\.\d+\.attn\.heads",
    "pattern": r"blocks\.\d+\.attn\.pattern",
    "mix": r"blocks\.\d+\.mix",
    "norms": r"blocks\.\d+\.norm[12]",
    "ffn": r"(blocks|stages)\.[\d.]+\.ffn",
    "mlp": r"blocks\.\d+\.mlp",
    "branch": r"stages\.\d+\.\d+\.branch",
    "norm": r"norm",
    "pooled": r"pooled",
}
"""Heading -> the names it stands for."""


def sites_of(name: str) -> Found:
    """The sites of a model without weights."""
    prefix, _, rest = name.rpartition(":")
    with torch.device("meta"):
        module = torchvision.models.get_model(rest) if prefix else timm.create_model(rest)
    size = getattr(module, "default_cfg", {"input_size": (3, 224, 224)})["input_size"]
    return find_sites(module.eval(), torch.empty(2, *size, device="meta"))


def row(family: str, name: str) -> str:
    """One row of the table."""
    sites = sites_of(name).sites
    blocks, stages = (
        len([site for site in sites if re.fullmatch(rule, site.name)])
        for rule in (r"blocks\.\d+", r"stages\.\d+\.\d+")
    )
    cells = [family, f"`{name}`", str(blocks or ""), str(stages or "")]
    for heading, rule in COLUMNS.items():
        found = [site for site in sites if re.fullmatch(rule, site.name)]
        sign = "recomputed" if heading == "pattern" and any(site.recomputed for site in found) else "yes"
        short = len(found) < blocks if heading in ("attn", "q k v", "heads", "pattern") else False
        cells.append((f"{sign} ({len(found)})" if short else sign) if found else "")
    return "| " + " | ".join(cells) + " |"


def table() -> str:
    """The whole table."""
    head = ["family", "model", "blocks.i", "stages.s.b", *COLUMNS]
    rows = [row(family, name) for family, name in FAMILIES.items()]
    return "\n".join(["| " + " | ".join(head) + " |", "|" + " --- |" * len(head), *rows])


def written(page: str, found: str) -> str:
    """The page with that table in place of the one it has."""
    return re.sub(r"(?s)(<!-- families -->\n).*(\n<!-- end -->)", lambda m: m[1] + found + m[2], page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(), table()))
