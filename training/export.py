"""What a finished run leaves: float16 weights, measured after being read back, and a model card."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from dataset import Replacing, Split, console, scaled, topk
from fitting import Run
from safetensors.torch import save_file
from torch import Tensor, nn

from vitscope.models import bundled

CARD = """# {name}

{architecture}.

{parameters:,} parameters, 64 x 64 images, 200 classes. `{name}.safetensors` is float16 ({size:.1f} MB) and
was measured after being read back, in float32.

| | |
|---|---|
| top-1 on the {images:,} validation images of Tiny-ImageNet | {top1:.2%} |
| top-5 on the same | {top5:.2%} |
| training data | {data} |
| teacher | {teacher} |
| input | 64 x 64 pixels (bicubic, no crop), mean 0.5 and std 0.5 in every channel |
| training time | {wall:.0f} min, {cpu:.0f} CPU min, on {device}; the teacher's outputs not counted |

## Recipe

{recipe}

AdamW in float32 with bfloat16 arithmetic, gradients clipped to a norm of 1, linear warm-up, then a cosine to
zero. Images are randomly cropped, mirrored, recoloured and, where `mixup` is not 0, mixed. The loss is
(1 - `distill`) x the cross-entropy to the smoothed labels + `distill` x the cross-entropy to the teacher's
probabilities, which were computed once per image, without augmentation; nothing else of the teacher was used.
A ViT does not see a share of `drop_patches` of the patches until the last `whole` epochs. The weights are
those after the last epoch. `training/train.py {name}` with the same teacher repeats it.

## What it is for

Demonstrations, tests and teaching: a model that needs no download. It is far from the state of the art.

## Licence

The weights are ours, under Apache-2.0. They were trained on images derived from ImageNet, whose terms are for
non-commercial research: check them before any commercial use.
"""

ARCHITECTURES = {
    "vit_mini": "A vision transformer (timm `VisionTransformer`): patch 8, width 192, 6 blocks, 3 heads",
    "cnn_mini": "A residual network (timm `ResNet`): basic blocks 1-2-2-1, channels 32-64-128-256",
}


@torch.inference_mode()
def evaluate(model: nn.Module, split: Split, *, device: torch.device) -> tuple[float, float]:
    """Top-1 and top-5 accuracy, in float32."""
    model = model.eval().to(device)
    logits = [model(scaled(batch.to(device))).cpu() for batch in torch.split(split.images, 250)]
    return tuple(topk(torch.cat(logits), split.labels, k=k) for k in (1, 5))  # type: ignore[return-value]


def halved(model: nn.Module) -> dict[str, Tensor]:
    """The state of a model on the CPU, the floating tensors as float16."""
    state = {key: value.cpu().contiguous() for key, value in model.state_dict().items()}
    return {key: value.half() if value.is_floating_point() else value for key, value in state.items()}


def measure(name: str, weights: Path, val: Split, *, device: torch.device) -> dict[str, float]:
    """The accuracy of a model read from its exported file."""
    model = bundled.build(name)
    model.load_state_dict(bundled.read_state(weights))
    top1, top5 = evaluate(model, val, device=device)
    return {"top1": top1, "top5": top5}


def export(run: Run, val: Split, *, out: Path, data: str, teacher: str | None) -> Path:
    """Write the float16 weights, with their facts in the header, and the card; return the weights' path."""
    path, state = out / f"{run.name}.safetensors", halved(run.model)
    with Replacing(path) as temporary:
        save_file(state, temporary)
        scores = measure(run.name, temporary, val, device=run.device)
        recipe = asdict(run.recipe) | {"changes": run.changes}
        facts = {key: f"{value:.4f}" for key, value in scores.items()} | {"data": data}
        facts |= {"classes": json.dumps(bundled.CLASSES), "recipe": json.dumps(recipe)}
        save_file(state, temporary, metadata=facts | {"teacher": teacher or "none"})
        temporary.chmod(0o644)  # the writer keeps its files private
    console.log(f"{run.name}: {scores} on {len(val.images)} images; wrote {path}")
    text = card(run, path, scores=scores, images=len(val.images), data=data, teacher=teacher or "none")
    path.with_suffix(".md").write_text(text, encoding="utf-8")
    return path


def card(run: Run, weights: Path, *, scores: dict[str, float], images: int, data: str, teacher: str) -> str:
    """The model card, in Markdown; every number of it is from this run."""
    lines = [f"`{key}`: {value}" for key, value in asdict(run.recipe).items()] + run.changes
    return CARD.format(
        name=run.name,
        architecture=ARCHITECTURES[run.name],
        parameters=sum(p.numel() for p in run.model.parameters()),
        size=weights.stat().st_size / 1e6,
        images=images,
        data=data,
        teacher=teacher,
        wall=run.seconds / 60,
        cpu=run.cpu_seconds / 60,
        device="a GPU" if run.device.type == "cuda" else "a CPU",
        recipe="\n".join(f"- {line}" for line in lines),
        **scores,
    )
