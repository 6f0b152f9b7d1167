"""The built-in steps, one module per step. `agency_data_job/` builds (`links.py`) and runs (`chain.py`) them."""
