"""The built-in steps, one module per step. `agency_data_job/chain.py` builds and runs them."""
