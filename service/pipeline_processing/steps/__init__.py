"""The steps of a dataset's chain, one file a step. `chain.py` binds and runs them."""
