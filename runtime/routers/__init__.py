"""Predictors of edge weights, one kind a file: node output (B, C, H, W) to scores (B, T).

A router is built as `Router(in_channels, num_targets, bias_init=...)`; scores lie in (0, 1).
"""
