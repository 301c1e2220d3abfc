"""From a spec and a recipe to a detector, and from a run folder back to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import FrozenBatchNorm2d

from compiler.drawing.boxes import draw_boxes
from compiler.driver import compile
from compiler.files import RESOLVED_SPEC
from compiler.interop.torchvision import POOLED_SIZE, build_detector
from compiler.training.recipes import load_recipe
from graphspec import NetworkSpec, load
from runtime.training.batches import Normalization
from runtime.training.coco import CocoDataset
from runtime.training.errors import StorageError
from runtime.training.processes import join
from runtime.training.recipe import DetectionRecipe


def detector(
    network: fx.GraphModule,
    spec: NetworkSpec,
    recipe: DetectionRecipe,
    num_classes: int,
    normalization: Normalization,
) -> FasterRCNN:
    """Faster R-CNN with a feature pyramid on the compiled network of `spec`, without its head.

    `num_classes` does not count the background. With `frozen_norm`, the network's batch norms
    are replaced by constants.
    """
    if recipe.frozen_norm:
        freeze_batch_norms(network)
    width = recipe.head_width
    return build_detector(
        spec,
        None,
        network=network,
        out_channels=recipe.fpn_channels,
        anchor_scale=recipe.anchor_scale,
        min_size=recipe.min_size,
        max_size=recipe.max_size,
        image_mean=list(normalization.mean),
        image_std=list(normalization.std),
        box_head=TwoMLPHead(recipe.fpn_channels * POOLED_SIZE**2, width),
        box_predictor=FastRCNNPredictor(width, num_classes + 1),
        box_batch_size_per_image=recipe.sampled_boxes,
        rpn_pre_nms_top_n_train=recipe.proposals,
        rpn_post_nms_top_n_train=recipe.proposals,
        rpn_pre_nms_top_n_test=recipe.test_proposals,
        rpn_post_nms_top_n_test=recipe.test_proposals,
    )


def freeze_batch_norms(network: nn.Module) -> None:
    """Replaces batch norms by the scale and shift that they are at inference, for good."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(module.num_features, module.eps)
            frozen.load_state_dict(module.state_dict())
            network.set_submodule(name, frozen)


def load_detector(folder: Path) -> FasterRCNN:
    """The trained detector of a run folder, in eval mode, on the CPU.

    It takes a list of images (C, H, W) in [0, 1], and returns boxes in their pixels, labels
    from 1 in the order of `classes` in `run.json`, and scores.

    Raises:
        StorageError: the folder has no readable detector.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    spec = load(folder / RESOLVED_SPEC)
    recipe = load_recipe(str(folder / "recipe.yaml")).detection
    try:
        manifest: dict[str, Any] = json.loads((folder / "run.json").read_text())
        if recipe is None:
            raise StorageError(f"{folder} holds no detector; it was trained to tell images apart")
        seen = manifest["normalization"]
        normalization = Normalization(seen["scale"], tuple(seen["mean"]), tuple(seen["std"]))
        network = compile(spec, device="cpu")
        model = detector(network, spec, recipe, len(manifest["classes"]), normalization)
        model.load_state_dict(load_file(folder / "weights.safetensors"))
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise StorageError(f"cannot read the detector in {folder}: {error}") from error
    return model.eval()


def picture_run(
    folder: Path,
    *,
    data: str | None = None,
    part: str | None = None,
    count: int = 4,
    device: str = "auto",
) -> list[Path]:
    """Draws what a run's detector finds in the first `count` images into `folder`/pictures.

    Raises:
        TrainingError: there is no detector, or the data cannot be used.
    """
    model = load_detector(folder)
    manifest: dict[str, Any] = json.loads((folder / "run.json").read_text())
    channels = len(manifest["normalization"]["mean"])
    dataset = CocoDataset(Path(data or manifest["data"]["name"]), channels, part or "val")
    processes = join(device)
    model.to(processes.device)
    pictures = folder / "pictures"
    pictures.mkdir(exist_ok=True)
    paths: list[Path] = []
    batches = dataset.testing(1, processes.device, 0)
    for image, (pixels, targets) in zip(dataset.test.images[:count], batches, strict=False):
        with torch.inference_mode():
            (found,) = model(pixels)
        path = pictures / f"{dataset.test.name}_{Path(image.path).stem}.png"
        draw_boxes(path, pixels[0].cpu(), dataset.classes, targets[0], found)
        paths.append(path)
    return paths
