"""How fast sitq is, each figure beside the limit measured in the same run. `python -m benchmarks --list` names them."""
