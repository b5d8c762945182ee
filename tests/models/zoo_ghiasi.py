"""The models of Ghiasi et al. 2022 by their names in timm: the 38 of the appendix, ViT and CLIP."""

DEIT = [
    "deit_base_patch16_224.fb_in1k",
    "deit_base_distilled_patch16_384.fb_in1k",
    "deit_base_patch16_384.fb_in1k",
    "deit_tiny_distilled_patch16_224.fb_in1k",
    "deit_small_distilled_patch16_224.fb_in1k",
    "deit_base_distilled_patch16_224.fb_in1k",
]
COAT = [
    "coat_lite_mini.in1k",
    "coat_lite_small.in1k",
    "coat_lite_tiny.in1k",
    "coat_mini.in1k",
    "coat_tiny.in1k",
]
CONVIT = ["convit_base.fb_in1k", "convit_small.fb_in1k", "convit_tiny.fb_in1k"]
PIT = [f"pit_{size}{kind}_224.in1k" for kind in ("", "_distilled") for size in ("b", "s", "ti", "xs")]
SWIN = [
    *(
        f"swin_{size}_patch4_window{window}.{tag}"
        for size in ("base", "large")
        for window in ("7_224", "12_384")
        for tag in ("ms_in22k_ft_in1k", "ms_in22k")
    ),
    "swin_small_patch4_window7_224.ms_in1k",
    "swin_tiny_patch4_window7_224.ms_in1k",
]
TWINS = [f"twins_{kind}_{size}.in1k" for kind in ("pcpvt", "svt") for size in ("small", "base", "large")]
APPENDIX = [*DEIT, *COAT, *CONVIT, *PIT, *SWIN, *TWINS]
"""The 38 models of the appendix."""
VIT = [
    "vit_base_patch16_384.orig_in21k_ft_in1k",
    "vit_large_patch32_384.orig_in21k_ft_in1k",
    "vit_base_patch32_384.augreg_in21k_ft_in1k",
    "vit_large_patch16_384.augreg_in21k_ft_in1k",
    "vit_base_patch16_224.orig_in21k",
    "vit_base_patch32_224.orig_in21k",
    "vit_large_patch32_224.orig_in21k",
    "vit_large_patch16_224.orig_in21k",
]
"""The plain ones; two have no original weights in timm, so the nearest stand in."""
CLIP = ["vit_base_patch32_clip_224.openai", "vit_base_patch16_clip_224.openai"]

SMALL = {
    "deit_tiny_distilled_patch16_224.fb_in1k": 64,
    "coat_lite_mini.in1k": 64,
    "coat_lite_tiny.in1k": 64,
    "coat_mini.in1k": 64,
    "coat_tiny.in1k": 64,
    "convit_tiny.fb_in1k": 64,
    "pit_ti_224.in1k": 64,
    "pit_xs_224.in1k": 64,
    "pit_ti_distilled_224.in1k": 64,
    "pit_xs_distilled_224.in1k": 64,
    "swin_tiny_patch4_window7_224.ms_in1k": 112,
    "twins_pcpvt_small.in1k": 64,
    "twins_svt_small.in1k": 128,
}
"""Those that pass the full contract -> the side of their input here, in pixels."""

LARGE = [name for name in (*APPENDIX, *VIT, *CLIP) if name not in SMALL]
"""Those whose structure alone is checked."""
SIDES = {"swin": 112, "twins": 64, "384": 96}
"""What part of a name -> the side of the input on the meta device; else 64 pixels. Structure is the same."""


def side(name: str) -> int:
    """The side of the input of a large model on the meta device."""
    if "window12" in name:
        return 192
    return next((size for part, size in SIDES.items() if part in name), 64)
