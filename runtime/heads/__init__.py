"""The layers after the last stage, one kind a file: features (B, C, H, W) to logits (B, classes).

A head is built as `Head(in_channels, num_classes, **parameters)`.
"""
