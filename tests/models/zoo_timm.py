"""Small models of every family of timm that fits: architecture, (rows, columns) of its input, settings."""

from collections.abc import Callable
from typing import Any

from torch import nn

Factory = Callable[[], tuple[nn.Module, tuple[int, int]]]

NARROW = {"embed_dim": 48, "depth": 3, "num_heads": 3}
SHALLOW = {"depth": 3}

ZOO: dict[str, tuple[int, dict[str, Any]]] = {
    # transformers of one width
    "beit_base_patch16_224": (64, NARROW),
    "cait_xxs24_224": (64, SHALLOW),
    "deit3_small_patch16_224": (64, NARROW),
    "eva02_tiny_patch14_224": (70, SHALLOW),
    "vit_small_patch16_dinov3": (64, NARROW),
    "vit_tiny_patch16_224": (64, SHALLOW),
    "vit_base_patch16_clip_224": (64, NARROW),
    "vit_base_patch16_siglip_224": (64, NARROW),
    "vit_medium_patch16_gap_240": (48, NARROW),
    "vit_small_patch14_reg4_dinov2": (70, NARROW),
    "vit_giant_patch14_reg4_dinov2": (42, {**NARROW, "mlp_ratio": 2.66667 * 2}),
    "vit_relpos_base_patch16_clsgap_224": (64, NARROW),
    "vit_base_patch16_xp_224": (64, NARROW),
    "vit_small_patch16_18x2_224": (64, NARROW),
    "test_vit": (64, {}),
    "test_vit_relpos": (64, {}),
    "samvit_base_patch16_224": (64, {**NARROW, "global_attn_indexes": (1,)}),
    "vit_tiny_r_s16_p8_224": (64, SHALLOW),
    "volo_d1_224": (64, {}),
    "xcit_nano_12_p8_224": (64, SHALLOW),
    "crossvit_tiny_240": (120, {}),
    "tnt_s_patch16_224": (64, {"depth": 3}),
    "naflexvit_base_patch16_gap": (64, NARROW),
    # transformers in stages
    "davit_tiny": (64, {"depths": (1, 1, 2, 1), "embed_dims": (24, 48, 96, 192)}),
    "gcvit_xxtiny": (64, {}),
    "hiera_tiny_224": (64, {"embed_dim": 24}),
    "levit_128s": (64, {}),
    "mvitv2_tiny": (64, {}),
    "nest_tiny": (64, {}),
    "pvt_v2_b0": (64, {"depths": (1, 1, 1, 1)}),
    "pvt_v2_b2_li": (64, {"depths": (1, 1, 1, 1), "embed_dims": (16, 32, 40, 64)}),
    "swinv2_tiny_window8_256": (64, {"depths": (2, 2, 2, 2), "embed_dim": 24}),
    "swinv2_cr_tiny_224": (64, {"depths": (2, 2, 2, 2), "embed_dim": 24}),
    "tiny_vit_5m_224": (64, {"depths": (1, 1, 2, 1)}),
    "visformer_tiny": (64, {"depth": (1, 1, 1)}),
    # with convolutions
    "coatnet_pico_rw_224": (64, {}),
    "edgenext_xx_small": (64, {}),
    "efficientformer_l1": (224, {"depths": (1, 1, 1, 2)}),
    "efficientformerv2_s0": (64, {}),
    "efficientvit_b0": (64, {}),
    "efficientvit_m0": (64, {}),
    "fastvit_t8": (64, {}),
    "iformer_t": (64, {}),
    "lowformer_b0": (128, {}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "repvit_m1": (64, {}),
    "shvit_s1": (64, {}),
    "swiftformer_xs": (64, {}),
    "vitamin_small_224": (64, {}),
    "cpubone_nano": (64, {}),
    "csatv2": (64, {}),
    "mobilenetv4_hybrid_medium": (64, {}),
    # mixing without attention
    "mixer_s32_224": (96, {}),
    "resmlp_12_224": (64, {}),
    "gmlp_ti16_224": (64, {}),
    "poolformer_s12": (64, {}),
    "focalnet_tiny_srf": (64, {}),
    "sequencer2d_s": (56, {"layers": (1, 1, 2, 1)}),
    "test_mambaout": (64, {}),
    "convmixer_768_32": (64, {}),
    # convolutions alone
    "convnext_atto": (64, {"depths": (1, 1, 2, 1)}),
    "convnextv2_atto": (64, {"depths": (1, 1, 2, 1)}),
    "cs3darknet_focus_s": (64, {}),
    "densenet121": (64, {"block_config": (2, 2, 2, 2)}),
    "dpn48b": (64, {}),
    "efficientnet_b0": (64, {}),
    "tf_efficientnetv2_b0": (64, {}),
    "fasternet_t0": (64, {}),
    "ghostnet_050": (64, {}),
    "hgnetv2_b0": (64, {}),
    "hrnet_w18_small": (64, {}),
    "inception_next_atto": (64, {}),
    "inception_v3": (96, {}),
    "lcnetv2_small": (64, {}),
    "mobilenetv3_small_050": (64, {}),
    "rdnet_tiny": (64, {"num_blocks_list": (1, 1, 1, 1, 1, 1, 1)}),
    "regnetx_002": (64, {}),
    "regnety_002": (64, {}),
    "repghostnet_050": (64, {}),
    "res2next50": (64, {"layers": (1, 1, 1, 1)}),
    "resnest14d": (64, {}),
    "resnet10t": (64, {}),
    "resnet26": (64, {"layers": (1, 2, 1, 1)}),
    "resnetv2_18": (64, {"layers": (1, 2, 1, 1)}),
    "rexnet_100": (64, {}),
    "selecsls42": (64, {}),
    "legacy_seresnet18": (64, {"layers": (1, 2, 1, 1)}),
    "skresnet18": (64, {"layers": (1, 2, 1, 1)}),
    "starnet_s050": (64, {}),
    "tresnet_m": (64, {"layers": (1, 1, 1, 1)}),
    "vgg11_bn": (64, {"mlp_ratio": 0.05}),
    "ese_vovnet19b_slim_dw": (64, {}),
    "xception41p": (64, {}),
}
"""Architecture -> the side of its square input in pixels, and settings that make it small."""


def models() -> dict[str, Factory]:
    """Name -> a function that gives a model with random weights, in eval mode, and its (rows, columns)."""
    return {name: lambda name=name: model(name) for name in ZOO}


def model(name: str) -> tuple[nn.Module, tuple[int, int]]:
    import timm
    from timm.models.convmixer import ConvMixer

    size, settings = ZOO[name]
    facts = {"num_classes": 10, **settings}
    if name.startswith("convmixer"):  # by its name it has 32 blocks, and takes no other number
        return ConvMixer(dim=48, depth=4, kernel_size=7, patch_size=7, **facts).eval(), (size, size)
    try:
        module = timm.create_model(name, img_size=size, **facts)
    except TypeError:  # its input may have any size
        module = timm.create_model(name, **facts)
    return module.eval(), (size, size)
