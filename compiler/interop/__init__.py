"""graphc and the libraries that people use already: networks in theirs, and their blocks in ours.

`timm` and `torchvision` register compiled networks, when they are imported or called; `hub` saves
and loads them; the modules of blocks are the catalogue's.
"""
