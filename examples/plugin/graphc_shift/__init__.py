"""Blocks, wirings and passes for graphc. Imports nothing: wirings and passes need no torch."""
