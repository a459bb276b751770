"""Localization of objects by saliency maps."""
