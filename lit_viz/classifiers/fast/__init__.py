"""The private fast copy of a network: folding, fusion, kernels, chunking."""
