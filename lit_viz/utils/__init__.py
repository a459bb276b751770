"""Helpers that are independent of images and networks: tensors, files, ranks, formatting, the process."""
