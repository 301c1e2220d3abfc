"""The layers before the first stage, one kind a file; built like blocks. Any block is a stem."""
