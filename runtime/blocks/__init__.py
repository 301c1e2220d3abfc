"""What a node computes, one kind a file; file name = YAML kind.

A block is built as `Block(in_channels, out_channels, stride, **parameters)`; its keyword-only
arguments are its YAML parameters. It must not change its input in place: other nodes read it.
Class attributes that the compiler reads, all optional:

- `keeps_channels`: it outputs as many channels as it receives, whatever the width.
- `divides`: parameter -> the channel counts it must divide.
- `strides`: the only strides it can take.
- `rounding`: "ceil" (the default) or "floor" of size / stride.
"""
