"""The composition root: the only code that imports adapters. It wires up all components."""
