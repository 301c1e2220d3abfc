"""Accuracy on a test set, and batch-norm statistics for another inference rule."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from runtime.training.batches import Batch
from runtime.training.processes import Processes

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def evaluate(model: nn.Module, batches: Iterable[Batch], processes: Processes) -> dict[str, float]:
    """Accuracy and mean cross-entropy over the batches of all processes; the mode is kept."""
    sums = torch.zeros(3, dtype=torch.float64)
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for images, labels in batches:
            logits: Tensor = model(images).float()
            loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
            correct = (logits.argmax(1) == labels).sum()
            sums += torch.tensor([float(correct), float(loss), len(labels)], dtype=torch.float64)
    model.train(was_training)
    correct, loss, total = processes.sum(sums.to(processes.device, _widest(processes))).tolist()
    return {"accuracy": correct / total, "loss": loss / total}


def _widest(processes: Processes) -> torch.dtype:
    return torch.float32 if processes.device.type == "mps" else torch.float64


def reestimate_batch_norm(model: nn.Module, batches: Iterable[Batch]) -> None:
    """Replaces running statistics by the plain average over `batches`, in inference mode.

    torch's `update_bn` would switch the whole network to training, and with it the weights
    of routed edges; here only the batch norms learn.
    """
    norms = [module for module in model.modules() if isinstance(module, BATCH_NORMS)]
    momenta = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    with torch.no_grad():
        for images, _ in batches:
            model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
