"""Examples of sitq. `README.md` lists them."""
