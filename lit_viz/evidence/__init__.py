"""Evidence beside every picture: what was claimed is asked again of somebody else."""
